//! How many of something one source may begin in a second, in memory that does not grow with the
//! number of sources: who can forge addresses has as many as he likes.
//!
//! A count-min sketch (Cormode and Muthukrishnan 2005) over windows of a second: a source has a place
//! in each row, shares it with others, and is refused when all of its places are used up. Sharing
//! refuses somebody too early at worst, and it takes a busy source in each row: with a few of them that
//! is one source in millions, under a flood of forged sources more. Nobody gets more than the bound in
//! a window.

use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use crate::lb::time::Tick;

/// Counts of what sources have begun in this second.
pub struct PerSource<S> {
    per_second: u32,
    counts: Vec<[u32; ROWS]>,
    since: Tick,
    hasher: S,
}

impl<S> fmt::Debug for PerSource<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerSource")
            .field("per_second", &self.per_second)
            .finish_non_exhaustive()
    }
}

impl<S: BuildHasher> PerSource<S> {
    /// Nothing has begun; 0 = no bound, which takes no memory. `hasher` must be keyed with something
    /// that no source knows, or one could choose to share the places of another.
    pub fn new(per_second: u32, now: Tick, hasher: S) -> Self {
        let places = if per_second == 0 { 0 } else { PLACES };
        Self {
            per_second,
            counts: vec![[0; ROWS]; places],
            since: now,
            hasher,
        }
    }

    /// Counts one more of `source`, if it may begin one: an IPv4 address, or the 64 bits of an IPv6
    /// address that a host cannot choose itself.
    pub fn take(&mut self, now: Tick, source: IpAddr) -> bool {
        if self.per_second == 0 {
            return true;
        }
        if now.since(self.since) >= WINDOW {
            self.counts.fill([0; ROWS]);
            self.since = now;
        }
        let hash = self.hasher.hash_one(network(source));
        let places: [usize; ROWS] = std::array::from_fn(|row| place(hash, row));
        let mut rows = (0..ROWS).map(|row| self.counts[places[row]][row]);
        let may = rows.any(|count| count < self.per_second);
        if may {
            for (row, place) in places.into_iter().enumerate() {
                let count = &mut self.counts[place][row];
                *count = count.saturating_add(1);
            }
        }
        may
    }
}

/// What counts as one source.
fn network(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => u64::try_from(ip.to_bits() >> 64).expect("64 bits are left"),
    }
}

/// Each row takes bits of its own from the hash.
fn place(hash: u64, row: usize) -> usize {
    let bits = hash >> (u64::BITS as usize / ROWS * row) & (PLACES as u64 - 1);
    usize::try_from(bits).expect("a small number")
}

/// What the counts are of.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts that a source has.
const ROWS: usize = 2;

/// Places in a row: 32 KiB in all.
const PLACES: usize = 4096;

const _: () = assert!(PLACES.is_power_of_two() && PLACES.ilog2() as usize <= 64 / ROWS);

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    type Hasher = BuildHasherDefault<DefaultHasher>;

    fn bound(per_second: u32) -> PerSource<Hasher> {
        PerSource::new(per_second, Tick::ZERO, Hasher::default())
    }

    fn ip(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn no_bound_is_no_bound() {
        let mut sources = bound(0);
        assert!((0..10_000).all(|_| sources.take(Tick::ZERO, ip(1))));
    }

    #[test]
    fn who_asks_too_much_does_not_hurt_others() {
        let mut sources = bound(10);
        let served = (0..100_000).filter(|_| sources.take(Tick::ZERO, ip(0)));
        assert_eq!(served.count(), 10);
        assert!((1..1_000).all(|other| sources.take(Tick::ZERO, ip(other))));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_a_mapped_address_is_that_of_ipv4() {
        let host = |network: u128, host: u128| Ipv6Addr::from_bits(network << 64 | host).into();
        let mut sources = bound(2);
        let hosts = (0..100).filter(|&n| sources.take(Tick::ZERO, host(1 << 61, n)));
        assert_eq!(hosts.count(), 2);
        assert!(sources.take(Tick::ZERO, host((1 << 61) + 1, 0)));
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
        assert!(sources.take(Tick::ZERO, mapped));
        assert!(sources.take(Tick::ZERO, Ipv4Addr::LOCALHOST.into()));
        assert!(!sources.take(Tick::ZERO, mapped));
    }

    proptest! {
        /// In each window exactly the bound for a source that always asks and is alone, and never more
        /// whoever asks beside it.
        #[test]
        fn keeps_to_its_bound(
            per_second in 1..50u32,
            others in 0..3_000u32,
            steps in proptest::collection::vec(0..900u64, 1..40),
        ) {
            let mut sources = bound(per_second);
            let (mut now, mut since, mut taken) = (0, 0, 0);
            for step in steps {
                now += step;
                if now - since >= 1_000 {
                    (since, taken) = (now, 0);
                }
                for other in 0..others {
                    sources.take(Tick::from_ms(now), ip(other + 1));
                }
                while sources.take(Tick::from_ms(now), ip(0)) {
                    taken += 1;
                }
                prop_assert!(taken <= per_second, "{taken} at {now} ms");
                prop_assert!(others > 0 || taken == per_second, "{taken} at {now} ms");
            }
        }
    }
}
