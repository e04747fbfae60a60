//! Datagrams: conformance F.

mod data;
mod dns;
mod faults;
mod flood;
mod flows;
mod migration;
mod quic;
mod probes;
mod reloading;
