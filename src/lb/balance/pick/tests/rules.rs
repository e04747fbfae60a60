//! Whatever the members are like: picks agree with a naive reading of the rules.

use proptest::prelude::*;

use super::*;
use crate::lb::rng::Rng;

proptest! {
    /// Against a naive reading of the rules: whoever is picked may be, and somebody is if may be.
    #[test]
    fn agrees_with_the_rules(
        policy in proptest::sample::select(&POLICIES[..]),
        load_factor in prop_oneof![Just(0.0), 1.05..2.0f64],
        rows in proptest::collection::vec(
            (
                (0..4u16, 0..13u32), (0..3u32, 0..3u32, 0..3u8), any::<bool>(), any::<bool>(),
                any::<bool>(),
            ),
            1..12,
        ),
        counts in proptest::sample::select(&[Counts::Open, Counts::Busy][..]),
        soft_connections in 0..4u32,
        fail_open: bool,
        slow_start in 0..2u64,
        seed: u64,
    ) {
        let mut held = Vec::new();
        let mut tried = Vec::new();
        let mut members = Vec::new();
        let now = Tick::from_ms(1);
        for (index, row) in (0u16..).zip(&rows) {
            let &((weight, limit), (open, idle, health), backup, is_tried, is_back) = row;
            let state = Arc::new(BackendState::new("pool", &format!("b{index}"), health > 0));
            if is_back {
                state.come_back(now);
            }
            if health == 1 {
                let at_once = outlier::Settings { consecutive_failures: 1, ..settings(policy).outlier };
                state.traffic.on_failure(&at_once, now, || true);
            }
            held.extend((0..open).map(|nth| {
                let mut lease = state.reserve(0, Counts::Open).unwrap();
                lease.set_busy(nth >= idle);
                lease
            }));
            members.push(Member { state, weight, max_connections: limit, backup });
            if is_tried {
                tried.push(index);
            }
        }
        let is_slow = slow_start > 0;
        let slow_start = Duration::from_secs(slow_start);
        let settings = Settings {
            load_factor, fail_open, slow_start, counts, soft_connections, ..settings(policy)
        };
        let balancer = Balancer::new(settings, members);
        let all = balancer.members();
        let is = |index: u16, standard| match standard {
            Standard::Well => rows[usize::from(index)].1.2 == 2,
            Standard::Up => rows[usize::from(index)].1.2 > 0,
            Standard::Any => true,
        };
        let has = |backup: bool, standard, test: &dyn Fn(u16) -> bool| {
            (0u16..).zip(all).any(|(index, m)| {
                m.weight > 0 && m.backup == backup && is(index, standard) && test(index)
            })
        };
        let untried = |index: u16| !tried.contains(&index);
        // Of who is back, a tenth.
        let part = |limit: u32, index: u16| {
            if is_slow && rows[usize::from(index)].4 { limit.div_ceil(10) } else { limit }
        };
        let limit = |index: u16| part(rows[usize::from(index)].0.1, index);
        let load = |index: u16| all[usize::from(index)].state.load().counted(counts);
        let takes = |index: u16| untried(index) && (limit(index) == 0 || load(index) < limit(index));
        let is_preferred = |index: u16| takes(index) && load(index) < part(soft_connections, index);
        let mut preferred: Vec<_> = (0u16..).take(all.len()).map(is_preferred).collect();
        // The first tier that has somebody well and untried decides, then the first that has somebody
        // up; without anybody up, fail_open.
        let mut expected = None;
        let is_any_up = [false, true].iter().any(|&backup| has(backup, Standard::Up, &|_| true));
        'search: for standard in [Standard::Well, Standard::Up, Standard::Any] {
            if standard == Standard::Any && (!fail_open || is_any_up) {
                break;
            }
            for backup in [false, true] {
                if has(backup, standard, &untried) {
                    expected = Some((backup, standard));
                    break 'search;
                }
            }
        }
        let picked = balancer.pick(&client(1), &tried, now, &mut Rng::new(seed));
        match (picked, expected) {
            (Ok(picked), Some((backup, standard))) => {
                let m = &all[usize::from(picked.index)];
                prop_assert!(m.weight > 0 && m.backup == backup && untried(picked.index));
                prop_assert!(is(picked.index, standard));
                prop_assert!(m.max_connections == 0 || load(picked.index) <= limit(picked.index));
                let is_soft = preferred.swap_remove(usize::from(picked.index));
                let may_be_soft = |index| is_preferred(index);
                prop_assert!(is_soft || !has(backup, standard, &may_be_soft));
            }
            (Ok(_), None) => prop_assert!(false, "picked although nobody may be"),
            (Err(refusal), Some((backup, standard))) => {
                prop_assert!(!has(backup, standard, &takes), "refused although somebody may be");
                prop_assert_eq!(refusal, Refusal::AllFull);
            }
            (Err(refusal), None) => prop_assert!(refusal != Refusal::AllFull),
        }
    }

    /// No member passes the bound while others are within it.
    #[test]
    fn loads_stay_within_the_bound(
        policy in proptest::sample::select(&[Policy::Hash, Policy::Rendezvous][..]),
        factor in 1.01..2.0f64, count in 1..20usize, hot in 1..5u32,
    ) {
        let settings = Settings { load_factor: factor, ..settings(policy) };
        let balancer = Balancer::new(settings, equal(count));
        let mut rng = Rng::new(1);
        let mut held = Vec::new();
        for n in 0..300u32 {
            held.push(balancer.pick(&client(n % hot), &[], Tick::ZERO, &mut rng).unwrap());
            let bound = (factor * f64::from(n + 1) / count as f64).ceil();
            for member in balancer.members() {
                prop_assert!(f64::from(member.state.open()) <= bound);
            }
        }
    }
}
