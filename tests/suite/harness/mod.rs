//! What every case uses: the proxy as a process, the two ends of its sessions as plain sockets, and
//! waiting for a condition with a deadline.
//!
//! Rules of a case: port 0, no fixed time, a seed that is printed, and [`Proxy::finish`] at its end,
//! which looks at the process as a whole.

pub mod admin;
pub mod axis;
pub mod backend;
pub mod browser;
pub mod clients;
pub mod command;
pub mod config;
pub mod faults;
pub mod http;
pub mod log;
pub mod names;
pub mod namespace;
pub mod payload;
pub mod process;
pub mod program;
pub mod proxy;
pub mod proxy_protocol;
pub mod scale;
pub mod stream;
pub mod tamper;
pub mod udp;
pub mod wait;

pub use axis::{Axis, Family, on_every_axis};
pub use backend::{Listening, Served, Tagged};
pub use command::evenkeel;
pub use config::Config;
pub use namespace::in_namespace;
pub use payload::{Payload, Rng};
pub use proxy::{NAME as EVENKEEL, Proxy};
pub use stream::{End, connect, connect_from, ping, read_all, refused, reset, served, try_served};
pub use wait::{DEADLINE, until};
