//! The keys that say where backends are found.

use super::{Default, Section, TRUE, Takes, row, text};

#[rustfmt::skip]
pub(in crate::config) const DISCOVER: Section = Section {
    header: "[pool.NAME.discover]",
    rows: &[
        row("dns", Takes::Form("HOST:PORT, srv:NAME such as \"srv:_http._tcp.example\", or \"\""),
            text(""),
            "Backends are all addresses of the host, or all servers of the service, with its weights and \
            its priorities, of which the first is used and the others are backups; asked again when the \
            answer expires"),
        row("resolver", Takes::Form("IP:PORT, or \"\""), text(""),
            "The name server that is asked; empty = those of the system"),
        row("file", Takes::Form("an absolute path, or \"\""), text(""),
            "A file with a [[backend]] for each, with the keys of [[pool.NAME.backend]] except \
            `server_id`; read again when it changes"),
        row("keep_last", Takes::Flag, TRUE,
            "An answer without a backend is taken for a fault, and the last one that had some holds on; \
            false = it is believed"),
    ],
};

#[rustfmt::skip]
pub(in crate::config) const FOUND: Section = Section {
    header: "a file of backends",
    rows: &[
        row("backend", Takes::Table, Default::Told("none"), "Backends"),
    ],
};
