//! `evenkeel explain`: which backend a client would get, and why not the others.

use super::text::{self, Cell, Colour, Look, row};
use super::{Process, Trouble};
use crate::control::admin::messages::Explained;
use crate::service::cli::Explain;
use crate::service::exit::Exit;

/// Asks and shows.
pub(super) fn run(command: &Explain) -> Result<Exit, Trouble> {
    let source = command.source.to_string();
    let destination = command.destination.map(|address| address.to_string());
    let pairs = [("listener", command.listener.as_str()), ("source", &source)];
    let more = destination
        .as_deref()
        .map(|address| ("destination", address));
    let path = text::query("/v1/explain", pairs.into_iter().chain(more));
    let answer = Process::of(&command.asks)?.get(&path)?;
    if command.asks.json {
        answer.print()?;
    } else {
        text::print(&show(&answer.read()?, Look::of_stdout()))?;
    }
    Ok(Exit::Done)
}

fn show(explained: &Explained, look: Look) -> String {
    let Explained {
        listener,
        source,
        destination,
        pool,
        balance,
        because,
        ..
    } = explained;
    let backend = match &explained.backend {
        Some(backend) => format!("backend {backend}"),
        None => "no backend".to_owned(),
    };
    let rows: Vec<Vec<Cell>> = (explained.backends.iter())
        .map(|verdict| {
            let colour = match verdict.is_chosen {
                true => Colour::Good,
                false => Colour::Plain,
            };
            let mut row = row![&verdict.backend];
            row.push(Cell::coloured(&verdict.because, colour));
            row
        })
        .collect();
    format!(
        "{source} to {destination} by listener {listener}: pool {pool} ({balance})\n\
         {backend}: {because}\n\n{}",
        look.table(&["BACKEND", "WHY"], &rows)
    )
}
