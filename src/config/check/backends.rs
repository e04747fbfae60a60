//! Backends, those of the configuration and those of a file that names nothing else.

use std::collections::HashSet;

use super::check_unique;
use crate::config::error::{Problems, Wrong};
use crate::config::keys::quoted;
use crate::config::model;
use crate::config::plan::Backend;

/// A pool has backends, and no two of them are the same.
pub(super) fn check(pool: &model::Pool, problems: &Problems) {
    let name = &pool.name;
    let pool_name = quoted(&name.value);
    let Some(first) = pool.backends.first() else {
        if pool.is_discovered {
            return;
        }
        let what = format!("pool {pool_name} has no backends");
        let cure = format!(
            "add a [[pool.{0}.backend]], or say where they are found: [pool.{0}.discover]",
            name.value
        );
        problems.missing(name.at, Wrong::new(what, cure));
        return;
    };
    if let Some(beyond) = pool.backends.get(MAX_BACKENDS) {
        let what = format!("pool {pool_name} has more than {MAX_BACKENDS} backends");
        problems.value(beyond.at, Wrong::new(what, "split it"));
    }
    if pool.backends.iter().all(|backend| backend.weight == 0) {
        let what = format!("every backend of pool {pool_name} has weight 0");
        problems.value(first.at, Wrong::new(what, "give one of them a weight"));
    }
    check_distinct(&pool.backends, &format!(" of pool {pool_name}"), problems);
}

/// The backends that a file names, with the limit of their pool; `None` if anything is wrong.
pub(in crate::config) fn found(
    backends: Vec<model::Backend>,
    pool_limit: u32,
    problems: &Problems,
) -> Option<Vec<Backend>> {
    if let Some(beyond) = backends.get(MAX_BACKENDS) {
        let what = format!("there are more than {MAX_BACKENDS} backends");
        problems.value(beyond.at, Wrong::new(what, "split them"));
    }
    for id in backends
        .iter()
        .filter_map(|backend| backend.server_id.as_ref())
    {
        let what = "`server_id` is for backends of the configuration";
        problems.value(id.at, Wrong::new(what, "remove it"));
    }
    check_distinct(&backends, "", problems);
    if problems.any() {
        return None;
    }
    backends
        .into_iter()
        .map(|backend| plan(backend, pool_limit))
        .collect()
}

/// No two have one name or one address.
fn check_distinct(backends: &[model::Backend], of_pool: &str, problems: &Problems) {
    let addresses = (backends.iter()).filter_map(|backend| backend.address.as_ref());
    check_unique(addresses, problems, |address| {
        format!("another backend{of_pool} has the address {address}")
    });
    let mut names = HashSet::new();
    for backend in backends {
        let Some(name) = backend_name(backend) else {
            continue;
        };
        let at = backend.name.as_ref().map_or(backend.at, |name| name.at);
        // Twice the same address has been reported; its names need no second error.
        if !names.insert(name.clone()) && backend.name.is_some() {
            let what = format!("another backend{of_pool} is named {}", quoted(&name));
            problems.value(at, Wrong::new(what, "change one"));
        }
    }
}

/// What one is whose pool has this limit; `None` if something of it is missing.
pub(super) fn plan(backend: model::Backend, pool_limit: u32) -> Option<Backend> {
    Some(Backend {
        name: backend_name(&backend)?,
        address: backend.address?.value,
        weight: backend.weight,
        max_connections: backend.max_connections.unwrap_or(pool_limit),
        backup: backend.backup,
        server_id: backend.server_id.map(|id| id.value),
    })
}

/// The name that is written, or else the address.
fn backend_name(backend: &model::Backend) -> Option<String> {
    match &backend.name {
        Some(name) => Some(name.value.clone()),
        None => backend
            .address
            .as_ref()
            .map(|address| address.value.to_string()),
    }
}

/// Backends of one pool: their places must fit the picker's 16-bit index.
pub(in crate::config) const MAX_BACKENDS: usize = 65_535;
