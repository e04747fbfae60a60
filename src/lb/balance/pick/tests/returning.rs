//! Members that come back: their share and their limit grow, and nobody else's clients move.

use std::collections::VecDeque;

use super::*;
use crate::lb::rng::Rng;

fn second(number: u64) -> Tick {
    Tick::from_ms(1_000 * number)
}

fn slow(policy: Policy, slow_start: u64) -> Settings {
    Settings {
        slow_start: Duration::from_secs(slow_start),
        ..settings(policy)
    }
}

fn owners_at(balancer: &Balancer, clients: u32, now: Tick) -> Vec<usize> {
    let mut rng = Rng::new(1);
    let mut pick = |n| balancer.pick(&client(n), &[], now, &mut rng).unwrap();
    (0..clients).map(|n| usize::from(pick(n).index)).collect()
}

/// The member goes down, and is back a minute later.
fn leave_and_return(balancer: &Balancer, index: usize) {
    let state = &balancer.members()[index].state;
    state.set_up(false, second(40));
    state.set_up(true, second(100));
}

#[test]
fn its_share_grows_from_a_tenth_to_the_whole() {
    for policy in [
        Policy::Hash,
        Policy::Rendezvous,
        Policy::RoundRobin,
        Policy::Random,
    ] {
        let balancer = Balancer::new(slow(policy, 90), equal(5));
        leave_and_return(&balancer, 2);
        for (at, part) in [(100, 0.1), (110, 0.2), (150, 0.6), (190, 1.0), (999, 1.0)] {
            let counts = counts(&owners_at(&balancer, 20_000, second(at)), 5);
            let share = f64::from(counts[2]) / 4_000.0;
            assert!(
                (share - part).abs() <= 0.07,
                "{policy:?} at {at}: {counts:?}"
            );
        }
    }
    let balancer = Balancer::new(slow(Policy::First, 90), equal(5));
    leave_and_return(&balancer, 0);
    let counts = counts(&owners_at(&balancer, 10_000, second(110)), 5);
    assert!(counts[0].abs_diff(2_000) < 200 && counts[1] == 10_000 - counts[0]);
}

#[test]
fn by_hash_each_of_its_clients_comes_back_once_and_nobody_elses_move() {
    for policy in [Policy::Hash, Policy::Rendezvous] {
        let balancer = Balancer::new(slow(policy, 90), equal(5));
        let before = owners_at(&balancer, 3_000, second(1));
        balancer.members()[2].state.set_up(false, second(40));
        let without = owners_at(&balancer, 3_000, second(50));
        balancer.members()[2].state.set_up(true, second(100));
        let mut earlier = without.clone();
        for at in 100..=190 {
            let now = owners_at(&balancer, 3_000, second(at));
            for (client, &owner) in now.iter().enumerate() {
                let (home, stand_in) = (before[client], without[client]);
                assert!(
                    owner == home || home == 2 && owner == stand_in,
                    "{policy:?}"
                );
                assert!(
                    owner == earlier[client] || owner == home,
                    "{policy:?}: left again"
                );
            }
            earlier = now;
        }
        assert_eq!(earlier, before);
    }
}

#[test]
fn its_limit_grows_with_it() {
    for policy in POLICIES {
        let mut all = equal(2);
        all[0].max_connections = 50;
        all[1].max_connections = 1;
        let balancer = Balancer::new(slow(policy, 90), all);
        leave_and_return(&balancer, 0);
        let mut rng = Rng::new(1);
        for (at, limit) in [(100, 5), (110, 10), (150, 30), (190, 50)] {
            let mut held = Vec::new();
            let refusal = loop {
                let n = u32::try_from(held.len()).unwrap();
                match balancer.pick(&client(n), &[], second(at), &mut rng) {
                    Ok(picked) => held.push(picked),
                    Err(refusal) => break refusal,
                }
            };
            assert_eq!(refusal, Refusal::AllFull);
            assert_eq!(held.len(), 1 + limit, "{policy:?} at {at}");
        }
    }
}

#[test]
fn all_that_come_back_together_share_as_ever() {
    for policy in [
        Policy::RoundRobin,
        Policy::Random,
        Policy::LeastConnections,
        Policy::LeastBusy,
        Policy::LeastLatency,
    ] {
        let balancer = Balancer::new(slow(policy, 90), equal(4));
        (0..4).for_each(|index| leave_and_return(&balancer, index));
        let counts = counts(&owners_at(&balancer, 4_000, second(101)), 4);
        assert!(
            counts.iter().all(|count| count.abs_diff(1_000) <= 120),
            "{policy:?}: {counts:?}"
        );
    }
    // And whoever is alone takes everybody.
    for policy in POLICIES {
        let balancer = Balancer::new(slow(policy, 90), equal(1));
        leave_and_return(&balancer, 0);
        assert_eq!(
            owners_at(&balancer, 100, second(100)),
            [0; 100],
            "{policy:?}"
        );
    }
}

#[test]
fn the_start_of_the_process_is_no_return_and_the_end_of_an_ejection_is() {
    let share = |balancer: &Balancer, at| counts(&owners_at(balancer, 2_000, second(at)), 2)[0];
    let few = 120..250; // a tenth to a whole, of 2,000
    let balancer = Balancer::new(slow(Policy::RoundRobin, 90), equal(2));
    assert_eq!(share(&balancer, 0), 1_000);
    for _ in 0..3 {
        balancer.on_failure(&balancer.members()[0].state, second(70));
    }
    assert_eq!(share(&balancer, 99), 0);
    assert!(few.contains(&share(&balancer, 100)));
    assert_eq!(share(&balancer, 190), 1_000);

    // Nor is it one to be found well at the start.
    let first = Arc::new(BackendState::new("pool", "backend-0", false));
    let mut all = equal(2);
    all[0].state = Arc::clone(&first);
    let balancer = Balancer::new(slow(Policy::RoundRobin, 90), all);
    first.set_up(true, second(100));
    assert_eq!(share(&balancer, 100), 1_000);
    // To join others is.
    first.come_back(second(200));
    assert!(few.contains(&share(&balancer, 200)));
    // A worker whose clock is behind does not take it for one that was never away.
    assert!(few.contains(&share(&balancer, 199)));
}

/// Clients that come at an even rate, and stay for the same time each.
struct Load {
    balancer: Balancer,
    per_ms: u32,
    stay: Duration,
    held: VecDeque<(Tick, Picked)>,
    rng: Rng,
    /// For each millisecond, who all got and how many went to the first member.
    arrivals: Vec<(u32, u32)>,
}

impl Load {
    fn new(balancer: Balancer, per_ms: u32, stay: Duration) -> Self {
        Self {
            balancer,
            per_ms,
            stay,
            held: VecDeque::new(),
            rng: Rng::new(7),
            arrivals: Vec::new(),
        }
    }

    fn run(&mut self, from_ms: u64, to_ms: u64) {
        for now in (from_ms..to_ms).map(Tick::from_ms) {
            while self.held.front().is_some_and(|(until, _)| *until <= now) {
                self.held.pop_front();
            }
            let mut first = 0;
            for _ in 0..self.per_ms {
                let client = client(u32::try_from(self.rng.below(1 << 20)).unwrap());
                let picked = self
                    .balancer
                    .pick(&client, &[], now, &mut self.rng)
                    .unwrap();
                first += u32::from(picked.index == 0);
                self.held.push_back((now.after(self.stay), picked));
            }
            self.arrivals.push((self.per_ms, first));
        }
    }

    /// The greatest share of the first member in any window of so many milliseconds, in times of its
    /// fair share; arrivals before are forgotten.
    fn most(&self, window: usize) -> f64 {
        let fair = f64::from(self.per_ms) * window as f64 / self.balancer.members().len() as f64;
        let sums = self
            .arrivals
            .windows(window)
            .map(|ms| ms.iter().map(|(_, first)| first).sum());
        let most: u32 = sums.max().unwrap();
        f64::from(most) / fair
    }

    /// The first member goes down and comes back, which takes a minute.
    fn leave_and_return(&mut self) {
        self.balancer.members()[0].state.set_up(false, second(0));
        self.run(50_000, 60_000);
        self.balancer.members()[0].state.set_up(true, second(60));
        self.arrivals.clear();
    }
}

#[test]
fn hlt_16_least_connections_do_not_send_everybody_to_who_is_back() {
    for (members, slow_start, stay_ms) in [
        (4, 5, 200),
        (4, 1, 200),
        (2, 5, 200),
        (20, 10, 200),
        (4, 5, 9_000),
        (4, 1, 60_000),
    ] {
        for policy in [
            Policy::LeastConnections,
            Policy::LeastBusy,
            Policy::LeastLatency,
        ] {
            let balancer = Balancer::new(slow(policy, slow_start), equal(members));
            let mut load = Load::new(balancer, 10, Duration::from_millis(stay_ms));
            load.leave_and_return();
            load.run(60_000, 60_100);
            assert!(load.most(100) <= 0.3, "{}", load.most(100));
            load.run(60_100, 90_000);
            let most = load.most(100);
            println!(
                "{policy:?}: {members} members, {slow_start} s, {stay_ms} ms of work: at most {most:.3}"
            );
            let rounding = members as f64 / 1_000.0;
            assert!(most <= 1.5 + 2.0 * rounding, "{most}");
            assert!(
                stay_ms < 1_000 || most > 1.45,
                "it is held back all along: {most}"
            );
            // In the end it has what the others have.
            let open: Vec<u32> = (load.balancer.members().iter())
                .map(|member| member.state.open())
                .collect();
            let share = f64::from(open[0]) * members as f64 / f64::from(open.iter().sum::<u32>());
            assert!((share - 1.0).abs() < 0.02, "{open:?}");
            assert!(!load.balancer.members()[0].state.catches_up());
        }
    }
    // Without it they do.
    let mut load = Load::new(
        Balancer::new(settings(Policy::LeastConnections), equal(4)),
        10,
        Duration::from_millis(200),
    );
    load.leave_and_return();
    load.run(60_000, 61_000);
    assert!(load.most(100) > 1.9, "{}", load.most(100));
}

#[test]
fn hlt_16_no_policy_gives_more_than_one_and_a_half_shares_to_who_is_back() {
    for policy in [
        Policy::Hash,
        Policy::Rendezvous,
        Policy::RoundRobin,
        Policy::PowerOfTwo,
        Policy::Random,
    ] {
        let balancer = Balancer::new(slow(policy, 5), equal(4));
        let mut load = Load::new(balancer, 40, Duration::from_millis(200));
        load.leave_and_return();
        load.run(60_000, 60_100);
        assert!(load.most(100) <= 0.3, "{policy:?}: {}", load.most(100));
        load.run(60_100, 75_000);
        // Chance makes a tenth.
        assert!(load.most(100) <= 1.6, "{policy:?}: {}", load.most(100));
        let last: u32 = load.arrivals[14_000..].iter().map(|(_, first)| first).sum();
        assert!(
            last.abs_diff(10_000) < 1_000,
            "{policy:?}: {last} of the last second's"
        );
        assert_eq!(
            load.balancer.members()[0].state.catches_up(),
            policy != Policy::PowerOfTwo
        );
    }
}
