//! What is asked of clients by their address holds for those that have one.

use std::collections::HashMap;

use crate::config::error::{Problems, Wrong};
use crate::config::key_part::said_word;
use crate::config::keys::quoted;
use crate::config::model::{Listener, Model, Pool};
use crate::config::plan::Bind;
use crate::lb::balance::key::{KeyPart, Part};
use crate::wire::proxy_header::parse::Versions;

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

/// What a key asks for can be had from the clients of each listener that leads to its pool.
pub(super) fn check_keys(model: &Model, problems: &Problems) {
    let asks = |pool: &Pool| {
        let parts = pool.hash_key.value.iter().chain(&pool.sticky.key);
        let said = parts.filter_map(|part| match &part.value {
            KeyPart::Said(said) => Some((part.at, said.clone())),
            _ => None,
        });
        said.collect::<Vec<_>>()
    };
    let pools = model
        .pools
        .iter()
        .map(|pool| (pool.name.value.as_str(), asks(pool)));
    let mut pools: HashMap<&str, Vec<(usize, Part)>> = pools.collect();
    pools.retain(|_, asked| !asked.is_empty());
    for listener in &model.listeners {
        for (at, part) in listener
            .pools()
            .filter_map(|pool| pools.get(pool.value.as_str()))
            .flatten()
        {
            let has_extensions = matches!(
                listener.accept_proxy.value,
                Some(Versions::V2 | Versions::Any)
            );
            let size = listener.preread.size;
            let (what, cure) = match part {
                _ if listener.is_udp() => ("datagrams have none", "use parts of addresses"),
                Part::ProxyTlv(_) if !has_extensions => (
                    "none comes without a PROXY header",
                    "set `accept_proxy` of the listener to \"v2\" or \"any\"",
                ),
                Part::FirstBytes(count) if usize::from(*count) > size => (
                    "fewer bytes are looked at",
                    "ask for fewer, or raise `preread.size` of the listener",
                ),
                _ => continue,
            };
            let name = listener.name.as_ref().map_or("", |name| &name.value);
            let what = format!(
                "{} of clients of listener {}: {what}",
                said_word(part),
                quoted(name)
            );
            problems.value(*at, Wrong::new(what, cure));
        }
    }
}
