//! An operator's word holds whatever the health of a backend is.

use super::*;
use crate::lb::admin::Admin;
use crate::lb::rng::Rng;

fn owners(balancer: &Balancer) -> Vec<u16> {
    let mut rng = Rng::new(1);
    let mut owners: Vec<u16> = (0..100)
        .filter_map(|n| balancer.pick(&client(n), &[], Tick::ZERO, &mut rng).ok())
        .map(|picked| picked.index)
        .collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}

#[test]
fn nobody_new_comes_to_a_backend_that_its_operator_takes_out() {
    for policy in POLICIES {
        for admin in [Admin::Drain, Admin::Down] {
            let mut members = equal(3);
            members[2].backup = true;
            let balancer = Balancer::new(settings(policy), members);
            let state = |place: usize| Arc::clone(&balancer.members()[place].state);
            state(0).orders.set_admin(admin);
            assert_eq!(owners(&balancer), [1], "{policy:?}");
            // One that is down keeps the backup out as little as one that is taken out.
            state(1).orders.set_admin(admin);
            assert_eq!(owners(&balancer), [2], "{policy:?}");
            state(1).orders.set_admin(Admin::Ready);
            assert!(balancer.take_again(&state(0), &[], Tick::ZERO).is_none());
            assert_eq!(balancer.take(0).is_some(), admin == Admin::Drain);
        }
    }
}

#[test]
fn neither_fail_open_nor_panic_overrules_the_operator() {
    let mut settings = settings(Policy::RoundRobin);
    settings.fail_open = true;
    settings.panic_threshold = 0.6;
    let balancer = Balancer::new(settings, equal(4));
    let state = |place: usize| Arc::clone(&balancer.members()[place].state);
    state(0).orders.set_admin(Admin::Drain);
    state(1).orders.set_admin(Admin::Down);
    // Half of them are left, all of which are well: that is no emergency.
    balancer.look(Tick::from_ms(1000));
    assert!(!balancer.is_in_panic());
    assert_eq!(owners(&balancer), [2, 3]);
    state(2).set_up(false, Tick::ZERO);
    balancer.look(Tick::from_ms(2000));
    assert!(balancer.is_in_panic());
    assert_eq!(owners(&balancer), [2, 3]);
    state(3).set_up(false, Tick::ZERO);
    balancer.look(Tick::from_ms(3000));
    assert_eq!(owners(&balancer), [2, 3]);
    state(2).orders.set_admin(Admin::Drain);
    state(3).orders.set_admin(Admin::Drain);
    let mut rng = Rng::new(1);
    let refused = balancer.pick(&client(1), &[], Tick::ZERO, &mut rng);
    assert_eq!(refused.unwrap_err(), Refusal::NoneAvailable);
}

#[test]
fn who_is_taken_out_counts_for_no_share_of_ejections() {
    let mut settings = settings(Policy::RoundRobin);
    settings.outlier = outlier::Settings {
        consecutive_failures: 1,
        eject_time: Duration::from_secs(1),
        max_ejected: 0.5,
    };
    let balancer = Balancer::new(settings, equal(4));
    let state = |place: usize| Arc::clone(&balancer.members()[place].state);
    state(0).orders.set_admin(Admin::Drain);
    state(1).orders.set_admin(Admin::Drain);
    assert!(balancer.on_failure(&state(2), Tick::ZERO).is_some());
    // Nobody else is left.
    assert!(balancer.on_failure(&state(3), Tick::ZERO).is_none());
}
