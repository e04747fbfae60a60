//! Processes that we start.

use std::io;

use rustix::process::{Pid, Signal, kill_process_group};

/// Kills the group that process `id` leads, which must not have been waited for: until then nobody
/// else has its number.
pub fn kill_group(id: u32) -> io::Result<()> {
    let leader = i32::try_from(id).ok().and_then(Pid::from_raw);
    let leader = leader.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process_group(leader, Signal::KILL)?)
}
