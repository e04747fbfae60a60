//! Datagrams: conformance F.

mod data;
mod faults;
mod flows;
mod reloading;
