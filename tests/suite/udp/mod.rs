//! Datagrams: conformance F.

mod amplification;
mod data;
mod dns;
mod faults;
mod flood;
mod flows;
mod migration;
mod probes;
mod proxy_header;
mod quic;
mod reloading;
