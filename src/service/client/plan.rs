//! `evenkeel plan`: what a reload to a file would change, and how many keys it would move.

use super::text::{self, Cell, Colour, Look, row};
use super::{Process, Trouble};
use crate::config;
use crate::control::admin::messages::Planned;
use crate::service::cli::Plan;
use crate::service::exit::Exit;

/// Asks and shows; fails where more keys would move than may, or a reload would be refused.
pub(super) fn run(command: &Plan) -> Result<Exit, Trouble> {
    let name = command.file.display().to_string();
    let text = std::fs::read(&command.file)
        .map_err(|error| Trouble::Invalid(format!("{name}: {error}")))?;
    if let Err(errors) = config::load_bytes(&text, &name) {
        return Err(Trouble::Invalid(errors.to_string()));
    }
    let path = text::query("/v1/plan", [("name", name.as_str())].into_iter());
    let answer = Process::of(&command.asks)?.post(&path, text)?;
    let planned: Planned = answer.read()?;
    if command.asks.json {
        answer.print()?;
    } else {
        text::print(&show(&planned, Look::of_stdout()))?;
    }
    let most = planned
        .moved
        .iter()
        .map(|moved| moved.share)
        .fold(0.0, f64::max);
    let is_too_much = command.max_moved.is_some_and(|max| most > max);
    if is_too_much && !command.asks.json {
        eprintln!(
            "{:.1}% of the keys of a pool would move, which is too much",
            100.0 * most
        );
    }
    Ok(if is_too_much || planned.needs_restart {
        Exit::Failed
    } else {
        Exit::Done
    })
}

fn show(planned: &Planned, look: Look) -> String {
    let mut text = format!("{}\n", planned.summary);
    if !planned.changes.is_empty() {
        let rows: Vec<Vec<Cell>> = (planned.changes.iter())
            .map(|change| {
                let colour = match change.needs_restart {
                    true => Colour::Bad,
                    false => Colour::Plain,
                };
                let mut row = row![change.sessions];
                row.push(Cell::coloured(&change.what, colour));
                row
            })
            .collect();
        text += &format!("\n{}", look.table(&["SESSIONS", "CHANGE"], &rows));
    }
    if !planned.moved.is_empty() {
        let rows: Vec<Vec<Cell>> = (planned.moved.iter())
            .map(|moved| row![format!("{:.1}%", 100.0 * moved.share), &moved.pool])
            .collect();
        text += &format!("\n{}", look.table(&["KEYS MOVED", "POOL"], &rows));
    }
    if planned.needs_restart {
        text += "\na reload would be refused: some of that takes a restart\n";
    }
    text
}
