//! Which backend? One algorithm per file; [`pick`] is the one entry.

mod bounded;
mod candidates;
pub mod client;
mod first;
pub mod key;
mod least;
mod maglev;
pub mod pick;
mod policy;
mod power_of_two;
mod random;
mod rendezvous;
mod round_robin;
pub mod route;
pub mod said;
