//! `evenkeel status`: how everything is now.

use super::text::{self, Cell, Colour, Look, row};
use super::view::{Backend, Pool, Status};
use super::{Process, Trouble};
use crate::service::cli::Asks;
use crate::service::exit::Exit;

/// Asks and shows.
pub(super) fn run(asks: &Asks) -> Result<Exit, Trouble> {
    let answer = Process::of(asks)?.get("/v1/status")?;
    if asks.json {
        answer.print()?;
    } else {
        text::print(&show(&answer.read()?, Look::of_stdout()))?;
    }
    Ok(Exit::Done)
}

fn show(status: &Status, look: Look) -> String {
    [
        head(status),
        listeners(status, look),
        backends(status, look),
        queues(status, look),
    ]
    .join("\n")
}

fn head(status: &Status) -> String {
    let Status {
        version,
        pid,
        generation,
        state,
        connections,
        reloads,
        ..
    } = status;
    let of = match connections.max {
        0 => String::new(),
        max => format!(" of {max}"),
    };
    let workers: Vec<String> = (status.workers.iter())
        .map(|worker| worker.sessions.to_string())
        .collect();
    let mut text = format!(
        "evenkeel {version}, process {pid}: {state} for {}, generation {generation}\n\
         {} open{of}, {} waiting; of each worker: {}\n",
        text::time(status.uptime_s),
        connections.open,
        connections.waiting,
        workers.join(", "),
    );
    if let Some(last) = &reloads.last {
        let (succeeded, failed) = (reloads.succeeded, reloads.failed);
        text += &format!("reloads: {succeeded} succeeded, {failed} failed; last: {last}\n");
    }
    text
}

fn listeners(status: &Status, look: Look) -> String {
    let rows: Vec<Vec<Cell>> = (status.listeners.iter())
        .map(|listener| {
            let dropped: u64 = listener.dropped.values().sum();
            row![
                &listener.name,
                &listener.protocol,
                listener.bind.join(" "),
                &listener.pool,
                listener.open,
                listener.accepted,
                listener.refused,
                dropped,
            ]
        })
        .collect();
    let head = [
        "LISTENER", "PROTOCOL", "ADDRESS", "POOL", "OPEN", "ACCEPTED", "REFUSED", "DROPPED",
    ];
    look.table(&head, &rows)
}

fn backends(status: &Status, look: Look) -> String {
    let of_pool = |pool: &Pool| -> Vec<Vec<Cell>> {
        let backends = pool.backends.iter();
        backends.map(|backend| row_of(pool, backend)).collect()
    };
    let rows: Vec<Vec<Cell>> = status.pools.iter().flat_map(of_pool).collect();
    let head = [
        "POOL",
        "BACKEND",
        "ADDRESS",
        "STATE",
        "FOR",
        "OPEN",
        "LIMIT",
        "WEIGHT",
        "SESSIONS",
        "FAILURES",
        "TO BACKEND",
        "TO CLIENT",
        "LAST PROBE",
    ];
    look.table(&head, &rows)
}

fn row_of(pool: &Pool, backend: &Backend) -> Vec<Cell> {
    let weight = if backend.weight == backend.weight_configured {
        backend.weight.to_string()
    } else {
        format!("{} (not {})", backend.weight, backend.weight_configured)
    };
    let limit = match backend.max_connections {
        0 => "none".to_owned(),
        limit => limit.to_string(),
    };
    let probe = backend.last_probe.as_ref();
    let mut row = row![&pool.name, &backend.name, &backend.address];
    row.push(state(&backend.state));
    row.extend(row![
        text::time(backend.ejected_for_s.unwrap_or(backend.since_s)),
        backend.open,
        limit,
        weight,
        backend.sessions,
        backend.connect_failures,
        text::bytes(backend.bytes_to_backend),
        text::bytes(backend.bytes_to_client),
        probe.map_or("none", |probe| probe.text.as_str()),
    ]);
    row
}

/// A state in its colour.
fn state(state: &str) -> Cell {
    let colour = match state {
        "up" => Colour::Good,
        "draining" | "disabled" => Colour::Doubtful,
        _ => Colour::Bad,
    };
    Cell::coloured(state, colour)
}

fn queues(status: &Status, look: Look) -> String {
    let rows: Vec<Vec<Cell>> = (status.pools.iter())
        .map(|pool| {
            let left: Vec<String> = (pool.queue.left.iter())
                .filter(|(_, count)| **count > 0)
                .map(|(what, count)| format!("{count} {what}"))
                .collect();
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            let oldest_s = pool.queue.oldest_ms as f64 / 1000.0;
            row![
                &pool.name,
                &pool.balance,
                if pool.is_in_panic { "yes" } else { "no" },
                format!("{} of {}", pool.queue.length, pool.queue.limit),
                text::time(oldest_s),
                left.join(", "),
            ]
        })
        .collect();
    let head = [
        "POOL",
        "BALANCE",
        "PANIC",
        "WAITING",
        "LONGEST",
        "HAVE WAITED",
    ];
    look.table(&head, &rows)
}
