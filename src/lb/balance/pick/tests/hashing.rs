//! Whom the hashes send where, and how few move when members do.

use super::*;

#[test]
fn maglev_is_even_to_a_percent_and_moves_little() {
    let all = members(&[1; 100]);
    let names: Vec<&str> = all.iter().map(|member| member.state.name()).collect();
    let table = Maglev::new(&names, &[1; 100]);
    let before = table.slots().to_vec();
    let owned: Vec<usize> = before.iter().map(|&owner| usize::from(owner)).collect();
    let share = max_to_mean(&counts(&owned, 100));
    let table = Maglev::new(&names[..99], &[1; 99]);
    let survivors = before
        .iter()
        .zip(table.slots())
        .filter(|(owner, _)| **owner != 99);
    let moved = survivors
        .clone()
        .filter(|(before, after)| before != after)
        .count();
    let share_moved = moved as f64 / survivors.count() as f64;
    println!(
        "65,537 slots, 100 members: max/mean {share:.4}, {:.2} % moved",
        share_moved * 100.0
    );
    assert_eq!(before.len(), 65_537);
    assert!(share <= 1.01, "{share}");
    assert!(share_moved < 0.01, "{share_moved}");
}

#[test]
fn a_member_that_goes_moves_its_own_keys_and_one_that_comes_few() {
    for (policy, extra) in [(Policy::Hash, 0.01), (Policy::Rendezvous, 0.0)] {
        let before = owners(&Balancer::new(settings(policy), equal(10)), 10_000);
        let after = owners(&Balancer::new(settings(policy), equal(9)), 10_000);
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(b, a)| **b != 9 && b != a)
            .count();
        assert!(
            moved as f64 <= extra * 10_000.0,
            "{policy:?}: {moved} moved"
        );
        let grown = owners(&Balancer::new(settings(policy), equal(11)), 10_000);
        let moved = before
            .iter()
            .zip(&grown)
            .filter(|(before, grown)| before != grown)
            .count();
        assert!(
            moved as f64 <= (1.0 / 11.0 + 0.02) * 10_000.0,
            "{policy:?}: {moved} moved"
        );
    }
}

#[test]
fn a_flap_moves_its_own_keys_and_back() {
    for policy in [Policy::Hash, Policy::Rendezvous] {
        let balancer = Balancer::new(settings(policy), equal(10));
        let before = owners(&balancer, 5_000);
        balancer.members()[4].state.set_up(false, Tick::ZERO);
        let during = owners(&balancer, 5_000);
        for (before, during) in before.iter().zip(&during) {
            assert!(if *before == 4 {
                *during != 4
            } else {
                before == during
            });
        }
        balancer.members()[4].state.set_up(true, Tick::ZERO);
        assert_eq!(owners(&balancer, 5_000), before);
    }
}

/// The balancer's hash output is an API: caches are sized by it. These owners were computed once
/// with this code; a change here sends users' clients to other backends.
#[test]
fn hash_owners_never_change() {
    for (policy, golden) in [
        (Policy::Hash, GOLDEN_HASH),
        (Policy::Rendezvous, GOLDEN_RENDEZVOUS),
    ] {
        let weights = [1, 1, 2, 1, 3];
        let owners_of_24 = owners(&Balancer::new(settings(policy), members(&weights)), 24);
        assert_eq!(owners_of_24, golden, "{policy:?}");
        let mut reversed = members(&weights);
        reversed.reverse();
        let mirrored: Vec<usize> = owners(&Balancer::new(settings(policy), reversed), 24)
            .iter()
            .map(|o| 4 - o)
            .collect();
        assert_eq!(
            mirrored, golden,
            "{policy:?}: the order in the file must not matter"
        );
    }
}

const GOLDEN_HASH: [usize; 24] = [
    2, 2, 4, 2, 4, 2, 2, 4, 3, 1, 0, 3, 2, 2, 2, 1, 2, 4, 1, 4, 0, 0, 0, 3,
];
const GOLDEN_RENDEZVOUS: [usize; 24] = [
    2, 4, 4, 0, 4, 1, 3, 4, 0, 2, 4, 2, 2, 2, 3, 4, 4, 0, 3, 0, 4, 2, 4, 2,
];
