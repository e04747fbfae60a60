//! Requests come, wait for a slot, are served and go, while instances start and stop: a second at a time.

use std::collections::VecDeque;

use super::*;
use crate::lb::rng::Rng;

/// What a pool is asked in a second.
type Arrivals = fn(u64, &mut Rng) -> u64;

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    waits: Vec<u64>,
    cut: usize,
    starts: usize,
    instance_seconds: u64,
}

impl Outcome {
    fn wait(&self, percent: usize) -> u64 {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        waits[(waits.len() - 1) * percent / 100]
    }
}

struct World {
    scaler: Scaler,
    settings: Settings,
    cold_start: u64,
    /// Ends of what each instance serves.
    served: Vec<Vec<u64>>,
    is_served: Vec<bool>,
    starting: Vec<(usize, u64)>,
    queue: VecDeque<u64>,
    outcome: Outcome,
}

impl World {
    fn new(settings: Settings, cold_start: u64) -> Self {
        Self {
            scaler: Scaler::new(settings, Tick::ZERO),
            settings,
            cold_start,
            served: vec![Vec::new(); settings.max],
            is_served: vec![false; settings.max],
            starting: Vec::new(),
            queue: VecDeque::new(),
            outcome: Outcome::default(),
        }
    }

    fn second(&mut self, now: u64, arrivals: Arrivals, rng: &mut Rng) {
        for ends in &mut self.served {
            ends.retain(|&end| end > now);
        }
        for (place, _) in self.starting.extract_if(.., |(_, ready)| *ready <= now) {
            self.scaler.on_ready(place, second(now));
            self.is_served[place] =
                matches!(self.scaler.instances()[place].state, State::Ready { .. });
        }
        let came = arrivals(now, rng);
        self.queue.extend((0..came).map(|_| now));
        self.serve(now, rng);
        let load = |ends: &Vec<u64>| Load {
            open: u32::try_from(ends.len()).unwrap(),
            busy: u32::try_from(ends.len()).unwrap(),
        };
        let loads: Vec<_> = self.served.iter().map(load).collect();
        let queued = u32::try_from(self.queue.len()).unwrap();
        for action in self.scaler.look(&loads, queued, second(now)) {
            self.act(action, now);
        }
        let is_up = |it: &&Instance| !matches!(it.state, State::Stopped | State::Resting { .. });
        self.outcome.instance_seconds +=
            self.scaler.instances().iter().filter(is_up).count() as u64;
        assert!(self.scaler.starting() <= self.settings.max_parallel_starts);
    }

    /// Slots go to who has waited longest; the instance with the least to do is chosen.
    fn serve(&mut self, now: u64, rng: &mut Rng) {
        let slots = self.settings.per_instance as usize;
        while let Some(&since) = self.queue.front() {
            let open = (0..self.served.len()).filter(|&place| self.is_served[place]);
            let Some(place) = open
                .filter(|&place| self.served[place].len() < slots)
                .min_by_key(|&place| self.served[place].len())
            else {
                return;
            };
            self.queue.pop_front();
            self.outcome.waits.push(now - since);
            self.served[place].push(now + 1 + rng.below(20));
        }
    }

    fn act(&mut self, action: Action, now: u64) {
        match action {
            Action::Start(place) => {
                self.outcome.starts += 1;
                self.starting.push((place, now + self.cold_start));
            }
            Action::Drain(place) => self.is_served[place] = false,
            Action::Undrain(place) => self.is_served[place] = true,
            Action::Stop(place) => {
                self.outcome.cut += self.served[place].len();
                self.served[place].clear();
                self.is_served[place] = false;
                self.starting.retain(|(other, _)| *other != place);
                self.scaler.on_end(place, second(now));
            }
        }
    }
}

fn simulate(settings: Settings, cold_start: u64, arrivals: Arrivals, seed: u64) -> Outcome {
    let (mut world, mut rng) = (World::new(settings, cold_start), Rng::new(seed));
    for now in 1..7_200 {
        world.second(now, arrivals, &mut rng);
    }
    // And then nobody comes any more.
    for now in 7_200..7_200 + 3_600 {
        world.second(now, |_, _| 0, &mut rng);
    }
    let Outcome { waits, cut, .. } = &world.outcome;
    assert!(world.queue.is_empty() && !waits.is_empty(), "seed {seed}");
    assert_eq!(*cut, 0, "seed {seed}: nobody is cut");
    let at_rest = world
        .scaler
        .instances()
        .iter()
        .filter(|it| it.state != State::Stopped);
    assert_eq!(at_rest.count(), settings.min, "seed {seed}");
    world.outcome
}

/// One and a half a second, each for ten seconds: about 16 are busy, which is four instances' work.
fn steady(_: u64, rng: &mut Rng) -> u64 {
    rng.below(4)
}

/// Two a second for a minute, and nobody for four.
fn bursty(now: u64, rng: &mut Rng) -> u64 {
    if now % 300 < 60 { rng.below(5) } else { 0 }
}

#[test]
fn all_that_is_missing_at_once_beats_one_after_the_other() {
    for seed in 1..6 {
        let at_once = simulate(SETTINGS, 60, steady, seed);
        let one_by_one = Settings {
            max_parallel_starts: 1,
            ..SETTINGS
        };
        let in_turn = simulate(one_by_one, 60, steady, seed);
        let of = |outcome: &Outcome| [50, 95, 99].map(|percent| outcome.wait(percent));
        println!(
            "seed {seed}: waits p50, p95, p99 {:?} with {} starts; one by one {:?} with {}",
            of(&at_once),
            at_once.starts,
            of(&in_turn),
            in_turn.starts
        );
        assert!(at_once.wait(99) < in_turn.wait(99), "seed {seed}");
        assert!(
            at_once.wait(50) == 0 && at_once.wait(99) <= 75,
            "seed {seed}: {:?}",
            of(&at_once)
        );
    }
}

#[test]
fn a_long_pause_to_shrink_rides_out_bursts() {
    for seed in 1..6 {
        let patient = Settings {
            scale_down_interval: Duration::from_secs(300),
            ..SETTINGS
        };
        let hasty = Settings {
            scale_down_interval: Duration::from_secs(5),
            ..SETTINGS
        };
        let [patient, hasty] = [patient, hasty].map(|it| simulate(it, 2, bursty, seed));
        println!(
            "seed {seed}: {} starts, {} instance seconds; {} and {} where it shrinks hastily",
            patient.starts, patient.instance_seconds, hasty.starts, hasty.instance_seconds
        );
        assert!(patient.starts < hasty.starts, "seed {seed}");
        assert!(
            patient.instance_seconds > hasty.instance_seconds,
            "seed {seed}"
        );
        // Where starts take long, the pause stretches by itself.
        let slow = Settings {
            scale_down_interval: Duration::from_secs(5),
            ..SETTINGS
        };
        assert!(
            simulate(slow, 150, bursty, seed).starts < hasty.starts,
            "seed {seed}"
        );
    }
}

#[test]
fn there_are_never_fewer_than_the_least() {
    for seed in 1..4 {
        let settings = Settings { min: 2, ..SETTINGS };
        simulate(settings, 30, bursty, seed);
    }
}
