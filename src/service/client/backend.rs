//! `evenkeel backend`: orders for one backend, and waiting until it has drained.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::text::{self, json};
use super::view::Status;
use super::{Process, Trouble};
use crate::control::admin::messages::{Done, Order, Session, Sessions, What};
use crate::service::cli::Backend;
use crate::service::exit::Exit;

/// Gives the order, and waits if that is asked for.
pub(super) fn run(command: &Backend) -> Result<Exit, Trouble> {
    let process = Process::of(command.asks())?;
    let order = command.order();
    let answer = process.post("/v1/backend", json(&order))?;
    let wait = command.wait();
    if command.asks().json && wait.is_none() {
        answer.print()?;
    } else if !command.asks().json {
        let Done { message } = answer.read()?;
        text::print(&format!("{message}\n"))?;
    }
    let Some(wait) = wait else {
        return Ok(Exit::Done);
    };
    let mut drain = Drain {
        process,
        order,
        is_told: !command.asks().json,
        since: Instant::now(),
        reset: None,
    };
    drain.wait(wait.deadline)?;
    drain.tell_end()?;
    Ok(Exit::Done)
}

/// A backend whose sessions are waited for.
struct Drain {
    process: Process,
    order: Order,
    /// How many are left is told meanwhile.
    is_told: bool,
    since: Instant,
    /// How many were left at the deadline.
    reset: Option<u32>,
}

/// How it has ended, as JSON.
#[derive(Serialize)]
struct Drained<'a> {
    pool: &'a str,
    backend: &'a str,
    waited_s: f64,
    /// Sessions that did not end by themselves.
    reset: u32,
}

impl Drain {
    /// Until none is open. At the deadline those that are left are reset.
    fn wait(&mut self, deadline: Option<Duration>) -> Result<(), Trouble> {
        let mut told = None;
        loop {
            let left = self.left()?;
            if left == 0 {
                return Ok(());
            }
            if self.is_told && told != Some(left) {
                let oldest = self.oldest()?.map_or_else(String::new, |oldest| {
                    let client = oldest.client.map(|client| format!(" of {client}"));
                    let age = text::time(oldest.age_s);
                    format!(
                        "; the oldest{} has been open for {age}",
                        client.unwrap_or_default()
                    )
                });
                text::print(&format!("sessions left: {left}{oldest}\n"))?;
                told = Some(left);
            }
            let waited = self.since.elapsed();
            match deadline {
                Some(deadline) if waited >= deadline => self.cut(left, deadline)?,
                _ => {}
            }
            self.process.pause(LOOK_EVERY);
        }
    }

    /// Resets those that are left; a session that was being established in that moment is reset by
    /// the next call.
    fn cut(&mut self, left: u32, deadline: Duration) -> Result<(), Trouble> {
        if self.reset.is_none() {
            self.reset = Some(left);
        }
        if self.since.elapsed() > deadline + CUT_TIME {
            let error = format!("sessions open still, although they were reset: {left}");
            return Err(Trouble::Refused(error));
        }
        let what = What::Cut;
        let order = Order {
            what,
            ..self.order.clone()
        };
        self.process.post("/v1/backend", json(&order)).map(drop)
    }

    fn left(&self) -> Result<u32, Trouble> {
        let status: Status = self.process.get("/v1/status")?.read()?;
        let Order { pool, backend, .. } = &self.order;
        let backend = status.backend(pool, backend).ok_or_else(|| {
            Trouble::Refused(format!(
                "backend \"{pool}/{backend}\" has left the configuration meanwhile"
            ))
        })?;
        Ok(backend.open)
    }

    /// The one that has been open for longest.
    fn oldest(&self) -> Result<Option<Session>, Trouble> {
        let Order { pool, backend, .. } = &self.order;
        let pairs = [
            ("pool", pool.as_str()),
            ("backend", backend),
            ("limit", "1"),
        ];
        let path = text::query("/v1/sessions", pairs.into_iter());
        let Sessions { sessions, .. } = self.process.get(&path)?.read()?;
        Ok(sessions.into_iter().next())
    }

    fn tell_end(&self) -> Result<(), Trouble> {
        let waited_s = self.since.elapsed().as_secs_f64();
        let reset = self.reset.unwrap_or(0);
        if !self.is_told {
            let drained = Drained {
                pool: &self.order.pool,
                backend: &self.order.backend,
                waited_s,
                reset,
            };
            return text::print(&(json(&drained) + "\n"));
        }
        text::print(&format!(
            "no session left after {}; reset: {reset}\n",
            text::time(waited_s)
        ))
    }
}

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long a reset may take.
const CUT_TIME: Duration = Duration::from_secs(10);
