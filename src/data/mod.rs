//! Floor 2: the packet path. One thread per worker, which owns everything it touches.

mod access_log;
mod arrivals;
mod carry;
mod counters;
mod dial;
mod entry;
mod fate;
mod flush;
mod kit;
mod listen;
mod listing;
pub mod mailbox;
mod pipes;
mod preread;
mod queue;
mod refuse;
mod request;
mod sticky;
mod stream;
mod tally;
mod tcp;
mod token;
mod udp;
pub mod worker;

pub use pipes::PIPES_PER_WORKER;
