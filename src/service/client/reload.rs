//! `evenkeel reload`: as SIGHUP, but it waits and says how that has ended.

use super::text;
use super::{Process, Trouble};
use crate::control::admin::messages::Done;
use crate::service::cli::Asks;
use crate::service::exit::Exit;

/// Asks and waits.
pub(super) fn run(asks: &Asks) -> Result<Exit, Trouble> {
    let answer = Process::of(asks)?.post("/v1/reload", "")?;
    if asks.json {
        answer.print()?;
    } else {
        let Done { message } = answer.read()?;
        text::print(&format!("{message}\n"))?;
    }
    Ok(Exit::Done)
}
