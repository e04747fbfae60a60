//! Whether this process may connect from where the plan says, tried before the plan is in force.

use std::io;

use super::loader::Loaded;
use crate::config::plan::{Pool, Source};
use crate::sys::socket::Target;
use crate::sys::source;

/// Says why not, and how to mend it.
pub(super) fn check(loaded: &Loaded) -> Result<(), String> {
    let mut pools = loaded.plan.pools.iter().zip(&loaded.targets);
    pools.try_for_each(|(pool, targets)| check_pool(pool, targets))
}

fn check_pool(pool: &Pool, targets: &[Target]) -> Result<(), String> {
    let name = &pool.name;
    match pool.source {
        Source::Any => Ok(()),
        Source::Address(address) => source::check_own(address).map_err(|error| {
            let cure = match error.kind() {
                io::ErrorKind::AddrNotAvailable => "no interface of this host has it",
                _ => "see the error",
            };
            format!("pool \"{name}\": source \"{address}\": {error}; {cure}")
        }),
        Source::Client => {
            let addresses = || targets.iter().filter_map(Target::address);
            let families = [true, false].into_iter();
            let mut used = families.filter(|v4| addresses().any(|to| to.is_ipv4() == *v4));
            used.try_for_each(source::check_transparent)
                .map_err(|error| {
                    let cure = match error.kind() {
                        io::ErrorKind::PermissionDenied => NEEDS,
                        _ => "see the error",
                    };
                    format!("pool \"{name}\": source \"client\": {error}; {cure}")
                })
        }
    }
}

/// A process cannot get back what it has given up or never had.
const NEEDS: &str = "it needs CAP_NET_ADMIN or CAP_NET_RAW: start as root with such a pool in the file \
                     (global.user keeps the one), or name it in the unit's AmbientCapabilities= and \
                     CapabilityBoundingSet= and restart";
