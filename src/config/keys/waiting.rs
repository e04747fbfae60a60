//! The keys that say where clients stay and where they wait.

use super::{FALSE, LIMIT, MAX_ENTRIES, NO_TEXTS, Section, TIME, TRUE, Takes, row, text, whole};

#[rustfmt::skip]
pub(in crate::config) const STICKY: Section = Section {
    header: "[pool.NAME.sticky]",
    rows: &[
        row("key", Takes::Texts("parts of a key such as \"source_ip\", as in `hash_key`"), NO_TEXTS,
            "What a client is known by: it stays on the backend that `balance` has chosen for it first, as \
            long as that takes clients; [] = nobody stays"),
        row("ttl", TIME, text("10m"), "For how long after its last session or flow began"),
        row("max_entries", Takes::Whole(1, MAX_ENTRIES), whole(100_000),
            "Keys that are remembered; beyond them, the one that was used longest ago is forgotten"),
    ],
};

#[rustfmt::skip]
pub(in crate::config) const QUEUE: Section = Section {
    header: "[pool.NAME.queue]",
    rows: &[
        row("limit", LIMIT, whole(1024),
            "Clients of TCP that wait at most while every backend is at its `max_connections`; the first \
            to come is the first to go; 0 = none, they are refused at once"),
        row("timeout", TIME, text("120s"),
            "For how long a client waits before it is refused; anew where its backend fails to connect"),
        row("per_source", LIMIT, whole(0),
            "Of one source (an IPv4 address or an IPv6 network of 64 bits) that wait at most; 0 = any \
            number"),
        row("fair", Takes::Flag, FALSE,
            "Sources take turns, rather than all clients: one that sends many waits for itself"),
        row("abort_on_close", Takes::Flag, TRUE,
            "A client that has finished sending before its turn is taken for gone; false = it waits on, as \
            one may that only closes its own direction and wants the answer"),
    ],
};
