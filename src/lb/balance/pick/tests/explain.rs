//! What is explained is what is picked.

use proptest::prelude::*;

use super::*;
use crate::lb::admin::Admin;
use crate::lb::balance::pick::{Objection, Reason};
use crate::lb::rng::Rng;

proptest! {
    /// Whatever the members are like and whichever policy chooses: what is explained is what the
    /// next choice is, as often as one asks, and nothing is reserved for it.
    #[test]
    fn what_is_explained_is_what_is_picked(
        policy in proptest::sample::select(&POLICIES[..]),
        load_factor in prop_oneof![Just(0.0), 1.05..2.0f64],
        rows in proptest::collection::vec(
            (0..4u16, 0..4u32, 0..3u32, 0..3u8, any::<bool>(), 0..6u8), 1..10,
        ),
        fail_open: bool,
        soft_connections in 0..3u32,
        slow_start in 0..2u64,
        seed: u64,
    ) {
        let now = Tick::from_ms(1);
        let mut held = Vec::new();
        let mut members = Vec::new();
        for (index, &(weight, limit, open, health, backup, rest)) in (0u16..).zip(&rows) {
            let state = Arc::new(BackendState::new("pool", &format!("b{index}"), health > 0));
            if health == 1 {
                let at_once = outlier::Settings { consecutive_failures: 1, ..settings(policy).outlier };
                state.traffic.on_failure(&at_once, now, || true);
            }
            match rest {
                0 => { state.orders.set_admin(Admin::Drain); }
                1 => state.come_back(now),
                _ => {}
            }
            held.extend((0..open).map(|_| state.reserve(0, Counts::Open)));
            members.push(Member { state, weight, max_connections: limit, backup });
        }
        let slow_start = Duration::from_secs(slow_start);
        let settings = Settings {
            load_factor, fail_open, slow_start, soft_connections, ..settings(policy)
        };
        let balancer = Balancer::new(settings, members);
        let mut rng = Rng::new(seed);
        for n in 0..20 {
            let open = || -> u32 { balancer.members().iter().map(|it| it.state.open()).sum() };
            let before = open();
            let explained = balancer.explain(&client(n), &[], now, &mut rng.clone());
            let again = balancer.explain(&client(n), &[], now, &mut rng.clone());
            prop_assert_eq!(&explained, &again);
            prop_assert_eq!(open(), before);
            let picked = balancer.pick(&client(n), &[], now, &mut rng);
            let picked = picked.map(|picked| {
                let index = picked.index;
                held.push(Some(picked.lease));
                index
            });
            prop_assert_eq!(picked, explained.chosen);
            for (place, reason) in (0u16..).zip(&explained.members) {
                let is_chosen = explained.chosen == Ok(place);
                prop_assert_eq!(*reason == Reason::Chosen, is_chosen);
            }
            let could = explained.members.contains(&Reason::Other);
            prop_assert!(!could || explained.chosen.is_ok(), "somebody could");
        }
    }
}

#[test]
fn each_reason_is_told() {
    let now = Tick::from_ms(1);
    let mut settings = settings(Policy::First);
    settings.outlier = outlier::Settings {
        consecutive_failures: 1,
        eject_time: Duration::from_secs(1),
        max_ejected: 1.0,
    };
    let mut members = equal(9);
    members[0].weight = 0;
    members[4].max_connections = 1;
    members[8].backup = true;
    let balancer = Balancer::new(settings, members);
    let state = |place: usize| Arc::clone(&balancer.members()[place].state);
    state(1).orders.set_admin(Admin::Drain);
    state(2).set_up(false, now);
    assert!(balancer.on_failure(&state(3), now).is_some());
    let _full = state(4).reserve(1, Counts::Open);
    let explained = balancer.explain(&client(1), &[5], now, &mut Rng::new(1));
    assert_eq!(explained.chosen, Ok(6));
    let objections = [
        Objection::Ordered,
        Objection::Down,
        Objection::Ejected,
        Objection::Full,
        Objection::Tried,
    ];
    let mut expected = vec![Reason::Weightless];
    expected.extend(objections.map(Reason::Objection));
    expected.extend([Reason::Chosen, Reason::Other, Reason::NotNeeded]);
    assert_eq!(explained.members, expected);
}

#[test]
fn a_bound_of_load_is_told() {
    let mut settings = settings(Policy::Hash);
    settings.load_factor = 1.25;
    let balancer = Balancer::new(settings, equal(2));
    let state = Arc::clone(&balancer.members()[0].state);
    let _held: Vec<_> = (0..10).map(|_| state.reserve(0, Counts::Open)).collect();
    let explained = balancer.explain(&client(1), &[], Tick::ZERO, &mut Rng::new(1));
    assert_eq!(explained.members, [Reason::OverBound, Reason::Chosen]);
}
