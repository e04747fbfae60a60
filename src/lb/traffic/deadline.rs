//! Deadlines of many sessions: a hashed wheel (Varghese and Lauck 1987), one entry each.
//!
//! A session that moves bytes only notes when; its entry stays where it is and is put further on
//! when it fires too early. So a byte costs no timer work at all, and an idle session is looked at
//! once a revolution. An entry is named by 64 bits: the low half is its place, which must be small and
//! used by one entry at a time, the high half is handed back as it is. 24 bytes each.

use super::super::time::Tick;

/// The wheel. Fires up to [`GRAIN_MS`] late, never early.
#[derive(Debug)]
pub struct Wheel {
    entries: Vec<Entry>,
    heads: Box<[u32]>,
    /// One bit per slot: it has an entry.
    occupied: Box<[u64]>,
    /// One bit per word of `occupied`: it is not 0.
    summary: u128,
    /// The grain up to and including which everything due has fired.
    fired: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    next: u32,
    previous: u32,
    /// In grains, of which 32 bits would end after 497 days; [`UNARMED`] = none.
    due: u64,
    /// The high half of the name.
    tag: u32,
}

impl Entry {
    const EMPTY: Self = Self {
        next: NONE,
        previous: NONE,
        due: UNARMED,
        tag: 0,
    };
}

impl Wheel {
    /// An empty wheel that starts at `now`.
    pub fn new(now: Tick) -> Self {
        Self {
            entries: Vec::new(),
            heads: vec![NONE; SLOT_COUNT].into_boxed_slice(),
            occupied: vec![0; SLOT_COUNT / 64].into_boxed_slice(),
            summary: 0,
            fired: grain_before(now),
        }
    }

    /// Sets the deadline of entry `id`, replacing the one it had.
    pub fn arm(&mut self, id: u64, due: Tick) {
        self.disarm(id);
        let (index, tag) = halves(id);
        let place = index as usize;
        if self.entries.len() <= place {
            self.entries.resize(place + 1, Entry::EMPTY);
        }
        let due = self.coarse(grain_at_or_after(due).max(self.fired + 1));
        let slot = slot(due);
        let head = std::mem::replace(&mut self.heads[slot], index);
        self.entries[place] = Entry {
            next: head,
            previous: NONE,
            due,
            tag,
        };
        if head != NONE {
            self.entries[head as usize].previous = index;
        }
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.summary |= 1 << (slot / 64);
    }

    /// Takes the deadline of entry `id` away, if it has one.
    pub fn disarm(&mut self, id: u64) {
        self.unlink(halves(id).0);
    }

    fn unlink(&mut self, index: u32) {
        let Some(&Entry {
            next,
            previous,
            due,
            ..
        }) = self.entries.get(index as usize)
        else {
            return;
        };
        if due == UNARMED {
            return;
        }
        let slot = slot(due);
        if previous == NONE {
            self.heads[slot] = next;
            if next == NONE {
                let word = &mut self.occupied[slot / 64];
                *word &= !(1 << (slot % 64));
                if *word == 0 {
                    self.summary &= !(1 << (slot / 64));
                }
            }
        } else {
            self.entries[previous as usize].next = next;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        self.entries[index as usize].due = UNARMED;
    }

    /// When to call [`Wheel::expire`] next, at the latest: the next slot with an entry, which may be
    /// due only in a later revolution.
    pub fn next(&self) -> Option<Tick> {
        let start = self.fired + 1;
        let bit = start % 64;
        let here = self.occupied[slot(start) / 64] >> bit;
        let ahead = if here != 0 {
            u64::from(here.trailing_zeros())
        } else if self.summary != 0 {
            // Round the wheel, at last to the slots of this word that lie before the start.
            let later = self.summary.rotate_right((start / 64 % 128) as u32 + 1);
            let words = u64::from(later.trailing_zeros()) + 1;
            let bits = self.occupied[slot(start + words * 64) / 64];
            words * 64 - bit + u64::from(bits.trailing_zeros())
        } else {
            return None;
        };
        Some(Tick::from_ms((start + ahead) * GRAIN_MS))
    }

    /// Disarms every entry due at `now` and appends its name to `due`.
    pub fn expire(&mut self, now: Tick, due: &mut Vec<u64>) {
        let until = grain_before(Tick::from_ms(now.as_ms().saturating_add(1)));
        if until <= self.fired {
            return;
        }
        // After a long stop one revolution visits every slot; there is no need for more.
        let first = (self.fired + 1).max(until.saturating_sub(SLOTS - 1));
        self.fired = until;
        for grain in first..=until {
            let mut index = self.heads[slot(grain)];
            while index != NONE {
                let Entry {
                    next,
                    due: entry_due,
                    tag,
                    ..
                } = self.entries[index as usize];
                if entry_due <= until {
                    self.unlink(index);
                    due.push(u64::from(tag) << 32 | u64::from(index));
                }
                index = next;
            }
        }
    }

    /// Rounds a far deadline up to a whole second, so that a thousand idle sessions are one
    /// wake-up a second and not a hundred.
    const fn coarse(&self, due: u64) -> u64 {
        if due.saturating_sub(self.fired) < COARSE_FROM {
            return due;
        }
        due.div_ceil(COARSE_STEP) * COARSE_STEP
    }
}

/// The place of an entry and the rest of its name.
fn halves(id: u64) -> (u32, u32) {
    let low = u32::try_from(id & u64::from(u32::MAX)).expect("masked to 32 bits");
    (low, u32::try_from(id >> 32).expect("shifted to 32 bits"))
}

/// The last grain that lies wholly before `tick`.
const fn grain_before(tick: Tick) -> u64 {
    grain_at_or_after(tick).saturating_sub(1)
}

const fn grain_at_or_after(tick: Tick) -> u64 {
    tick.as_ms().div_ceil(GRAIN_MS)
}

/// The slot of a grain.
const fn slot(grain: u64) -> usize {
    (grain % SLOTS) as usize
}

/// What a deadline is rounded up to, in milliseconds.
pub const GRAIN_MS: u64 = 10;

/// Slots of the wheel: one revolution takes 82 s.
const SLOTS: u64 = SLOT_COUNT as u64;
const SLOT_COUNT: usize = 8192;

/// Grains from which on a deadline counts as far: 10 s, of which a second is a tenth.
const COARSE_FROM: u64 = 1000;

/// Grains a far deadline is rounded up to: 1 s.
const COARSE_STEP: u64 = 100;

/// No entry.
const NONE: u32 = u32::MAX;

/// No deadline: later than any, since a grain has several milliseconds.
const UNARMED: u64 = u64::MAX;

const _: () = assert!(SLOT_COUNT == 64 * u128::BITS as usize);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn fire(wheel: &mut Wheel, now_ms: u64) -> Vec<u64> {
        let mut due = Vec::new();
        wheel.expire(Tick::from_ms(now_ms), &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn fires_at_its_grain_and_not_before() {
        let mut wheel = Wheel::new(Tick::ZERO);
        let id = 7 << 32 | 3;
        wheel.arm(id, Tick::from_ms(25));
        assert_eq!(wheel.next(), Some(Tick::from_ms(30)));
        assert!(fire(&mut wheel, 29).is_empty());
        assert_eq!(fire(&mut wheel, 30), [id]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn the_next_is_exact_within_a_revolution() {
        for start_ms in (0..200_000).step_by(630) {
            let mut wheel = Wheel::new(Tick::from_ms(start_ms));
            for ahead_ms in [80_000, 40_000, 9_000, 5_110, 640, 630, 20, 10] {
                let step = if ahead_ms < 9_000 { GRAIN_MS } else { 1_000 };
                let due = (start_ms + ahead_ms).next_multiple_of(step);
                wheel.arm(ahead_ms, Tick::from_ms(due));
                assert_eq!(wheel.next(), Some(Tick::from_ms(due)));
            }
        }
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_the_next_grain() {
        let mut wheel = Wheel::new(Tick::from_ms(5_000));
        wheel.arm(0, Tick::ZERO);
        let next = wheel.next().expect("armed");
        assert!(next <= Tick::from_ms(5_010));
        assert_eq!(fire(&mut wheel, next.as_ms()), [0]);
    }

    #[test]
    fn a_deadline_beyond_one_revolution_waits_for_its_own() {
        let mut wheel = Wheel::new(Tick::ZERO);
        wheel.arm(0, Tick::from_ms(3_600_000));
        for second in 1..3_600 {
            assert!(fire(&mut wheel, second * 1_000).is_empty(), "at {second} s");
        }
        assert_eq!(fire(&mut wheel, 3_600_000), [0]);
    }

    #[test]
    fn a_stop_of_an_hour_fires_everything_once() {
        let mut wheel = Wheel::new(Tick::ZERO);
        for index in 0..100 {
            wheel.arm(index, Tick::from_ms(index * 700));
        }
        wheel.arm(100, Tick::from_ms(7_200_000));
        assert_eq!(fire(&mut wheel, 3_600_000).len(), 100);
        assert_eq!(fire(&mut wheel, 7_200_000), [100]);
    }

    #[test]
    fn the_farthest_deadline_is_never_reached() {
        let mut wheel = Wheel::new(Tick::ZERO);
        wheel.arm(0, Tick::from_ms(u64::MAX));
        assert!(fire(&mut wheel, 400 * 86_400_000).is_empty());
    }

    #[test]
    fn deadlines_go_on_after_years() {
        let year_ms = 365 * 86_400_000;
        for years in [1, 2, 100] {
            let mut wheel = Wheel::new(Tick::from_ms(years * year_ms));
            for round in 0..3 {
                let now_ms = (years + round) * year_ms;
                let _before = fire(&mut wheel, now_ms);
                for index in 0..3 {
                    wheel.arm(index, Tick::from_ms(now_ms + 1_000));
                }
                let next = wheel.next().expect("armed");
                assert!(next <= Tick::from_ms(now_ms + 1_000), "{next:?}");
                assert!(fire(&mut wheel, now_ms + 990).is_empty());
                assert_eq!(fire(&mut wheel, now_ms + 1_000), [0, 1, 2]);
                assert_eq!(wheel.next(), None);
            }
        }
    }

    proptest! {
        /// Against a sorted map, to which every deadline is given as it is.
        #[test]
        fn agrees_with_a_sorted_map(
            actions in proptest::collection::vec((0..3u8, 0..20u64, 0..200_000u64), 1..200),
            start_ms in prop_oneof![0..10_000_000u64, 0..10_000_000_000_000u64],
        ) {
            let mut wheel = Wheel::new(Tick::from_ms(start_ms));
            let mut model: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
            let mut now = start_ms;
            for (kind, index, ms) in actions {
                match kind {
                    0 => {
                        let slack = if ms >= 9_000 { 1_000 } else { 0 };
                        wheel.arm(index, Tick::from_ms(now + ms));
                        model.insert(index, (now + ms, now + ms + slack + GRAIN_MS));
                    }
                    1 => {
                        wheel.disarm(index);
                        model.remove(&index);
                    }
                    _ => {
                        now += ms / 4;
                        for index in fire(&mut wheel, now) {
                            let (due, _) = model.remove(&index).expect("only armed entries fire");
                            prop_assert!(due <= now, "fired early");
                        }
                        for (index, (_, latest)) in &model {
                            prop_assert!(*latest >= now, "entry {} is late", index);
                        }
                    }
                }
                match wheel.next() {
                    Some(next) => {
                        let latest = model.values().map(|&(_, latest)| latest).min();
                        prop_assert!(next.as_ms() <= latest.expect("armed") + GRAIN_MS);
                    }
                    None => prop_assert!(model.is_empty()),
                }
            }
        }
    }
}
