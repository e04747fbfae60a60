//! What holds for datagrams alone: where they go, what probes send, what goes before them.

use std::collections::HashSet;

use crate::config::error::{Problems, Wrong};
use crate::config::model::{self, HealthKind, Model};
use crate::config::plan::{Address, SendProxy};
use crate::lb::traffic::flow::Answers;

/// Datagrams go to addresses, not to Unix sockets.
pub(super) fn check_addresses(model: &Model, problems: &Problems) {
    let udp_pools = datagram_pools(model);
    for pool in &model.pools {
        let sender = if udp_pools.contains(pool.name.value.as_str()) {
            "a listener with protocol udp"
        } else if pool.health.kind == Some(HealthKind::Udp) {
            "a probe of type udp"
        } else {
            continue;
        };
        let addresses = pool
            .backends
            .iter()
            .filter_map(|backend| backend.address.as_ref());
        for address in addresses.filter(|address| matches!(address.value, Address::Unix(_))) {
            let what = format!("{} takes no datagrams from {sender}", address.value);
            problems.value(
                address.at,
                Wrong::new(what, "write IP:PORT, [IPV6]:PORT or HOST:PORT"),
            );
        }
    }
}

/// Answers are limited only where there are some.
pub(super) fn check_amplification(pool: &model::Pool, problems: &Problems) {
    let rules = pool.udp.rules;
    if rules.amplification != 0 && rules.answers == Answers::None {
        let what = "`amplification_limit` bounds answers, and flows of session oneway have none";
        let cure = "remove it, or set session to \"oneshot\" or \"dialog\"";
        problems.value(pool.amplification_at, Wrong::new(what, cure));
    }
}

/// Version 1 of the PROXY protocol stands before streams only.
pub(super) fn check_send_proxy(model: &Model, problems: &Problems) {
    let datagram_pools = datagram_pools(model);
    let asks = |pool: &&model::Pool| pool.send_proxy.value == SendProxy::V1;
    for pool in model.pools.iter().filter(asks) {
        if datagram_pools.contains(pool.name.value.as_str()) {
            let what = "version 1 of the PROXY protocol knows no datagrams";
            let cure = "set it to \"v2\", or give the listener with protocol udp another pool";
            problems.value(pool.send_proxy.at, Wrong::new(what, cure));
        }
    }
}

/// The pools that datagrams go to.
fn datagram_pools(model: &Model) -> HashSet<&str> {
    let listeners = model.listeners.iter().filter(|listener| listener.is_udp());
    let pools = listeners.flat_map(model::Listener::pools);
    pools.map(|pool| pool.value.as_str()).collect()
}
