//! Balance quality, disruption, limits and refusals, for every policy.

mod admin;
mod busy;
mod ejection;
mod explain;
mod hashing;
mod panic;
mod returning;
mod rules;

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::lb::rng::Rng;

const POLICIES: [Policy; 9] = [
    Policy::Hash,
    Policy::Rendezvous,
    Policy::RoundRobin,
    Policy::LeastConnections,
    Policy::LeastBusy,
    Policy::LeastLatency,
    Policy::PowerOfTwo,
    Policy::Random,
    Policy::First,
];

const LOAD_AWARE: [Policy; 4] = [
    Policy::LeastConnections,
    Policy::LeastBusy,
    Policy::LeastLatency,
    Policy::PowerOfTwo,
];

pub(super) fn settings(policy: Policy) -> Settings {
    let hash_key = vec![KeyPart::SourceIp, KeyPart::SourcePort];
    Settings {
        policy,
        hash_key,
        load_factor: 0.0,
        fail_open: true,
        panic_threshold: 0.0,
        counts: Counts::Open,
        soft_connections: 0,
        slow_start: Duration::ZERO,
        outlier: outlier::Settings {
            consecutive_failures: 3,
            eject_time: Duration::from_secs(30),
            max_ejected: 0.5,
        },
    }
}

fn member(name: &str, weight: u16) -> Member {
    let state = Arc::new(BackendState::new("pool", name, true));
    Member {
        state,
        weight,
        max_connections: 0,
        backup: false,
    }
}

fn members(weights: &[u16]) -> Vec<Member> {
    let named = weights.iter().enumerate();
    named
        .map(|(index, &weight)| member(&format!("backend-{index}"), weight))
        .collect()
}

pub(super) fn equal(count: usize) -> Vec<Member> {
    members(&vec![1; count])
}

/// The `n`th of many clients.
pub(super) fn client(n: u32) -> Client {
    let source = SocketAddr::from((std::net::Ipv4Addr::from_bits(0x0a00_0000 + n), 40_000));
    Client::new(source, "192.0.2.1:80".parse().unwrap())
}

/// Where clients go if each leaves before the next one comes.
fn owners(balancer: &Balancer, clients: u32) -> Vec<usize> {
    let mut rng = Rng::new(1);
    (0..clients)
        .map(|n| {
            usize::from(
                balancer
                    .pick(&client(n), &[], Tick::ZERO, &mut rng)
                    .unwrap()
                    .index,
            )
        })
        .collect()
}

fn counts(owners: &[usize], members: usize) -> Vec<u32> {
    let mut counts = vec![0; members];
    for &owner in owners {
        counts[owner] += 1;
    }
    counts
}

/// Pearson's χ² against the shares that `weights` ask for.
fn chi_squared(counts: &[u32], weights: &[u16]) -> f64 {
    let all: u32 = counts.iter().sum();
    let weight: f64 = weights.iter().copied().map(f64::from).sum();
    let pairs = counts.iter().zip(weights);
    pairs
        .map(|(&count, &own)| {
            let expected = f64::from(all) * f64::from(own) / weight;
            (f64::from(count) - expected).powi(2) / expected
        })
        .sum()
}

fn max_to_mean(counts: &[u32]) -> f64 {
    let mean =
        f64::from(counts.iter().sum::<u32>()) / f64::from(u32::try_from(counts.len()).unwrap());
    f64::from(*counts.iter().max().unwrap()) / mean
}

#[test]
fn sessions_that_end_at_once_are_spread_as_each_policy_says() {
    // 9 degrees of freedom: 27.9 is passed by chance once in a thousand.
    for policy in [Policy::Hash, Policy::Rendezvous, Policy::Random] {
        let balancer = Balancer::new(settings(policy), equal(10));
        let counts = counts(&owners(&balancer, 10_000), 10);
        let chi = chi_squared(&counts, &[1; 10]);
        println!(
            "{policy:?}: χ² {chi:.1}, max/mean {:.3}",
            max_to_mean(&counts)
        );
        assert!(chi < 27.9, "{policy:?}: {counts:?}");
    }
    for policy in [
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::LeastBusy,
        Policy::LeastLatency,
    ] {
        let balancer = Balancer::new(settings(policy), equal(10));
        assert_eq!(
            counts(&owners(&balancer, 10_000), 10),
            [1_000; 10],
            "{policy:?}"
        );
    }
    let balancer = Balancer::new(settings(Policy::First), equal(3));
    assert_eq!(counts(&owners(&balancer, 9), 3), [9, 0, 0]);
}

#[test]
fn sessions_that_stay_are_spread_evenly_by_those_who_look_at_load() {
    for policy in LOAD_AWARE {
        let balancer = Balancer::new(settings(policy), equal(20));
        let mut rng = Rng::new(3);
        let held: Vec<_> = (0..10_000)
            .map(|n| {
                balancer
                    .pick(&client(n), &[], Tick::ZERO, &mut rng)
                    .unwrap()
            })
            .collect();
        let counts: Vec<u32> = balancer.members().iter().map(|m| m.state.open()).collect();
        println!("{policy:?}: max/mean {:.3}", max_to_mean(&counts));
        assert!(max_to_mean(&counts) <= 1.3, "{counts:?}");
        drop(held);
        assert!(
            balancer
                .members()
                .iter()
                .all(|member| member.state.open() == 0)
        );
    }
}

#[test]
fn weights_are_shares() {
    let weights = [1, 2, 3, 4];
    for policy in [
        Policy::Hash,
        Policy::Rendezvous,
        Policy::Random,
        Policy::RoundRobin,
    ] {
        let balancer = Balancer::new(settings(policy), members(&weights));
        let counts = counts(&owners(&balancer, 10_000), 4);
        // 3 degrees of freedom: 16.3 is passed by chance once in a thousand.
        assert!(
            chi_squared(&counts, &weights) < 16.3,
            "{policy:?}: {counts:?}"
        );
    }
    for policy in LOAD_AWARE {
        let balancer = Balancer::new(settings(policy), members(&weights));
        let mut rng = Rng::new(5);
        let held: Vec<_> = (0..1_000)
            .map(|n| {
                balancer
                    .pick(&client(n), &[], Tick::ZERO, &mut rng)
                    .unwrap()
            })
            .collect();
        for (member, weight) in balancer.members().iter().zip([100, 200, 300, 400]) {
            assert!(member.state.open().abs_diff(weight) <= 12, "{policy:?}");
        }
        drop(held);
    }
}

#[test]
fn weight_0_gets_nothing_and_only_zeros_is_nobody() {
    for policy in POLICIES {
        let balancer = Balancer::new(settings(policy), members(&[0, 1, 0]));
        assert_eq!(
            counts(&owners(&balancer, 100), 3),
            [0, 100, 0],
            "{policy:?}"
        );
        let balancer = Balancer::new(settings(policy), members(&[0, 0]));
        let refusal = balancer
            .pick(&client(0), &[], Tick::ZERO, &mut Rng::new(1))
            .unwrap_err();
        assert_eq!(refusal, Refusal::NoneAvailable, "{policy:?}");
    }
}

#[test]
fn round_robin_of_1_to_2_has_no_run_of_3_and_skips_who_is_down() {
    let balancer = Balancer::new(settings(Policy::RoundRobin), members(&[1, 2]));
    let owners_of_30 = owners(&balancer, 30);
    assert_eq!(counts(&owners_of_30, 2), [10, 20]);
    assert!(
        owners_of_30.windows(3).all(|run| run.contains(&0)),
        "{owners_of_30:?}"
    );
    let balancer = Balancer::new(settings(Policy::RoundRobin), equal(3));
    balancer.members()[1].state.set_up(false, Tick::ZERO);
    assert_eq!(counts(&owners(&balancer, 30), 3), [15, 0, 15]);
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "exactness across workers needs workers"
)]
fn round_robin_is_exact_across_workers() {
    let balancer = Arc::new(Balancer::new(
        settings(Policy::RoundRobin),
        members(&[1, 2, 3]),
    ));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let balancer = Arc::clone(&balancer);
            std::thread::spawn(move || counts(&owners(&balancer, 1_500), 3))
        })
        .collect();
    let mut sums = [0; 3];
    for worker in workers {
        for (sum, count) in sums.iter_mut().zip(worker.join().unwrap()) {
            *sum += count;
        }
    }
    assert_eq!(sums, [1_000, 2_000, 3_000]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a race needs threads")]
fn no_race_passes_a_limit() {
    for policy in POLICIES {
        let mut members = equal(3);
        for member in &mut members {
            member.max_connections = 7;
        }
        let balancer = Arc::new(Balancer::new(settings(policy), members));
        let workers: Vec<_> = (0..4)
            .map(|seed| {
                let balancer = Arc::clone(&balancer);
                std::thread::spawn(move || {
                    let mut rng = Rng::new(seed);
                    let mut held = Vec::new();
                    for n in 0..2_000 {
                        held.extend(balancer.pick(&client(n), &[], Tick::ZERO, &mut rng));
                        for member in balancer.members() {
                            assert!(member.state.open() <= 7);
                        }
                        if held.len() > 5 {
                            held.clear();
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        assert!(
            balancer
                .members()
                .iter()
                .all(|member| member.state.open() == 0)
        );
    }
}

#[test]
fn least_connections_leaves_a_stuck_one_alone() {
    let balancer = Balancer::new(settings(Policy::LeastConnections), equal(2));
    let mut rng = Rng::new(1);
    let stuck = balancer
        .pick(&client(0), &[], Tick::ZERO, &mut rng)
        .unwrap();
    let owners = owners(&balancer, 10);
    assert!(
        owners
            .iter()
            .all(|&owner| owner != usize::from(stuck.index))
    );
}

#[test]
fn most_members_down_is_found_in_bounded_time() {
    for policy in POLICIES {
        let mut weights = vec![u16::MAX; 2_000];
        weights[1_999] = 1;
        let balancer = Balancer::new(settings(policy), members(&weights));
        for member in &balancer.members()[..1_999] {
            member.state.set_up(false, Tick::ZERO);
        }
        let picked = balancer
            .pick(&client(0), &[], Tick::ZERO, &mut Rng::new(1))
            .unwrap();
        assert_eq!(picked.index, 1_999, "{policy:?}");
    }
}

#[test]
fn backups_wait_for_the_last_primary() {
    for policy in POLICIES {
        let mut all = equal(4);
        all[2].backup = true;
        all[3].backup = true;
        all[0].max_connections = 1;
        let balancer = Balancer::new(settings(policy), all);
        let state = |index: usize| &balancer.members()[index].state;
        assert!(
            owners(&balancer, 100).iter().all(|&owner| owner < 2),
            "{policy:?}"
        );
        state(1).set_up(false, Tick::ZERO);
        let mut rng = Rng::new(1);
        let held = balancer
            .pick(&client(0), &[], Tick::ZERO, &mut rng)
            .unwrap();
        assert_eq!(held.index, 0);
        let full = balancer
            .pick(&client(1), &[], Tick::ZERO, &mut rng)
            .unwrap_err();
        assert_eq!(
            full,
            Refusal::AllFull,
            "a full primary does not bring in a backup"
        );
        state(0).set_up(false, Tick::ZERO);
        assert!(
            owners(&balancer, 100).iter().all(|&owner| owner >= 2),
            "{policy:?}"
        );
        let tried = balancer
            .pick(&client(1), &[2, 3], Tick::ZERO, &mut rng)
            .unwrap_err();
        assert_eq!(tried, Refusal::AllTried);
        state(1).set_up(true, Tick::ZERO);
        assert!(
            owners(&balancer, 100).iter().all(|&owner| owner == 1),
            "{policy:?}"
        );
    }
}

#[test]
fn with_everybody_down_fail_open_decides() {
    for policy in POLICIES {
        for fail_open in [true, false] {
            let settings = Settings {
                fail_open,
                ..settings(policy)
            };
            let balancer = Balancer::new(settings, equal(3));
            for member in balancer.members() {
                member.state.set_up(false, Tick::ZERO);
            }
            let picked = balancer.pick(&client(0), &[], Tick::ZERO, &mut Rng::new(1));
            match picked {
                Ok(_) => assert!(fail_open, "{policy:?}"),
                Err(refusal) => assert!(!fail_open && refusal == Refusal::NoneAvailable),
            }
        }
    }
}
