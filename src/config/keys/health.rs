//! The keys of active probes and of what traffic says of backends.

use super::{Default, Section, Takes, Value, row, text, whole, word};
use super::{MAX_STREAK, TIME, TRUE};

const STREAK: Takes = Takes::Whole(1, MAX_STREAK);
const BYTES: Takes = Takes::Form("a text, or hex: and pairs of hexadecimal digits");
const EXPECTED: Takes =
    Takes::Form("a text, hex: and pairs of hexadecimal digits, or regex: and a regular expression");

#[rustfmt::skip]
pub(in crate::config) const HEALTH: Section = Section {
    header: "[pool.NAME.health]",
    rows: &[
        row("type", word(
                &["tcp", "send_expect", "http", "https", "grpc", "tls", "udp", "exec", "none"]),
            Default::Told("tcp; none for a pool that serves UDP only"),
            "A connect that must succeed; a dialog on a connection; a request of HTTP/1.1, by TLS \
            or not, that must be answered well; a request to the health service of gRPC (grpc.health.v1), \
            by cleartext HTTP/2, that must be answered with SERVING; a handshake of TLS; a \
            datagram that the network must not refuse (ICMP unreachable); a program that must exit \
            with 0; or none: every backend counts as up"),
        row("path", Takes::Form("a path that begins with /, with a query or without"), text("/"),
            "For types http and https: what is asked for, by GET"),
        row("host", Takes::Form("HOST, HOST:PORT or an empty string"), text(""),
            "For types http and https: the header Host; empty = the host of the backend's \
            address, or `address`, and the port that is probed"),
        row("expect", Takes::Statuses, Default::Is(Value::Wholes(&[200])),
            "For types http and https: the statuses that pass"),
        row("body", Takes::Form("a regular expression"), text(""),
            "For types http and https: what some part of the body's first 64 KiB must match; \
            empty = nothing, and the body is not waited for"),
        row("send", BYTES, text(""),
            "For type send_expect: what is sent first; empty = nothing. For type udp: the datagram; \
            empty = one without a byte"),
        row("expect_bytes", EXPECTED, text(""),
            "For types send_expect and udp: what the answer must begin with, or what some part of its \
            first 64 KiB must match. For udp it may be empty: any answer passes then, and so does \
            silence for the whole timeout"),
        row("steps", Takes::Form("a list of { send = …, expect_bytes = … }"),
            Default::Is(Value::Texts(&[])),
            "For type send_expect, in place of these two: several steps, one after the other. What \
            came before a step sends is not looked at any more"),
        row("grpc_service", Takes::Text, text(""),
            "For type grpc: the service that must be serving; empty = the server as a whole"),
        row("tls_server_name", Takes::Form("a name or an IP address"), text(""),
            "For types https and tls: what the certificate must be for, and the SNI; empty = the host \
            of the backend's address"),
        row("tls_verify", Takes::Flag, TRUE,
            "For types https and tls: look whether the certificate is for that name, is in force and \
            was issued by an authority. One that ends within 14 days is told of in the log, once a day"),
        row("tls_ca", Takes::Text, text(""),
            "For types https and tls: a PEM file with the certificates of authorities, read at each \
            load; empty = those that the system trusts"),
        row("command", Takes::Form("a list of a program's path and its arguments"),
            Default::Told("none"),
            "For type exec, and with `exec_probes` in [global] only: it runs without a shell, in a \
            process group of its own that is killed at the time-out; its output goes nowhere. In its \
            environment are EVENKEEL_POOL, EVENKEEL_BACKEND, EVENKEEL_HOST, EVENKEEL_ADDRESS (IP or \
            path), EVENKEEL_PORT and a PATH; its user and its limits are those of Evenkeel"),
        row("interval", TIME, text("2s"), "Between probes of one backend"),
        row("fast_interval", TIME, text("500ms"),
            "The same while its state is changing; by default never above interval"),
        row("down_interval", TIME, text("5s"), "The same while it is down"),
        row("timeout", TIME, text("1s"), "For one probe; by default never above interval"),
        row("rise", STREAK, whole(2), "Successes in a row that bring a backend up"),
        row("fall", STREAK, whole(3), "Failures in a row that take it down"),
        row("address", Takes::Form("an IP address or an empty string"), text(""),
            "Address to probe, the same for all backends of the pool; empty = the backend's own"),
        row("port", Takes::Whole(0, 65_535), whole(0), "Port to probe; 0 = the backend's own"),
        row("initial", word(&["up", "down"]), text("up"), "State before the first result"),
        row("progress_is_alive", Takes::Flag, TRUE,
            "A probe that times out says nothing about a backend that has sent bytes to a client since \
            it began: it is busy, not dead. One that is refused, or answered wrongly, counts"),
    ],
};

#[rustfmt::skip]
pub(in crate::config) const OUTLIER: Section = Section {
    header: "[pool.NAME.outlier]",
    rows: &[
        row("consecutive_failures", Takes::Whole(0, MAX_STREAK), whole(5),
            "Failures of traffic in a row that eject a backend: connects that fail, resets before its \
            first byte while the client waits, and for datagrams refusals by the network (ICMP \
            unreachable). A byte from it ends the row, and so does the time below. 0 = never"),
        row("eject_time", TIME, text("30s"),
            "How long it then gets no new sessions; twice as long the second time, and so on up to ten \
            times. Each such time without an ejection takes one of them off again. Coming up after \
            probes have taken it down ends an ejection; a probe that passes does not"),
        row("max_ejected", Takes::Share, Default::Is(Value::Fraction(0.5)),
            "The share of the pool's backends that may be ejected at once, be it less than one. The last \
            one that is well never is. 0.0 = none"),
    ],
};

#[rustfmt::skip]
pub(in crate::config) const STEP: Section = Section {
    header: "a step",
    rows: &[
        row("send", BYTES, text(""), "What is sent"),
        row("expect_bytes", EXPECTED, text(""), "What must come back"),
    ],
};
