//! The keys of the flows of a pool.

use super::{Default, LIMIT, Section, TIME, Takes, row, text, whole, word};
use crate::wire::quic::SERVER_ID_MAX;

/// More answers or requests than this are counted by time, not by number.
const MAX_PER_FLOW: u64 = 1_000_000;
/// A limit above this would let most of what is known of abused services pass.
const MAX_AMPLIFICATION: u64 = 1_000;

#[rustfmt::skip]
pub(in crate::config) const UDP: Section = Section {
    header: "[pool.NAME.udp]",
    rows: &[
        row("session", word(&["oneway", "oneshot", "dialog", "quic"]), text("dialog"),
            "What a flow is like: no answers; an answer to each request; answers at any time; QUIC"),
        row("idle_timeout", TIME, Default::Told("10s for oneway and oneshot, 30s for dialog, 2m for quic"),
            "Silence that ends a flow; 5s at most until the first answer"),
        row("responses", Takes::Whole(0, MAX_PER_FLOW), Default::Told("1 for oneshot, else 0"),
            "Answers to each request, with the last of which a flow is over; 0 = by time"),
        row("requests", Takes::Whole(0, MAX_PER_FLOW), whole(0),
            "Datagrams of a client after which it gets a new flow; 0 = any number"),
        row("max_flows", LIMIT, whole(65_536),
            "Flows of a listener at once; more are not begun; 0 = the global limit"),
        row("new_flows_per_second", LIMIT, whole(0), "Flows a listener begins; 0 = any number"),
        row("amplification_limit", Takes::Whole(0, MAX_AMPLIFICATION), whole(0),
            "Bytes of answers, at most, to each byte that the client of a flow has sent in it, as long as \
            the flow lives, since a client's address is never proven; what goes beyond is dropped, honest \
            or not; 0 = any number"),
        row("quic_server_id_length", Takes::Whole(0, SERVER_ID_MAX as u64), whole(0),
            "Bytes of a server's id in QUIC-LB plaintext connection IDs, by which a new flow finds the \
            `server_id` that it belongs to; 0 = connection IDs are not looked at"),
    ],
};
