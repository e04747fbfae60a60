//! Where connections come from has to suit where they go to: both are IPv4, or both are IPv6.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;

use crate::config::error::{Problems, Wrong};
use crate::config::keys::quoted;
use crate::config::model::{self, Model};
use crate::config::plan::{Address, Bind, Source};
use crate::config::reader::Written;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Every backend can be connected to from the source of its pool, as far as the file tells. A host
/// name may turn out to be anything.
pub(super) fn check_sources(model: &Model, problems: &Problems) {
    let mut transparent = HashMap::new();
    for pool in &model.pools {
        let (fits, other) = match pool.source {
            Source::Any => continue,
            Source::Address(address) => {
                let own = Family::of(SocketAddr::new(address, 0));
                check_probes(pool, own, problems);
                (Some(own), "`source` is not")
            }
            Source::Client => {
                let first = addresses(pool).find_map(|address| family(&address.value));
                transparent.insert(pool.name.value.as_str(), first);
                (
                    first,
                    "a backend before it is not, and a client is one of them only",
                )
            }
        };
        check_backends(pool, fits, other, problems);
    }
    check_clients(model, &transparent, problems);
}

/// The backends of a pool with a source are addresses, and of this family.
fn check_backends(pool: &model::Pool, fits: Option<Family>, other: &str, problems: &Problems) {
    for address in addresses(pool) {
        let own = family(&address.value);
        let what = match (&address.value, own) {
            (Address::Unix(path), _) => format!("unix:{} takes no `source`", path.display()),
            (at, Some(own)) if fits.is_some_and(|fits| fits != own) => {
                format!("{at} is {own}, {other}")
            }
            _ => continue,
        };
        problems.value(address.at, Wrong::new(what, "put it in a pool of its own"));
    }
}

/// What a pool with a source probes is of this family too.
fn check_probes(pool: &model::Pool, source: Family, problems: &Problems) {
    let Written { value, at, .. } = pool.health.address;
    let Some(address) = value else { return };
    let own = Family::of(SocketAddr::new(address, 0));
    if own != source {
        let what = format!("{address} is {own}, `source` is not");
        problems.value(at, Wrong::new(what, format!("write one of {source}")));
    }
}

/// Clients whose address is the source have one, and of the family of the backends.
fn check_clients(model: &Model, pools: &HashMap<&str, Option<Family>>, problems: &Problems) {
    let binds = || (model.listeners.iter()).flat_map(|listener| listener.bind.iter().flatten());
    let bound: HashSet<&Bind> = binds().map(|bind| &bind.value).collect();
    let takes_both = |bind: &Bind, address: SocketAddr| {
        let is_wildcard = address.is_ipv6() && address.ip().is_unspecified();
        is_wildcard && !bind.v4_twin().is_some_and(|twin| bound.contains(&twin))
    };
    for listener in &model.listeners {
        let transparent = listener.pools().filter_map(|pool| {
            let backends = pools.get(pool.value.as_str())?;
            Some((&pool.value, *backends))
        });
        let binds = || listener.bind.iter().flatten();
        for (pool, backends, bind) in
            transparent.flat_map(|(pool, backends)| binds().map(move |bind| (pool, backends, bind)))
        {
            let pool = quoted(pool);
            let listening = &bind.value;
            let what = match (listening.address(), backends) {
                (None, _) => {
                    format!("{listening} has no addresses of clients for the source of pool {pool}")
                }
                (Some(address), Some(backends)) => {
                    let clients = Family::of(address);
                    if clients == backends || takes_both(listening, address) {
                        continue;
                    }
                    format!(
                        "clients of {listening} are {clients}, the source of pool {pool} must be \
                         {backends}"
                    )
                }
                (Some(_), None) => continue,
            };
            let cure = "listen elsewhere, or set `source` of that pool to \"\"";
            problems.value(bind.at, Wrong::new(what, cure));
        }
    }
}

fn addresses(pool: &model::Pool) -> impl Iterator<Item = &Written<Address>> {
    (pool.backends.iter()).filter_map(|backend| backend.address.as_ref())
}

fn family(address: &Address) -> Option<Family> {
    match address {
        Address::Ip(address) => Some(Family::of(*address)),
        // Only an IPv6 address has a scope.
        Address::Host(host, _) => host.contains('%').then_some(Family::V6),
        Address::Unix(_) => None,
    }
}

impl Family {
    const fn of(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}
