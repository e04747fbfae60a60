//! The keys that say what is made of a client's first bytes.

use super::{Default, NO_TEXTS, Section, TIME, Takes, row, text};

#[rustfmt::skip]
pub(in crate::config) const PREREAD: Section = Section {
    header: "[listener.preread]",
    rows: &[
        row("timeout", TIME, text("3s"),
            "For a PROXY header, after which the client is reset; and again for what routes and keys look \
            at, after which it goes where what is known leads"),
        row("size", Takes::Form("a size such as 16KiB, of 1KiB up to 64KiB"), text("16KiB"),
            "Bytes that routes and keys look at"),
    ],
};

#[rustfmt::skip]
pub(in crate::config) const ROUTE: Section = Section {
    header: "[[listener.route]]",
    rows: &[
        row("pool", Takes::Text, Default::Required,
            "The pool of clients that fit each list below that is not empty; the first route that fits \
            counts, and who fits none goes to the listener's pool"),
        row("source", Takes::Networks, NO_TEXTS, "Networks of clients"),
        row("sni", Takes::Texts("host names such as \"a.example\" or \"*.a.example\""), NO_TEXTS,
            "Servers that a client of TLS asks for; a star stands for one or more labels"),
        row("alpn", Takes::Texts("protocols such as \"h2\""), NO_TEXTS,
            "Application protocols of which a client of TLS offers one"),
        row("http_host", Takes::Texts("host names such as \"a.example\" or \"*.a.example\""), NO_TEXTS,
            "Hosts that the first request of a client of HTTP/1 names"),
        row("http_path", Takes::Texts("beginnings of paths such as \"/v1/\""), NO_TEXTS,
            "Beginnings of the path that it names, as it is written"),
        row("http_header", Takes::Texts("fields such as \"x-model: llama\""), NO_TEXTS,
            "Fields of which it has one, with all of this value; the first of a name counts"),
    ],
};
