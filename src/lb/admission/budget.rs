//! How many sessions the process can hold: the one place that spends file descriptors.

use std::fmt;

/// What is known when the process starts.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// RLIMIT_NOFILE.
    pub descriptors: u64,
    /// Worker threads.
    pub workers: u64,
    /// Listening sockets over all workers.
    pub sockets: u64,
    /// Pipes a worker may use for splice at most.
    pub pipes_max: u32,
}

/// What is spent on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Descriptors of sessions and flows.
    pub open: u32,
    /// Pipes of each worker, at two descriptors each.
    pub pipes_per_worker: u32,
    /// Health probes under way at once, at one descriptor each.
    pub probes: u32,
    /// Connections of those who ask for metrics or the dashboard.
    pub visitors: u32,
    /// Everything that does not depend on sessions: listening sockets, polls, pipes, probes, and a
    /// reserve for logs and reloads.
    pub fixed: u64,
    descriptors: u64,
}

/// Spends the descriptors; `None` if they do not even carry one session.
pub fn budget(means: &Means) -> Option<Budget> {
    let share = means.descriptors / SMALL_SHARE;
    let pipes = (share / means.workers.max(1)).clamp(1, u64::from(means.pipes_max));
    let probes = share.clamp(1, PROBES_MAX);
    let visitors = share.clamp(VISITORS_MIN, VISITORS_MAX);
    let reserve = (means.descriptors / RESERVE_SHARE).clamp(RESERVE_MIN, RESERVE_MAX);
    let of_workers = means.workers * (WORKER + 2 * pipes);
    // New sockets of a reload are open before the old ones are closed.
    let fixed = reserve + of_workers + 2 * means.sockets + probes + visitors;
    let open = means.descriptors.checked_sub(fixed)?;
    let open = u32::try_from(open).unwrap_or(u32::MAX);
    Some(Budget {
        open: (open >= 2).then_some(open)?,
        pipes_per_worker: u32::try_from(pipes).unwrap_or(1),
        probes: u32::try_from(probes).unwrap_or(1),
        visitors: u32::try_from(visitors).unwrap_or(1),
        fixed,
        descriptors: means.descriptors,
    })
}

impl Budget {
    /// Sessions that can be open at once: each takes a descriptor on either side.
    pub const fn sessions(&self) -> u32 {
        self.open / 2
    }

    /// Flows that can be open at once instead, if they wait for answers: each takes one descriptor.
    pub const fn flows(&self) -> u32 {
        self.open
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (descriptors, fixed) = (self.descriptors, self.fixed);
        let (sessions, flows) = (self.sessions(), self.flows());
        write!(
            f,
            "{descriptors} descriptors: {fixed} fixed, room for {sessions} sessions or {flows} flows"
        )
    }
}

/// Pipes and probes get a sixteenth of all descriptors each at most.
const SMALL_SHARE: u64 = 16;

/// Connections by HTTP at least: monitoring and one dashboard.
const VISITORS_MIN: u64 = 4;

/// At most: dashboards of a whole team.
const VISITORS_MAX: u64 = 64;

/// Probes under way at once at most: 1,000 black-holed backends at the default intervals need 200.
const PROBES_MAX: u64 = 256;

/// The share of all descriptors kept for logs, signals, reloads and the runtime …
const RESERVE_SHARE: u64 = 8;
/// … but at least so many …
const RESERVE_MIN: u64 = 24;
/// … and never more than this.
const RESERVE_MAX: u64 = 64;

/// Descriptors of a worker itself: its epoll, its waker, and one for a flow that changes its socket.
const WORKER: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(descriptors: u64, workers: u64, sockets: u64) -> Option<Budget> {
        budget(&Means {
            descriptors,
            workers,
            sockets,
            pipes_max: 64,
        })
    }

    #[test]
    fn nothing_is_spent_twice() {
        for descriptors in [64, 256, 512, 1_024, 20_000, 1_048_576] {
            for workers in [1, 2, 64] {
                let Some(spent) = spend(descriptors, workers, 2 * workers) else {
                    continue;
                };
                let of_pipes = workers * 2 * u64::from(spent.pipes_per_worker);
                assert!(spent.fixed >= of_pipes + u64::from(spent.probes) + 5 * workers);
                assert!(spent.fixed + u64::from(spent.open) <= descriptors);
            }
        }
    }

    #[test]
    fn twice_as_many_flows_as_sessions() {
        let spent = spend(20_000, 2, 4).expect("room");
        assert!(spent.flows() >= 19_000, "{spent:?}");
    }

    #[test]
    fn a_small_limit_still_carries_most_of_it_as_sessions() {
        let spent = spend(256, 2, 4).expect("room");
        assert!(spent.sessions() >= 64, "{spent:?}");
        assert_eq!(spend(64, 64, 64), None);
    }
}
