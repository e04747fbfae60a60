//! `evenkeel sessions`: who is open.

use super::text::{self, Cell, Look, row};
use super::{Process, Trouble};
use crate::control::admin::messages::{Session, Sessions};
use crate::service::cli::Sessions as Command;
use crate::service::exit::Exit;

/// Asks and shows.
pub(super) fn run(command: &Command) -> Result<Exit, Trouble> {
    let process = Process::of(&command.asks)?;
    let names = [("pool", &command.pool), ("backend", &command.backend)];
    let limit = command.limit.map(|limit| limit.to_string());
    let pairs = names.into_iter().chain([("limit", &limit)]);
    let pairs = pairs.filter_map(|(key, value)| Some((key, value.as_ref()?.as_str())));
    let answer = process.get(&text::query("/v1/sessions", pairs))?;
    if command.asks.json {
        answer.print()?;
    } else {
        text::print(&show(&answer.read()?, Look::of_stdout()))?;
    }
    Ok(Exit::Done)
}

fn show(answer: &Sessions, look: Look) -> String {
    let rows: Vec<Vec<Cell>> = answer.sessions.iter().map(row_of).collect();
    let head = [
        "LISTENER",
        "POOL",
        "BACKEND",
        "CLIENT",
        "AGE",
        "STATE",
        "TO BACKEND",
        "TO CLIENT",
    ];
    let table = look.table(&head, &rows);
    let left = answer.count.saturating_sub(rows.len());
    match left {
        0 => table,
        left => format!("{table}and {left} younger ones; --limit says how many are shown\n"),
    }
}

fn row_of(session: &Session) -> Vec<Cell> {
    let bytes = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), text::bytes);
    let client = session.client.map(|client| client.to_string());
    row![
        &session.listener,
        &session.pool,
        session.backend.as_deref().unwrap_or("-"),
        client.as_deref().unwrap_or("unix"),
        text::time(session.age_s),
        &session.state,
        bytes(session.bytes_to_backend),
        bytes(session.bytes_to_client),
    ]
}
