//! What is asked of clients by their address holds for those that have one.

use crate::config::error::{Problems, Wrong};
use crate::config::model::Listener;
use crate::config::plan::Bind;

/// No listener that looks at the addresses of its clients has a Unix socket.
pub(super) fn check_clients(listeners: &[Listener], problems: &Problems) {
    for listener in listeners {
        let asks = [
            ("allow", !listener.allow.is_empty()),
            ("deny", !listener.deny.is_empty()),
            ("max_connections_per_source", listener.per_source.open != 0),
            ("trusted", !listener.trusted.is_empty()),
            (
                "connection_rate_per_source",
                listener.per_source.pace.is_some(),
            ),
        ];
        let Some((key, _)) = asks.into_iter().find(|(_, is_set)| *is_set) else {
            continue;
        };
        let binds = listener.bind.iter().flatten();
        for bind in binds.filter(|bind| matches!(bind.value, Bind::Unix(_))) {
            let what = format!("{} has no addresses of clients for `{key}`", bind.value);
            problems.value(bind.at, Wrong::new(what, "put it in a listener of its own"));
        }
    }
}

/// What streams alone begin with is looked for in streams alone.
pub(super) fn check_first_bytes(listeners: &[Listener], problems: &Problems) {
    for listener in listeners.iter().filter(|listener| listener.is_udp()) {
        let wrong = |at, key| {
            let what = format!("`{key}` is for protocol tcp");
            problems.value(at, Wrong::new(what, "remove it"));
        };
        if listener.accept_proxy.value.is_some() {
            wrong(listener.accept_proxy.at, "accept_proxy");
        }
        if let Some(route) = listener.routes.first() {
            wrong(route.at, "route");
        }
    }
}
