//! From what was written to what runs: names are resolved, contradictions are errors, defaults
//! that depend on other settings are filled in. Every lookup is by hash, so that thousands of
//! listeners and backends take no longer than it takes to read them.

pub(super) mod backends;
mod clients;
mod datagrams;
mod health;
mod sources;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::error::{Problems, Wrong};
use super::keys::{nearest, quoted};
use super::model::{self, Model};
use super::plan::{Address, Bind, Listener, Plan, Pool, Route, Sticky};
use super::reader::Written;
use crate::lb::balance::pick::{Policy, Settings};

/// Makes the plan of `model`; `None` if anything is wrong, now or before, and reported.
pub(super) fn check(model: Model, problems: &Problems) -> Option<Plan> {
    check_present(&model, problems);
    check_listeners(&model, problems);
    check_binds(&model.listeners, problems);
    for pool in &model.pools {
        check_limits(pool, problems);
        check_balance(pool, problems);
        health::check(pool, model.global.exec_probes, problems);
        backends::check(pool, problems);
        check_server_ids(pool, problems);
        datagrams::check_amplification(pool, problems);
    }
    check_loops(&model, false, problems);
    check_loops(&model, true, problems);
    datagrams::check_addresses(&model, problems);
    datagrams::check_send_proxy(&model, problems);
    sources::check_sources(&model, problems);
    clients::check_clients(&model.listeners, problems);
    clients::check_first_bytes(&model.listeners, problems);
    clients::check_keys(&model, problems);
    if problems.any() {
        return None;
    }
    let listeners = model
        .listeners
        .into_iter()
        .map(|listener| plan_listener(listener).map(Arc::new));
    let listeners = listeners.collect::<Option<Vec<_>>>()?;
    let takes_streams: HashSet<&str> = listeners
        .iter()
        .filter(|listener| !listener.is_udp())
        .flat_map(|listener| listener.pools())
        .collect();
    let pools = model.pools.into_iter().map(|pool| {
        let is_udp_only = !takes_streams.contains(pool.name.value.as_str());
        plan_pool(pool, is_udp_only).map(Arc::new)
    });
    Some(Plan {
        global: model.global,
        pools: pools.collect::<Option<_>>()?,
        listeners,
    })
}

fn check_present(model: &Model, problems: &Problems) {
    if model.listeners.is_empty() {
        problems.missing(0, Wrong::new("there is no listener", "add a [[listener]]"));
    }
    if model.pools.is_empty() {
        let cure = "add a [pool.NAME] with a [[pool.NAME.backend]]";
        problems.missing(0, Wrong::new("there is no pool", cure));
    }
}

/// Names are unique, pools exist, and each pool is used.
fn check_listeners(model: &Model, problems: &Problems) {
    let names = model
        .listeners
        .iter()
        .filter_map(|listener| listener.name.as_ref());
    check_unique(names, problems, |name| {
        format!("another listener is named {}", quoted(name))
    });
    let pools: HashSet<&str> = model
        .pools
        .iter()
        .map(|pool| pool.name.value.as_str())
        .collect();
    let mut used = HashSet::new();
    let mut any_unknown = false;
    for pool in model.listeners.iter().flat_map(model::Listener::pools) {
        if pools.contains(pool.value.as_str()) {
            used.insert(pool.value.as_str());
            continue;
        }
        any_unknown = true;
        // Likeness is only computed where it costs little: this runs once per listener.
        const COMPARED: usize = 100;
        let candidates = model
            .pools
            .iter()
            .take(COMPARED)
            .map(|pool| pool.name.value.as_str());
        let cure = match nearest(&pool.value, candidates) {
            Some(near) => format!("did you mean {near:?}?"),
            None => "name one of the pools, or add it".to_owned(),
        };
        let what = format!("there is no pool {}", quoted(&pool.value));
        problems.value(pool.at, Wrong::new(what, cure));
    }
    let incomplete = model.listeners.iter().any(|listener| {
        let mut routes = listener.routes.iter();
        listener.pool.is_none() || routes.any(|route| route.pool.is_none())
    });
    if any_unknown || incomplete {
        return; // an unused pool may be the one that was meant
    }
    for pool in model
        .pools
        .iter()
        .filter(|pool| !used.contains(pool.name.value.as_str()))
    {
        let what = format!("no listener uses pool {}", quoted(&pool.name.value));
        problems.value(
            pool.name.at,
            Wrong::new(what, "name it in a listener, or remove it"),
        );
    }
}

fn check_unique<'a, T: Eq + std::hash::Hash + 'a>(
    values: impl Iterator<Item = &'a Written<T>>,
    problems: &Problems,
    what: impl Fn(&T) -> String,
) {
    let mut seen = HashSet::new();
    for written in values {
        if !seen.insert(&written.value) {
            problems.value(
                written.at,
                Wrong::new(what(&written.value), "change or remove one"),
            );
        }
    }
}

/// No address is bound twice, be it through a wildcard.
fn check_binds(listeners: &[model::Listener], problems: &Problems) {
    let binds = || {
        listeners
            .iter()
            .filter_map(|listener| listener.bind.as_ref())
            .flatten()
    };
    let fixed = binds().filter(|bind| bind.value.address().is_none_or(|at| at.port() != 0));
    check_unique(fixed, problems, |bind| format!("{bind} is bound already"));
    // Streams and datagrams do not meet, whatever their ports.
    let port = |bind: &Bind, at: SocketAddr| (matches!(bind, Bind::Udp(_)), at.port());
    let mut wildcards = HashMap::<(bool, u16), (bool, bool)>::new();
    for bind in binds() {
        if let Some(address) = bind.value.address()
            && address.ip().is_unspecified()
        {
            let (v4, v6) = wildcards.entry(port(&bind.value, address)).or_default();
            *(if address.is_ipv4() { v4 } else { v6 }) = true;
        }
    }
    for bind in binds() {
        let Some(address) = bind.value.address() else {
            continue;
        };
        if address.ip().is_unspecified() || address.port() == 0 {
            continue; // the two wildcards share a port: IPv6 then takes IPv6 only
        }
        let wildcards = wildcards.get(&port(&bind.value, address));
        let (v4, v6) = wildcards.copied().unwrap_or_default();
        let wildcard = match address {
            SocketAddr::V4(_) if v4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            _ if v6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED), // which alone takes IPv4 too
            _ => continue,
        };
        let wildcard = SocketAddr::new(wildcard, address.port());
        let what = format!("{address} is bound already, as part of {wildcard}");
        problems.value(bind.at, Wrong::new(what, "remove one, or use another port"));
    }
}

fn check_balance(pool: &model::Pool, problems: &Problems) {
    let hashes = matches!(pool.policy, Policy::Hash | Policy::Rendezvous);
    let cure = "remove it, or set balance to \"hash\" or \"rendezvous\"";
    if !hashes && pool.load_factor.value != 0.0 {
        let what = "`load_factor` bounds only hash and rendezvous";
        problems.value(pool.load_factor.at, Wrong::new(what, cure));
    }
    if !hashes && pool.hash_key.given {
        let what = "`hash_key` is used only by hash and rendezvous";
        problems.value(pool.hash_key.at, Wrong::new(what, cure));
    }
    let mut seen = Vec::new();
    for part in &pool.hash_key.value {
        if seen.contains(&&part.value) {
            let what = "this part of the hash key is there already";
            problems.value(part.at, Wrong::new(what, "remove one"));
        } else {
            seen.push(&part.value);
        }
    }
}

fn check_limits(pool: &model::Pool, problems: &Problems) {
    let (soft, most) = (&pool.soft_connections, pool.max_connections);
    if most != 0 && soft.value > most {
        let what = format!(
            "`soft_connections` is {}, and no backend has more than {most} by `max_connections`",
            soft.value
        );
        let cure = "write less than `max_connections`";
        problems.value(soft.at, Wrong::new(what, cure));
    }
}

/// Ids are as long as the pool says, and tell its backends apart.
fn check_server_ids(pool: &model::Pool, problems: &Problems) {
    let ids = || (pool.backends.iter()).filter_map(|backend| backend.server_id.as_ref());
    check_unique(ids(), problems, |id| {
        let pool = quoted(&pool.name.value);
        format!("another backend of pool {pool} has the server id {id}")
    });
    let length = usize::from(pool.udp.quic_server_id_length);
    for id in ids().filter(|id| id.value.bytes().len() != length) {
        let (own, pool) = (id.value.bytes().len(), &pool.name.value);
        let what = format!("`server_id` has {own} bytes, `quic_server_id_length` is {length}");
        let cure = format!("set quic_server_id_length = {own} in [pool.{pool}.udp]");
        problems.value(id.at, Wrong::new(what, cure));
    }
}

/// A backend that is a listener of ours.
struct Hop<'a> {
    address: &'a Written<Address>,
    listener: &'a Written<String>,
    /// That listener's pool.
    pool: &'a str,
}

/// No connection comes back to where it began, be it by way of other listeners, and no datagram.
fn check_loops(model: &Model, is_udp: bool, problems: &Problems) {
    let mut ours = HashMap::new();
    for listener in &model.listeners {
        let Some(name) = &listener.name else {
            continue;
        };
        let binds = listener.bind.iter().flatten();
        for bind in binds.filter(|bind| matches!(bind.value, Bind::Udp(_)) == is_udp) {
            for own in own_addresses(&bind.value) {
                ours.insert(own, (name, listener));
            }
        }
    }
    let hops: HashMap<&str, Vec<Hop<'_>>> = model
        .pools
        .iter()
        .map(|pool| (pool.name.value.as_str(), hops(pool, &ours)))
        .collect();
    for pool in &model.pools {
        let start = pool.name.value.as_str();
        for hop in &hops[start] {
            let own = &hop.address.value;
            let what = if hop.pool == start {
                format!("{own} is the listener itself: connections would go round")
            } else if leads_to(start, hop.pool, &hops) {
                let name = quoted(&hop.listener.value);
                format!(
                    "{own} is listener {name}, which leads back here: connections would go round"
                )
            } else {
                continue; // one pool behind another is unusual, not wrong
            };
            let cure = "name the backend's own address";
            problems.value(hop.address.at, Wrong::new(what, cure));
        }
    }
}

fn hops<'a>(
    pool: &'a model::Pool,
    ours: &HashMap<Address, (&'a Written<String>, &'a model::Listener)>,
) -> Vec<Hop<'a>> {
    let addresses = pool
        .backends
        .iter()
        .filter_map(|backend| backend.address.as_ref());
    let hops = |address: &'a Written<Address>| {
        let found = ours.get(&address.value);
        found.into_iter().flat_map(move |&(name, listener)| {
            listener.pools().map(move |pool| Hop {
                address,
                listener: name,
                pool: &pool.value,
            })
        })
    };
    addresses.flat_map(hops).collect()
}

/// Whether connections to pool `from` can come to pool `to`.
fn leads_to<'a>(to: &str, from: &'a str, hops: &HashMap<&'a str, Vec<Hop<'a>>>) -> bool {
    let mut seen = HashSet::from([from]);
    let mut next = vec![from];
    while let Some(pool) = next.pop() {
        if pool == to {
            return true;
        }
        let onward = hops.get(pool).into_iter().flatten().map(|hop| hop.pool);
        next.extend(onward.filter(|pool| seen.insert(pool)));
    }
    false
}

/// The addresses that certainly lead to `bind`.
fn own_addresses(bind: &Bind) -> Vec<Address> {
    match bind {
        Bind::Unix(path) => vec![Address::Unix(path.clone())],
        Bind::Tcp(address) | Bind::Udp(address) if address.ip().is_unspecified() => {
            let at = |ip| Address::Ip(SocketAddr::new(ip, address.port()));
            let v4 = at(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let v6 = at(IpAddr::V6(Ipv6Addr::LOCALHOST));
            if address.is_ipv4() {
                vec![v4]
            } else {
                vec![v4, v6]
            }
        }
        Bind::Tcp(address) | Bind::Udp(address) => vec![Address::Ip(*address)],
    }
}

fn plan_listener(listener: model::Listener) -> Option<Listener> {
    let routes = listener.routes.into_iter().map(|route| {
        let pool = route.pool?.value;
        let rule = route.rule;
        Some(Route { rule, pool })
    });
    Some(Listener {
        name: listener.name?.value,
        bind: listener.bind?.into_iter().map(|bind| bind.value).collect(),
        pool: listener.pool?.value,
        max_connections: listener.max_connections,
        per_source: listener.per_source,
        allow: listener.allow,
        deny: listener.deny,
        accept_proxy: listener.accept_proxy.value,
        trusted: listener.trusted,
        preread: listener.preread,
        routes: routes.collect::<Option<_>>()?,
    })
}

fn plan_pool(pool: model::Pool, is_udp_only: bool) -> Option<Pool> {
    let limit = pool.max_connections;
    let backends = pool
        .backends
        .into_iter()
        .map(|backend| backends::plan(backend, limit));
    Some(Pool {
        name: pool.name.value,
        balance: Settings {
            policy: pool.policy,
            hash_key: pool
                .hash_key
                .value
                .into_iter()
                .map(|part| part.value)
                .collect(),
            load_factor: pool.load_factor.value,
            fail_open: pool.fail_open,
            panic_threshold: pool.panic_threshold,
            counts: pool.counts,
            soft_connections: pool.soft_connections.value,
            slow_start: pool.slow_start,
            outlier: pool.outlier,
        },
        connect_timeout: pool.connect_timeout,
        retries: pool.retries,
        idle_timeout: pool.idle_timeout,
        half_close_timeout: pool.half_close_timeout,
        phase: pool.phase,
        lifetime: pool.lifetime,
        on_down: pool.on_down,
        refuse: pool.refuse,
        queue: pool.queue,
        sticky: plan_sticky(pool.sticky),
        send_proxy: pool.send_proxy.value,
        source: pool.source,
        health: health::plan(pool.health, is_udp_only),
        udp: pool.udp,
        discover: pool.discover,
        backends: backends.collect::<Option<_>>()?,
    })
}

fn plan_sticky(sticky: model::Sticky) -> Option<Sticky> {
    let sticky = Sticky {
        key: sticky.key.into_iter().map(|part| part.value).collect(),
        ttl: sticky.ttl,
        max_entries: sticky.max_entries,
    };
    (!sticky.key.is_empty()).then_some(sticky)
}
