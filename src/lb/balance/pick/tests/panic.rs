//! So few are well that all are used.

use super::*;
use crate::lb::health::panic::Change;
use crate::lb::rng::Rng;

fn balancer(members: Vec<Member>, policy: Policy) -> Balancer {
    let settings = Settings {
        panic_threshold: 0.5,
        fail_open: false,
        ..settings(policy)
    };
    Balancer::new(settings, members)
}

fn second(number: u64) -> Tick {
    Tick::from_ms(1_000 * number)
}

fn set_up(balancer: &Balancer, up: &[bool], now: Tick) -> Option<Change> {
    for (member, &up) in balancer.members().iter().zip(up) {
        member.state.set_up(up, now);
    }
    balancer.look(now)
}

/// Who gets some of many clients.
fn used(balancer: &Balancer, now: Tick) -> Vec<usize> {
    let mut rng = Rng::new(1);
    let mut pick = |n| usize::from(balancer.pick(&client(n), &[], now, &mut rng).unwrap().index);
    let owners: std::collections::BTreeSet<usize> = (0..200).map(&mut pick).collect();
    owners.into_iter().collect()
}

#[test]
fn below_the_threshold_all_are_used_until_enough_are_well() {
    for policy in POLICIES {
        let balancer = balancer(equal(5), policy);
        let all: &[usize] = match policy {
            Policy::First => &[0],
            _ => &[0, 1, 2, 3, 4],
        };
        let (yes, no) = (true, false);
        assert_eq!(set_up(&balancer, &[no, no, yes, yes, yes], second(1)), None);
        assert!(used(&balancer, second(1)).iter().all(|&owner| owner >= 2));
        let change = set_up(&balancer, &[no, no, no, yes, yes], second(2));
        assert_eq!(change, Some(Change::Entered(0.4)));
        assert_eq!(used(&balancer, second(2)), all, "{policy:?}");
        let change = set_up(&balancer, &[no, no, yes, yes, yes], second(3));
        assert_eq!(change, Some(Change::Left(0.6)));
        assert!(used(&balancer, second(3)).iter().all(|&owner| owner >= 2));
    }
}

#[test]
fn the_share_is_one_of_weight_and_the_ejected_are_not_well() {
    let balancer = balancer(members(&[6, 4, 0]), Policy::RoundRobin);
    assert_eq!(set_up(&balancer, &[true, false, false], second(1)), None);
    let change = set_up(&balancer, &[false, true, true], second(2));
    assert_eq!(change, Some(Change::Entered(0.4)));
    assert_eq!(used(&balancer, second(2)), [0, 1], "a weight of 0 stays 0");
    let change = set_up(&balancer, &[true, true, true], second(3));
    assert_eq!(change, Some(Change::Left(1.0)));
    for _ in 0..3 {
        balancer.on_failure(&balancer.members()[0].state, second(4));
    }
    assert_eq!(balancer.look(second(4)), Some(Change::Entered(0.4)));
    assert_eq!(used(&balancer, second(4)), [0, 1]);
}

#[test]
fn with_no_primary_well_backups_and_then_fail_open_decide() {
    let mut all = equal(4);
    all[3].backup = true;
    let balancer = balancer(all, Policy::RoundRobin);
    let change = set_up(&balancer, &[true, false, false, true], second(1));
    assert_eq!(change, Some(Change::Entered(1.0 / 3.0)));
    assert_eq!(used(&balancer, second(1)), [0, 1, 2]);
    assert_eq!(
        set_up(&balancer, &[false, false, false, true], second(2)),
        None
    );
    assert_eq!(used(&balancer, second(2)), [3]);
    assert_eq!(set_up(&balancer, &[false; 4], second(3)), None);
    let refusal = balancer.pick(&client(0), &[], second(3), &mut Rng::new(1));
    assert_eq!(refusal.unwrap_err(), Refusal::NoneAvailable);
}

#[test]
fn a_client_that_has_failed_on_all_primaries_gets_a_backup() {
    let mut all = equal(3);
    all[2].backup = true;
    let mut balancer = balancer(all, Policy::First);
    balancer.settings.panic_threshold = 0.6;
    assert!(set_up(&balancer, &[false, true, true], second(1)).is_some());
    let mut rng = Rng::new(1);
    let mut pick = |tried: &[u16]| balancer.pick(&client(0), tried, second(1), &mut rng);
    assert_eq!(pick(&[]).unwrap().index, 0);
    assert_eq!(pick(&[0]).unwrap().index, 1);
    assert_eq!(pick(&[0, 1]).unwrap().index, 2);
    assert_eq!(pick(&[0, 1, 2]).unwrap_err(), Refusal::AllTried);
}

#[test]
fn panic_goes_on_in_the_balancer_that_takes_its_place() {
    let before = balancer(equal(2), Policy::RoundRobin);
    assert_eq!(set_up(&before, &[true, false], second(1)), None);
    let change = set_up(&before, &[false, false], second(2));
    assert_eq!(change, None);
    let mut settings = before.settings.clone();
    settings.panic_threshold = 0.6;
    let members = before.members().to_vec();
    members[1].state.set_up(true, second(3));
    let between = Balancer::new(settings.clone(), members.clone()).in_place_of(&before);
    assert_eq!(between.look(second(3)), Some(Change::Entered(0.5)));
    let after = Balancer::new(settings.clone(), members.clone()).in_place_of(&between);
    assert_eq!(after.look(second(3)), None, "it has been told already");
    assert!(after.is_in_panic());
    settings.panic_threshold = 0.0;
    let without = Balancer::new(settings, members).in_place_of(&after);
    assert_eq!(without.look(second(4)), None);
    assert!(!without.is_in_panic());
}
