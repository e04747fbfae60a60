//! How many sessions and flows this process can carry.

use super::supervisor::Failure;
use crate::config::plan::Plan;
use crate::data::PIPES_PER_WORKER;
use crate::lb::admission::budget::{Budget, Means, budget};

/// What the descriptors are spent on, at the start and for good.
pub(super) fn spend(descriptors: u64, workers: usize, plan: &Plan) -> Result<Budget, Failure> {
    let addresses: usize = plan
        .listeners
        .iter()
        .map(|listener| listener.bind.len())
        .sum();
    let means = Means {
        descriptors,
        workers: workers as u64,
        sockets: (addresses * workers) as u64,
        pipes_max: PIPES_PER_WORKER,
    };
    budget(&means).ok_or_else(|| {
        Failure(format!(
            "{descriptors} descriptors carry no session beside {workers} workers and {addresses} \
             addresses; raise RLIMIT_NOFILE (LimitNOFILE=)"
        ))
    })
}

/// The sessions and flows that the plan allows, 0 = as many as the descriptors do. Sessions must be
/// within the budget; some flows take no descriptor.
pub(super) fn max_connections(plan: &Plan, budget: &Budget) -> Result<u32, Failure> {
    let has_sessions = || plan.listeners.iter().any(|listener| !listener.is_udp());
    match plan.global.max_connections {
        None => Ok(0),
        Some(wanted) if wanted <= budget.sessions() || !has_sessions() => Ok(wanted),
        Some(wanted) => Err(Failure(format!(
            "global.max_connections: {wanted} is more than RLIMIT_NOFILE carries ({budget}); lower \
             it or raise the limit"
        ))),
    }
}
