//! Who is ejected, and where clients go then.

use proptest::prelude::*;

use super::*;
use crate::lb::rng::Rng;

fn second(number: u64) -> Tick {
    Tick::from_ms(1_000 * number)
}

/// Fails so often that the member is ejected, if it may be.
fn eject(balancer: &Balancer, index: usize, now: Tick) -> bool {
    let state = &balancer.members()[index].state;
    let limit = balancer.settings.outlier.consecutive_failures;
    (0..limit).any(|_| balancer.on_failure(state, now).is_some())
}

fn owners_at(balancer: &Balancer, clients: u32, now: Tick) -> Vec<usize> {
    let mut rng = Rng::new(1);
    let mut pick = |n| balancer.pick(&client(n), &[], now, &mut rng).unwrap();
    (0..clients).map(|n| usize::from(pick(n).index)).collect()
}

#[test]
fn who_is_ejected_gets_nobody_until_its_time_is_over() {
    for policy in POLICIES {
        let balancer = Balancer::new(settings(policy), equal(4));
        let before = owners_at(&balancer, 1_000, second(1));
        assert!(eject(&balancer, 0, second(1)));
        let during = owners_at(&balancer, 1_000, second(30));
        assert!(during.iter().all(|&owner| owner != 0), "{policy:?}");
        if matches!(policy, Policy::Hash | Policy::Rendezvous) {
            let mut pairs = before.iter().zip(&during);
            assert!(pairs.all(|(before, during)| *before == 0 || before == during));
            assert_eq!(owners_at(&balancer, 1_000, second(31)), before);
        }
        assert!(owners_at(&balancer, 1_000, second(31)).contains(&0));
    }
}

#[test]
fn a_share_of_the_members_is_ejected_and_never_the_last() {
    let balancer = Balancer::new(settings(Policy::First), equal(4));
    let now = second(1);
    assert_eq!(
        [0, 1, 2, 3].map(|index| eject(&balancer, index, now)),
        [true, true, false, false]
    );
    assert!(eject(&balancer, 2, second(31)), "the first two are back");

    let alone = Balancer::new(settings(Policy::First), equal(1));
    assert!(!eject(&alone, 0, now));

    // Members without a weight are none that could stand in.
    let alone = Balancer::new(settings(Policy::First), members(&[1, 0, 0]));
    assert!(!eject(&alone, 0, now) && !eject(&alone, 1, now));

    // The other one is down: the last that is up stays, until that has changed.
    let two = Balancer::new(settings(Policy::First), equal(2));
    two.members()[1].state.set_up(false, now);
    assert!(!eject(&two, 0, now));
    two.members()[1].state.set_up(true, now);
    assert!(eject(&two, 0, now));
}

#[test]
fn a_backup_stands_in_for_the_only_primary() {
    let mut all = equal(2);
    all[1].backup = true;
    let balancer = Balancer::new(settings(Policy::First), all);
    assert!(eject(&balancer, 0, second(1)));
    assert_eq!(owners_at(&balancer, 3, second(2)), [1; 3]);
    assert_eq!(owners_at(&balancer, 3, second(31)), [0; 3]);
}

#[test]
fn the_ejected_are_used_when_nobody_else_is_left() {
    for fail_open in [true, false] {
        let mut settings = settings(Policy::First);
        settings.fail_open = fail_open;
        let balancer = Balancer::new(settings, equal(2));
        let (now, mut rng) = (second(1), Rng::new(1));
        assert!(eject(&balancer, 0, now));
        // The client has failed on the only one that is well.
        let picked = balancer.pick(&client(0), &[1], now, &mut rng).unwrap();
        assert_eq!(picked.index, 0);
        let refusal = balancer.pick(&client(0), &[0, 1], now, &mut rng);
        assert_eq!(refusal.unwrap_err(), Refusal::AllTried);
        // That one goes down.
        balancer.members()[1].state.set_up(false, now);
        assert_eq!(owners_at(&balancer, 3, now), [0; 3], "{fail_open}");
    }
}

#[test]
fn full_members_do_not_bring_back_the_ejected() {
    let mut all = equal(2);
    all[1].max_connections = 1;
    let balancer = Balancer::new(settings(Policy::First), all);
    let (now, mut rng) = (second(1), Rng::new(1));
    assert!(eject(&balancer, 0, now));
    let _held = balancer.pick(&client(0), &[], now, &mut rng).unwrap();
    let refusal = balancer.pick(&client(1), &[], now, &mut rng).unwrap_err();
    assert_eq!(refusal, Refusal::AllFull);
}

#[test]
fn an_ejection_ends_when_its_member_comes_up_or_none_is_wanted_any_more() {
    let members = equal(2);
    let balancer = Balancer::new(settings(Policy::First), members.clone());
    let now = second(1);
    assert!(eject(&balancer, 0, now));
    let mut without = settings(Policy::First);
    without.outlier.consecutive_failures = 0;
    let without = Balancer::new(without, members);
    assert_eq!(owners_at(&without, 1, now), [0]);
    assert!(!eject(&without, 1, now));

    let state = &balancer.members()[0].state;
    state.set_up(true, now);
    assert_eq!(owners_at(&balancer, 1, now), [1], "it was up all along");
    state.set_up(false, now);
    assert!(!eject(&balancer, 0, now), "who is down need not be");
    state.set_up(true, second(2));
    assert_eq!(owners_at(&balancer, 1, second(2)), [0]);
}

#[test]
fn who_is_no_member_is_not_ejected() {
    let balancer = Balancer::new(settings(Policy::First), equal(2));
    let stranger = Arc::new(BackendState::new("pool", "backend-0", true));
    for _ in 0..10 {
        assert_eq!(balancer.on_failure(&stranger, second(1)), None);
    }
}

proptest! {
    /// Whatever fails and goes down: no more are ejected than may be, and a client gets a backend as
    /// long as one is up.
    #[test]
    fn ejection_never_leaves_a_client_alone(
        count in 1..8u8, max_ejected in 0.0..1.0f64, fail_open: bool,
        policy in proptest::sample::select(&POLICIES[..]),
        steps in proptest::collection::vec((0..8usize, 0..4u8, 0..20u64), 1..200),
    ) {
        let mut settings = Settings { fail_open, ..settings(policy) };
        settings.outlier.max_ejected = max_ejected;
        let most = settings.outlier.ejected_max(u32::from(count));
        let balancer = Balancer::new(settings, equal(usize::from(count)));
        let (mut at, mut rng) = (0, Rng::new(1));
        for (index, what, pause) in steps {
            at += pause;
            let now = second(at);
            let state = &balancer.members()[index % usize::from(count)].state;
            let well = |member: &&Member| member.state.is_up() && !member.state.traffic.is_ejected(now);
            match what {
                0 => drop(state.set_up(false, now)),
                1 => drop(state.set_up(true, now)),
                _ => {
                    if eject(&balancer, index % usize::from(count), now) {
                        prop_assert!(balancer.members().iter().filter(well).count() > 0);
                    }
                }
            }
            let members = || balancer.members().iter();
            let ejected = members().filter(|member| member.state.traffic.is_ejected(now)).count();
            prop_assert!(ejected <= most as usize);
            let picked = balancer.pick(&client(0), &[], now, &mut rng);
            let is_up = members().any(|member| member.state.is_up());
            prop_assert_eq!(picked.is_ok(), is_up || fail_open);
            if let Ok(picked) = picked {
                let chosen = &balancer.members()[usize::from(picked.index)];
                prop_assert!(well(&chosen) || members().filter(well).count() == 0);
            }
        }
    }
}
