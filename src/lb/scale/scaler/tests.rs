//! Each rule by itself, then all of them over hours of virtual time.

mod simulation;

use proptest::prelude::*;

use super::*;

pub(super) const SETTINGS: Settings = Settings {
    min: 0,
    max: 6,
    per_instance: 4,
    scale_down_interval: Duration::from_secs(120),
    idle_timeout: Duration::from_secs(600),
    start_timeout: Duration::from_secs(600),
    drain_timeout: Duration::from_secs(600),
    max_parallel_starts: 3,
};

fn second(number: u64) -> Tick {
    Tick::from_ms(1_000 * number)
}

fn busy(numbers: &[u32]) -> Vec<Load> {
    let load = |&busy: &u32| Load { open: busy, busy };
    numbers.iter().map(load).collect()
}

/// A scaler with so many instances that are ready since then, one after the other.
fn ready(settings: Settings, count: usize) -> Scaler {
    let mut scaler = Scaler::new(settings, Tick::ZERO);
    scaler.aim(Target::Fixed(count));
    while scaler.ready() < count {
        for action in scaler.look(&[], 0, Tick::ZERO) {
            let Action::Start(place) = action else {
                panic!("{action:?}");
            };
            scaler.on_ready(place, second(place as u64));
        }
    }
    scaler.aim(Target::Auto);
    scaler
}

#[test]
fn all_that_is_missing_starts_at_once_within_the_limit() {
    let mut scaler = Scaler::new(SETTINGS, Tick::ZERO);
    assert_eq!(scaler.look(&[], 0, second(1)), [], "nobody asks");
    let starts = [0, 1, 2].map(Action::Start);
    assert_eq!(scaler.look(&[], 17, second(2)), starts);
    assert_eq!(scaler.wanted(), 5);
    assert_eq!(scaler.look(&[], 17, second(3)), [], "they start already");
    scaler.on_ready(1, second(30));
    assert_eq!(
        scaler.look(&busy(&[0, 4]), 13, second(31)),
        [Action::Start(3)]
    );
    assert_eq!(scaler.starts().most(), Duration::from_secs(28));
    // Whatever is asked, there are no more places.
    scaler.on_ready(0, second(32));
    scaler.on_ready(2, second(32));
    scaler.on_ready(3, second(32));
    let starts = [4, 5].map(Action::Start);
    assert_eq!(scaler.look(&busy(&[4; 4]), 9_999, second(33)), starts);
}

#[test]
fn the_least_is_there_without_being_asked_for() {
    let settings = Settings { min: 2, ..SETTINGS };
    let mut scaler = Scaler::new(settings, Tick::ZERO);
    let starts = [0, 1].map(Action::Start);
    assert_eq!(scaler.look(&[], 0, second(1)), starts);
    scaler.on_ready(0, second(2));
    scaler.on_ready(1, second(2));
    for now in 3..10_000 {
        assert_eq!(scaler.look(&[], 0, second(now)), [], "at {now}");
    }
    // For one that dies another one is started: that place has a rest.
    scaler.on_end(1, second(10_000));
    assert_eq!(scaler.look(&[], 0, second(10_000)), [Action::Start(2)]);
    assert_eq!(
        scaler.look(&[], 0, second(10_002)),
        [],
        "it is missed no more"
    );
}

#[test]
fn what_is_too_much_goes_one_at_a_time_and_the_coldest_first() {
    let mut scaler = ready(SETTINGS, 4);
    let mut drained = Vec::new();
    for now in 1_000..2_000 {
        for action in scaler.look(&busy(&[1, 0, 0, 0]), 0, second(now)) {
            drained.push((now, action));
            if let Action::Stop(place) = action {
                scaler.on_end(place, second(now));
            }
        }
    }
    let expected = [(3, 1_000), (2, 1_120), (1, 1_240)];
    let expected =
        expected.map(|(place, now)| [(now, Action::Drain(place)), (now + 1, Action::Stop(place))]);
    assert_eq!(drained, expected.concat(), "and who is busy stays");
}

#[test]
fn the_pause_is_no_shorter_than_starts_are_long() {
    let mut scaler = ready(SETTINGS, 3);
    scaler.starts = StartTimes::default();
    scaler.starts.observe(Duration::from_secs(200));
    let mut drained = Vec::new();
    for now in 1_000..2_000 {
        let actions = scaler.look(&busy(&[1, 0, 0]), 0, second(now));
        drained.extend(
            actions
                .iter()
                .any(|it| matches!(it, Action::Drain(_)))
                .then_some(now),
        );
        for action in actions {
            if let Action::Stop(place) = action {
                scaler.on_end(place, second(now));
            }
        }
    }
    assert_eq!(drained, [1_000, 1_300]);
}

#[test]
fn nobody_goes_while_the_others_have_no_room() {
    let mut scaler = ready(SETTINGS, 3);
    // Two are full: with the third one gone there would be no room for one more.
    for now in 1_000..3_000 {
        assert_eq!(
            scaler.look(&busy(&[4, 4, 0]), 0, second(now)),
            [],
            "at {now}"
        );
    }
}

#[test]
fn the_last_one_goes_when_nobody_has_been_there_since_it_was_ready() {
    let settings = Settings { max: 1, ..SETTINGS };
    let mut scaler = Scaler::new(settings, Tick::ZERO);
    assert_eq!(scaler.look(&[], 1, second(1)), [Action::Start(0)]);
    for now in 2..601 {
        assert_eq!(
            scaler.look(&[], 0, second(now)),
            [],
            "the start is not idle time"
        );
    }
    scaler.on_ready(0, second(600));
    for now in 601..1_200 {
        assert_eq!(scaler.look(&[], 0, second(now)), [], "it begins now");
    }
    let open = [Load { open: 1, busy: 0 }];
    for now in 1_200..3_000 {
        assert_eq!(
            scaler.look(&open, 0, second(now)),
            [],
            "somebody is there, though idle"
        );
    }
    for now in 3_000..3_600 {
        assert_eq!(scaler.look(&[], 0, second(now)), []);
    }
    assert_eq!(scaler.look(&[], 0, second(3_600)), [Action::Drain(0)]);
    assert_eq!(scaler.look(&[], 0, second(3_601)), [Action::Stop(0)]);
    assert_eq!(
        scaler.look(&[], 1, second(3_602)),
        [],
        "it may still hold what it needs"
    );
    scaler.on_end(0, second(3_603));
    assert_eq!(scaler.look(&[], 1, second(3_603)), [Action::Start(0)]);
}

#[test]
fn who_drains_is_taken_back_before_anybody_is_started() {
    let mut scaler = ready(SETTINGS, 3);
    assert_eq!(
        scaler.look(&busy(&[1, 1, 1]), 0, second(1_000)),
        [Action::Drain(2)]
    );
    let both = [Action::Undrain(2), Action::Start(3)];
    assert_eq!(scaler.look(&busy(&[4, 4, 1]), 4, second(1_001)), both);
    assert!(matches!(scaler.instances()[2].state(), State::Ready { since } if since == second(2)));
}

#[test]
fn a_drain_ends_when_nobody_is_busy_or_time_is_up() {
    let mut scaler = ready(SETTINGS, 2);
    assert_eq!(
        scaler.look(&busy(&[1, 2]), 0, second(1_000)),
        [Action::Drain(0)]
    );
    for now in 1_001..1_600 {
        assert_eq!(scaler.look(&busy(&[1, 2]), 0, second(now)), []);
    }
    assert_eq!(
        scaler.look(&busy(&[1, 2]), 0, second(1_600)),
        [Action::Stop(0)]
    );
}

#[test]
fn a_start_that_fails_or_never_ends_is_tried_again_and_not_for_ever() {
    let settings = Settings { max: 1, ..SETTINGS };
    let mut scaler = Scaler::new(settings, Tick::ZERO);
    let (mut starts, mut stops) = (Vec::new(), 0);
    for now in 1..10_000 {
        for action in scaler.look(&[], 1, second(now)) {
            match action {
                Action::Start(_) => {
                    starts.push(now);
                    if starts.len() % 2 == 0 {
                        scaler.on_end(0, second(now)); // it ends at once
                    }
                }
                Action::Stop(_) => {
                    stops += 1;
                    scaler.on_end(0, second(now));
                }
                Action::Drain(_) | Action::Undrain(_) => panic!("{action:?}"),
            }
        }
    }
    assert_eq!(starts, [1, 602, 604, 1_208, 1_216]);
    assert_eq!(stops, 3, "each after its 600 seconds");
    assert!(scaler.is_hopeless());
    scaler.aim(Target::Auto);
    assert_eq!(scaler.look(&[], 1, second(10_000)), [Action::Start(0)]);
    assert!(!scaler.is_hopeless());
}

#[test]
fn who_says_how_many_gets_them_at_once() {
    let mut scaler = ready(SETTINGS, 2);
    scaler.aim(Target::Fixed(5));
    let starts = [2, 3, 4].map(Action::Start);
    assert_eq!(scaler.look(&[], 0, second(100)), starts);
    scaler.on_ready(2, second(110));
    scaler.aim(Target::Fixed(1));
    let actions = [
        Action::Stop(4),
        Action::Stop(3),
        Action::Drain(2),
        Action::Drain(1),
    ];
    assert_eq!(
        scaler.look(&busy(&[4, 4, 4]), 50, second(111)),
        actions,
        "whatever is asked"
    );
    scaler.aim(Target::Fixed(99));
    scaler.look(&busy(&[4, 4, 4]), 0, second(112));
    assert_eq!(scaler.wanted(), SETTINGS.max);
}

#[test]
fn fewer_places_let_those_beyond_go() {
    let mut scaler = ready(SETTINGS, 4);
    scaler.set(Settings { max: 2, ..SETTINGS });
    let drains = [Action::Drain(2), Action::Drain(3)];
    assert_eq!(
        scaler.look(&busy(&[0, 0, 4, 4]), 9, second(9)),
        drains,
        "though these are busy"
    );
    assert_eq!(
        scaler.look(&busy(&[4, 4, 4, 4]), 9, second(10)),
        [],
        "nor are they taken back"
    );
    let stops = [Action::Stop(2), Action::Stop(3)];
    assert_eq!(scaler.look(&busy(&[4, 4, 0, 0]), 0, second(11)), stops);
    scaler.on_end(3, second(12));
    scaler.on_end(2, second(12));
    assert_eq!(scaler.instances().len(), 2);
    // Also where there are not too many.
    let mut scaler = ready(SETTINGS, 3);
    scaler.on_end(0, second(10));
    scaler.set(Settings { max: 2, ..SETTINGS });
    assert_eq!(
        scaler.look(&busy(&[0, 1, 1]), 0, second(10)),
        [Action::Drain(2)]
    );
}

proptest! {
    /// Whatever happens, and in whatever order: never more than may be, never one thing twice.
    #[test]
    fn no_order_of_events_breaks_a_limit(
        min in 0..3usize, more in 1..5usize, parallel in 1..4usize,
        events in proptest::collection::vec((0..8u8, 0..6usize, 0..20u32, 0..400u64), 1..200),
    ) {
        let settings = Settings { min, max: min + more, max_parallel_starts: parallel, ..SETTINGS };
        let mut scaler = Scaler::new(settings, Tick::ZERO);
        let (mut now, mut loads) = (0, vec![Load::default(); min + more]);
        for (kind, place, number, pause) in events {
            now += pause;
            let place = place % (min + more);
            match kind {
                0 => scaler.on_ready(place, second(now)),
                1 => scaler.on_end(place, second(now)),
                2 => scaler.aim(Target::Fixed(number as usize)),
                3 => scaler.aim(Target::Auto),
                4 => loads[place] = Load { open: number, busy: number / 2 },
                _ => {
                    let before = scaler.instances().to_vec();
                    for action in scaler.look(&loads, number, second(now)) {
                        let at = |place: usize| before[place].state();
                        let is_right = match action {
                            Action::Start(place) =>
                                matches!(at(place), State::Stopped | State::Resting { .. }),
                            Action::Drain(place) => matches!(at(place), State::Ready { .. }),
                            Action::Undrain(place) => matches!(at(place), State::Draining { .. }),
                            Action::Stop(place) =>
                                matches!(at(place), State::Starting { .. } | State::Draining { .. }),
                        };
                        prop_assert!(is_right, "{:?} of {:?}", action, before);
                    }
                }
            }
            prop_assert!(scaler.starting() <= parallel);
            prop_assert!(scaler.ready() + scaler.starting() <= settings.max);
            prop_assert_eq!(scaler.instances().len(), settings.max);
        }
    }
}
