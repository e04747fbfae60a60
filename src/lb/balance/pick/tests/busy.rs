//! Choosing by what backends have to do, and limits that count it.

use super::*;
use crate::lb::backend::Load;
use crate::lb::rng::Rng;

/// Leases on the member, of which the first are idle.
fn load(balancer: &Balancer, index: usize, open: u32, idle: u32) -> Vec<Lease> {
    let state = &balancer.members()[index].state;
    let leases = (0..open).map(|nth| {
        let mut lease = state.reserve(0, Counts::Open).unwrap();
        lease.set_busy(nth >= idle);
        lease
    });
    leases.collect()
}

fn pick(balancer: &Balancer, now: Tick) -> Picked {
    (balancer.pick(&client(0), &[], now, &mut Rng::new(1))).expect("somebody is free")
}

#[test]
fn idle_sessions_are_no_load() {
    for (policy, expected) in [(Policy::LeastBusy, 0), (Policy::LeastConnections, 1)] {
        let balancer = Balancer::new(settings(policy), equal(3));
        let _held = [
            load(&balancer, 0, 50, 50),
            load(&balancer, 1, 2, 0),
            load(&balancer, 2, 60, 60),
        ];
        assert_eq!(
            usize::from(pick(&balancer, Tick::ZERO).index),
            expected,
            "{policy:?}"
        );
    }
}

#[test]
fn whoever_is_chosen_counts_at_once() {
    let balancer = Balancer::new(settings(Policy::LeastBusy), members(&[1, 2, 1]));
    let held: Vec<_> = (0..400).map(|_| pick(&balancer, Tick::ZERO)).collect();
    let loads: Vec<Load> = (balancer.members().iter())
        .map(|member| member.state.load())
        .collect();
    let expected = [100, 200, 100].map(|open| Load { open, busy: open });
    assert_eq!(loads, expected);
    drop(held);
    assert!((balancer.members().iter()).all(|it| it.state.load() == Load { open: 0, busy: 0 }));
}

#[test]
fn who_answers_late_gets_less() {
    let balancer = Balancer::new(settings(Policy::LeastLatency), equal(3));
    let now = Tick::from_ms(1_000);
    for (member, time_ms) in balancer.members().iter().zip([100, 200, 400]) {
        member
            .state
            .latency
            .observe(Duration::from_millis(time_ms), now);
    }
    let held: Vec<_> = (0..70).map(|_| pick(&balancer, now)).collect();
    let busy: Vec<u32> = (balancer.members().iter())
        .map(|it| it.state.busy())
        .collect();
    assert!(
        busy[0].abs_diff(40) <= 1 && busy[1].abs_diff(20) <= 1,
        "{busy:?}"
    );
    drop(held);
    // Of the one that nothing is known of somebody finds out, and nobody else.
    balancer.members()[2]
        .state
        .latency
        .observe(Duration::from_secs(9), now);
    let later = now.after(Duration::from_secs(61));
    for member in &balancer.members()[..2] {
        member
            .state
            .latency
            .observe(Duration::from_millis(100), later);
    }
    let held: Vec<_> = (0..20).map(|_| pick(&balancer, later)).collect();
    assert_eq!(balancer.members()[2].state.busy(), 1);
    drop(held);
}

#[test]
fn a_limit_on_busy_ones_lets_idle_ones_be() {
    for policy in POLICIES {
        let mut all = equal(2);
        all.iter_mut().for_each(|member| member.max_connections = 3);
        let settings = Settings {
            counts: Counts::Busy,
            ..settings(policy)
        };
        let balancer = Balancer::new(settings, all);
        let _idle = [load(&balancer, 0, 9, 9), load(&balancer, 1, 5, 5)];
        let mut held: Vec<_> = (0..6).map(|_| pick(&balancer, Tick::ZERO)).collect();
        let refusal = balancer.pick(&client(1), &[], Tick::ZERO, &mut Rng::new(1));
        assert_eq!(refusal.unwrap_err(), Refusal::AllFull, "{policy:?}");
        held[4].lease.set_busy(false);
        assert_eq!(
            pick(&balancer, Tick::ZERO).index,
            held[4].index,
            "{policy:?}"
        );
    }
}

#[test]
fn the_soft_limit_is_passed_only_where_all_are_above_it() {
    for policy in POLICIES {
        for counts in [Counts::Open, Counts::Busy] {
            let settings = Settings {
                soft_connections: 4,
                counts,
                ..settings(policy)
            };
            let balancer = Balancer::new(settings, equal(3));
            let mut held: Vec<_> = (0..12).map(|_| pick(&balancer, Tick::ZERO)).collect();
            for member in balancer.members() {
                assert_eq!(member.state.load().counted(counts), 4, "{policy:?}");
            }
            held.extend((0..30).map(|_| pick(&balancer, Tick::ZERO)));
            let load = balancer.members().iter().map(|it| it.state.open());
            assert_eq!(
                load.sum::<u32>(),
                42,
                "{policy:?}: beyond it nobody is refused"
            );
        }
    }
}

#[test]
fn the_bound_of_load_is_measured_in_what_counts() {
    let bounded = Settings {
        load_factor: 1.25,
        counts: Counts::Busy,
        ..settings(Policy::Hash)
    };
    let balancer = Balancer::new(bounded, equal(4));
    let owner = usize::from(pick(&balancer, Tick::ZERO).index);
    let _idle = load(&balancer, owner, 100, 100);
    assert_eq!(
        usize::from(pick(&balancer, Tick::ZERO).index),
        owner,
        "idle ones are no load"
    );
    let _busy = load(&balancer, owner, 2, 0);
    assert_ne!(usize::from(pick(&balancer, Tick::ZERO).index), owner);
}
