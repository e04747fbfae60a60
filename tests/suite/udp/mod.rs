//! Datagrams: conformance F.

mod data;
mod faults;
mod flood;
mod flows;
mod reloading;
