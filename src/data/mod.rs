//! Floor 2: the packet path. One thread per worker, which owns everything it touches.

pub mod mailbox;
pub mod worker;
