//! How much one source may do: connections open at once, and connections in a time.
//!
//! Memory is bounded whoever comes: a source with open connections is known as long as it has some,
//! and of those without, a [`Group`] remembers the rate of a few: the ones that have used most of it.

use std::fmt;
use std::net::IpAddr;

use super::rate;
use crate::lb::time::Tick;

/// Who counts as one: an IPv4 address, or the network of 64 bits that an IPv6 host chooses its
/// addresses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An address.
    V4(u32),
    /// The first half of an address.
    V6(u64),
}

impl Source {
    /// The source that a client with this address counts for.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
        }
    }
}

/// So many in such a time, spread evenly, and as many at once after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many; 1 to [`Pace::MAX`].
    pub count: u32,
    /// In which time.
    pub per: Period,
}

/// The time of a [`Pace`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// A second.
    Second,
    /// A minute.
    Minute,
}

impl Pace {
    /// More than this is no limit.
    pub const MAX: u32 = 1_000_000;

    /// Reads "20/s" or "600/m".
    pub fn parse(text: &str) -> Option<Self> {
        let (count, per) = text.split_once('/')?;
        let per = match per {
            "s" => Period::Second,
            "m" => Period::Minute,
            _ => return None,
        };
        let is_number = count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|_| is_number)?;
        (1..=Self::MAX)
            .contains(&count)
            .then_some(Self { count, per })
    }

    /// In nanoseconds, from one to the next.
    fn interval(&self) -> u128 {
        let period = match self.per {
            Period::Second => 1_000_000_000,
            Period::Minute => 60_000_000_000,
        };
        period / u128::from(self.count)
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Period::Second => 's',
            Period::Minute => 'm',
        };
        write!(f, "{}/{per}", self.count)
    }
}

/// What a source may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once; 0 = any number.
    pub open: u32,
    /// Connections in a time; `None` = any number.
    pub pace: Option<Pace>,
}

impl Limits {
    /// Whether a source may do anything.
    pub const fn is_none(&self) -> bool {
        self.open == 0 && self.pace.is_none()
    }
}

/// The limit that a source has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Of connections open at once.
    Open,
    /// Of connections in a time.
    Pace,
}

/// Some sources, few enough to look at one after another; each source is always in the same group.
#[derive(Debug, Default)]
pub struct Group(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    source: Source,
    /// Connections open now.
    open: u32,
    /// When it may do everything again that its pace allows, in nanoseconds: each connection puts
    /// that off by an interval. 0 without a pace.
    free: u64,
}

impl Group {
    /// Counts a new connection of `source`, unless a limit is reached.
    pub fn enter(&mut self, source: Source, limits: &Limits, now: Tick) -> Result<(), Reached> {
        let now = now.as_ms().saturating_mul(NANOSECONDS);
        let place = match self.0.iter().position(|entry| entry.source == source) {
            Some(place) => place,
            None => {
                self.0.retain(|entry| entry.open > 0 || entry.free > now);
                self.0.push(Entry {
                    source,
                    open: 0,
                    // Full, and no more: who is forgotten when full gains nothing by it.
                    free: limits.pace.map_or(0, |_| now),
                });
                self.0.len() - 1
            }
        };
        let entry = &mut self.0[place];
        if limits.open != 0 && entry.open >= limits.open {
            return Err(Reached::Open);
        }
        if let Some(pace) = limits.pace {
            let (free, now) = (u128::from(entry.free), u128::from(now));
            let taken = rate::take(free, now, pace.interval(), pace.count);
            let free = taken.ok_or(Reached::Pace)?;
            entry.free = u64::try_from(free).unwrap_or(u64::MAX);
        }
        entry.open += 1;
        Ok(())
    }

    /// A connection of `source` that was counted is over.
    pub fn leave(&mut self, source: Source) {
        let Some(place) = self.0.iter().position(|entry| entry.source == source) else {
            debug_assert!(false, "who leaves has entered");
            return;
        };
        self.0[place].open -= 1;
        if self.0[place].open > 0 {
            return;
        }
        let idle = |entry: &&Entry| entry.open == 0;
        if self.0[place].free == 0 {
            self.0.swap_remove(place);
        } else if self.0.iter().filter(idle).count() > REMEMBERED {
            let places = (0..).zip(&self.0).filter(|(_, entry)| entry.open == 0);
            let least = places.min_by_key(|(_, entry)| entry.free);
            if let Some((place, _)) = least {
                self.0.swap_remove(place);
            }
        }
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}

/// Nanoseconds of a tick.
const NANOSECONDS: u64 = 1_000_000;

/// Sources without open connections whose pace a group remembers.
const REMEMBERED: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn pace(text: &str) -> Limits {
        Limits {
            open: 0,
            pace: Some(Pace::parse(text).unwrap()),
        }
    }

    fn of(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn an_ipv6_host_is_one_source_and_a_mapped_address_is_ipv4() {
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_ne!(of("0.0.0.0"), of("::"));
    }

    #[test]
    fn a_pace_is_a_number_in_a_second_or_a_minute() {
        for text in ["1/s", "20/s", "600/m", "1000000/s"] {
            assert_eq!(Pace::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "20",
            "/s",
            "20/",
            "20/h",
            "0/s",
            "1000001/s",
            "+2/s",
            "-1/s",
            "2 /s",
            "2/s ",
            "1.5/s",
            "20/S",
            "99999999999/s",
            "2/s/s",
        ] {
            assert_eq!(Pace::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_refused_connection_counts_for_nothing() {
        let mut group = Group::default();
        let limits = Limits {
            open: 2,
            ..pace("3/s")
        };
        let enter = |group: &mut Group, ms| group.enter(Source::V4(1), &limits, Tick::from_ms(ms));
        assert_eq!(enter(&mut group, 0), Ok(()));
        assert_eq!(enter(&mut group, 0), Ok(()));
        for _ in 0..10 {
            assert_eq!(enter(&mut group, 0), Err(Reached::Open));
        }
        group.leave(Source::V4(1));
        assert_eq!(enter(&mut group, 0), Ok(()));
        group.leave(Source::V4(1));
        for _ in 0..10 {
            assert_eq!(enter(&mut group, 333), Err(Reached::Pace));
        }
        assert_eq!(enter(&mut group, 334), Ok(()));
        assert_eq!(group.0[0].open, 2);
    }

    #[test]
    fn a_lowered_limit_cuts_nobody_and_holds_for_the_next() {
        let mut group = Group::default();
        let at_most = |open| Limits { open, pace: None };
        for _ in 0..5 {
            group.enter(Source::V4(1), &at_most(5), Tick::ZERO).unwrap();
        }
        let next = |group: &mut Group| group.enter(Source::V4(1), &at_most(2), Tick::ZERO);
        for _ in 0..4 {
            assert_eq!(next(&mut group), Err(Reached::Open));
            group.leave(Source::V4(1));
        }
        assert_eq!(next(&mut group), Ok(()));
        group.leave(Source::V4(1));
        group.leave(Source::V4(1));
        assert!(group.0.is_empty());
    }

    #[test]
    fn any_number_of_sources_takes_bounded_memory_and_frees_no_busy_one() {
        let mut group = Group::default();
        let limits = Limits {
            open: 1,
            ..pace("2/m")
        };
        // It has used up its pace, and it has a connection: neither is forgotten.
        let once = |group: &mut Group, source, leaves: bool| {
            let entered = group.enter(source, &limits, Tick::ZERO);
            if entered.is_ok() && leaves {
                group.leave(source);
            }
            entered
        };
        let (spent, open) = (Source::V4(1), Source::V4(2));
        once(&mut group, open, false).unwrap();
        once(&mut group, spent, true).unwrap();
        once(&mut group, spent, true).unwrap();
        for n in 0..100_000 {
            once(&mut group, Source::V6(n), true).unwrap();
            assert!(group.0.len() <= REMEMBERED + 2);
        }
        assert_eq!(once(&mut group, open, false), Err(Reached::Open));
        assert_eq!(once(&mut group, spent, false), Err(Reached::Pace));
        // All that are full again go when somebody new comes.
        let later = Tick::from_ms(60_000);
        group.enter(Source::V4(9), &limits, later).unwrap();
        assert_eq!(group.0.len(), 2, "{group:?}");
    }

    #[test]
    fn a_source_that_was_forgotten_has_earned_no_more_than_one_that_was_not() {
        let limits = pace("1/s");
        for others in [0, 1] {
            let mut group = Group::default();
            let mut enter = |who, at| group.enter(Source::V4(who), &limits, Tick::from_ms(at));
            enter(0, 0).unwrap();
            for other in 1..=others {
                enter(other, 1_000).unwrap();
            }
            enter(0, 1_000).unwrap();
            assert_eq!(enter(0, 1_001), Err(Reached::Pace), "{others} others");
        }
    }

    proptest! {
        /// Exactly what its pace allows, and open connections exactly as a map of all counts them.
        #[test]
        fn counts_as_a_map_of_all_sources_does(
            limit in 0..4u32,
            count in 1..40u32,
            steps in vec((0..4u32, 0..80u64, any::<bool>()), 1..300),
        ) {
            let limits = Limits { open: limit, pace: Some(Pace { count, per: Period::Second }) };
            let mut group = Group::default();
            let mut open: HashMap<u32, u32> = HashMap::new();
            let mut entered: Vec<(u32, u64)> = Vec::new();
            let mut now = 0;
            for (who, step, leaves) in steps {
                now += step;
                let source = Source::V4(who);
                let here = open.entry(who).or_default();
                if leaves && *here > 0 {
                    group.leave(source);
                    *here -= 1;
                    continue;
                }
                match group.enter(source, &limits, Tick::from_ms(now)) {
                    Ok(()) => {
                        *here += 1;
                        entered.push((who, now));
                    }
                    Err(Reached::Open) => prop_assert!(limit != 0 && *here == limit),
                    Err(Reached::Pace) => {
                        // Then so many have entered since some moment that the next is one too many.
                        let own = || entered.iter().filter(|(other, _)| *other == who);
                        let is_due = own().enumerate().any(|(nth, &(_, since))| {
                            let later = own().count() - nth;
                            let earned = (now - since) * u64::from(count) / 1_000;
                            later as u64 >= u64::from(count) + earned
                        });
                        prop_assert!(is_due, "{:?} {} {}", entered, who, now);
                    }
                }
                prop_assert!(limit == 0 || *here <= limit);
            }
            // Never more in any time than a burst and what was earned meanwhile.
            for (nth, &(who, since)) in entered.iter().enumerate() {
                let mut later = 0;
                for &(_, at) in entered[nth..].iter().filter(|(other, _)| *other == who) {
                    later += 1;
                    let most = u64::from(count) + (at - since) * u64::from(count) / 1_000 + 1;
                    prop_assert!(later <= most, "{} of {} in {} ms", later, most, at - since);
                }
            }
        }
    }
}
