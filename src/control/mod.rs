//! Floor 3: slow work on a current-thread tokio runtime. It may wait and allocate.

mod access_log;
pub mod admin;
mod aside;
mod capacity;
mod discovery;
mod ejection;
pub mod handle;
mod http;
pub mod loader;
mod prober;
mod reload;
pub mod sandbox;
mod socket_file;
mod sockets;
mod sources;
pub mod status;
pub mod supervisor;
mod trust;
