//! Who may connect at all: the longest prefix that holds a client's address decides.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network: an address without host bits, and how many of its bits count. A network of mapped IPv4
/// addresses is one of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    network: IpAddr,
    bits: u8,
}

impl Prefix {
    /// The network of this length that holds `address`; `None` if no address has so many bits.
    pub fn holding(address: IpAddr, bits: u8) -> Option<Self> {
        if bits > width(address) {
            return None;
        }
        let Some((address, bits)) = unmapped(address, bits) else {
            return Some(Self {
                network: at(address, aligned(address) & !host_bits(bits)),
                bits,
            });
        };
        Self::holding(address.into(), bits)
    }

    /// The network of this address alone.
    pub fn of(address: IpAddr) -> Self {
        let network = address.to_canonical();
        Self {
            network,
            bits: width(network),
        }
    }

    /// Its first address.
    pub const fn network(&self) -> IpAddr {
        self.network
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_of_family = address.is_ipv4() == self.network.is_ipv4();
        is_of_family && (self.first()..=self.last()).contains(&aligned(address))
    }

    fn first(&self) -> u128 {
        aligned(self.network)
    }

    fn last(&self) -> u128 {
        self.first() | host_bits(self.bits)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

/// Says of every address whether it may connect. Immutable; a lookup is a binary search.
#[derive(Debug)]
pub struct Access {
    v4: Ranges,
    v6: Ranges,
}

impl Access {
    /// Who is in a network of `allow` may connect, unless a network of `deny` that holds it is as
    /// long or longer. Without any `allow`, so may everyone else.
    pub fn new(allow: &[Prefix], deny: &[Prefix]) -> Self {
        let rules = |is_v4: bool| {
            let of_family = move |prefix: &&Prefix| prefix.network.is_ipv4() == is_v4;
            let allowed = allow.iter().filter(of_family).map(|&prefix| (prefix, true));
            let denied = deny.iter().filter(of_family).map(|&prefix| (prefix, false));
            Ranges::new(allowed.chain(denied).collect(), allow.is_empty())
        };
        Self {
            v4: rules(true),
            v6: rules(false),
        }
    }

    /// Whether a client with this address may connect.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let ranges = if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        ranges.find(aligned(address))
    }
}

/// All addresses of a family, in ranges that follow each other: where each begins, and whether its
/// addresses are allowed.
#[derive(Debug)]
struct Ranges(Vec<(u128, bool)>);

impl Ranges {
    fn new(mut rules: Vec<(Prefix, bool)>, otherwise: bool) -> Self {
        // Outer networks before the inner ones that begin with them, and what wins last.
        rules.sort_unstable_by_key(|(prefix, allowed)| (prefix.first(), prefix.bits, !allowed));
        let mut ranges = Self(vec![(0, otherwise)]);
        // The networks around the place that is looked at, from the outermost: networks never
        // overlap in part.
        let mut around: Vec<(u128, bool)> = Vec::new();
        let leave = |ranges: &mut Self, around: &mut Vec<(u128, bool)>, until: u128| {
            while let Some((last, _)) = around.pop_if(|(last, _)| *last < until) {
                let outer = around.last().map_or(otherwise, |(_, allowed)| *allowed);
                ranges.begin(last + 1, outer); // `last` is below another number
            }
        };
        for (prefix, allowed) in rules {
            leave(&mut ranges, &mut around, prefix.first());
            ranges.begin(prefix.first(), allowed);
            around.push((prefix.last(), allowed));
        }
        leave(&mut ranges, &mut around, u128::MAX);
        ranges.0.shrink_to_fit();
        ranges
    }

    /// Whatever is at `first` and after it is allowed or not, until told otherwise.
    fn begin(&mut self, first: u128, allowed: bool) {
        self.0.pop_if(|(begin, _)| *begin == first);
        if self.0.last().is_none_or(|(_, before)| *before != allowed) {
            self.0.push((first, allowed));
        }
    }

    fn find(&self, address: u128) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= address);
        // The first range begins with the first address.
        self.0[after - 1].1
    }
}

/// How many bits an address has.
const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The IPv4 network that a network of mapped addresses stands for.
fn unmapped(address: IpAddr, bits: u8) -> Option<(Ipv4Addr, u8)> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some((address.to_ipv4_mapped()?, bits.checked_sub(96)?)),
    }
}

/// An address as a number whose highest bit is its first, so that the same bits count in both
/// families.
fn aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of the family of `like` that stands for this number.
fn at(like: IpAddr, aligned: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => {
            let bits = u32::try_from(aligned >> 96).expect("128 bits less 96");
            Ipv4Addr::from_bits(bits).into()
        }
        IpAddr::V6(_) => Ipv6Addr::from_bits(aligned).into(),
    }
}

/// The bits after the first `bits`.
fn host_bits(bits: u8) -> u128 {
    u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        match text.split_once('/') {
            Some((address, bits)) => {
                Prefix::holding(address.parse().unwrap(), bits.parse().unwrap()).unwrap()
            }
            None => Prefix::of(text.parse().unwrap()),
        }
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| prefix(text)).collect()
    }

    #[track_caller]
    fn assert_allows(access: &Access, allowed: &[&str], denied: &[&str]) {
        for address in allowed {
            assert!(access.allows(address.parse().unwrap()), "{address}");
        }
        for address in denied {
            assert!(!access.allows(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn prefixes_are_shown_as_they_are_written() {
        for text in [
            "10.0.0.0/8",
            "0.0.0.0/0",
            "1.2.3.4/32",
            "::/0",
            "2001:db8::/32",
        ] {
            assert_eq!(prefix(text).to_string(), text);
        }
        assert_eq!(prefix("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(prefix("::ffff:10.1.2.3/104").to_string(), "10.0.0.0/8");
        assert_eq!(prefix("::ffff:10.1.2.3").to_string(), "10.1.2.3/32");
        assert_eq!(prefix("::ffff:0:0/95").to_string(), "::fffe:0:0/95");
        assert_eq!(Prefix::holding("1.2.3.4".parse().unwrap(), 33), None);
        assert_eq!(Prefix::holding("::".parse().unwrap(), 129), None);
    }

    #[test]
    fn the_longest_prefix_decides_and_deny_wins_at_equal_length() {
        let access = Access::new(&[], &prefixes(&["10.0.0.0/8", "2001:db8::/32"]));
        assert_allows(
            &access,
            &["9.255.255.255", "11.0.0.0", "::1", "2001:db9::"],
            &[
                "10.0.0.0",
                "10.255.255.255",
                "::ffff:10.0.0.1",
                "2001:db8:ffff::",
            ],
        );
        let allow = prefixes(&["10.0.0.0/8", "10.1.1.0/24", "192.168.0.1"]);
        let access = Access::new(
            &allow,
            &prefixes(&["10.1.0.0/16", "192.168.0.1", "10.1.1.7"]),
        );
        assert_allows(
            &access,
            &[
                "10.0.0.1",
                "10.2.0.0",
                "10.1.1.1",
                "10.1.1.8",
                "::ffff:10.1.1.1",
            ],
            &[
                "10.1.0.1",
                "10.1.2.0",
                "10.1.1.7",
                "192.168.0.1",
                "11.0.0.0",
                "::1",
            ],
        );
        let everyone = prefixes(&["0.0.0.0/0", "::/0"]);
        assert_allows(&Access::new(&everyone, &everyone), &[], &["1.2.3.4", "::1"]);
        let v6_alone = Access::new(&everyone[1..], &[]);
        assert_allows(
            &v6_alone,
            &["::1", "ffff::"],
            &["1.2.3.4", "::ffff:1.2.3.4"],
        );
        assert_allows(&Access::new(&[], &[]), &["1.2.3.4", "::1"], &[]);
    }

    /// Networks that nest and meet often: few different bits, at the ends of the address.
    fn networks() -> impl Strategy<Value = Vec<Prefix>> {
        let one = prop_oneof![(v4(), 0..=32u8), (address(), 0..=128u8)];
        vec(
            one.prop_map(|(address, bits)| {
                Prefix::holding(address, bits.min(width(address))).unwrap()
            }),
            0..12,
        )
    }

    fn few() -> impl Strategy<Value = u8> {
        prop_oneof![Just(0u8), Just(1), Just(0x7f), Just(0x80), Just(0xff)]
    }

    fn v4() -> impl Strategy<Value = IpAddr> {
        [few(), few(), few(), few()].prop_map(IpAddr::from)
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        let v6 = (few(), few(), few()).prop_map(|(high, middle, low)| {
            let [high, middle, low] = [high, middle, low].map(u128::from);
            IpAddr::from(Ipv6Addr::from_bits(high << 120 | middle << 60 | low))
        });
        let mapped = few().prop_map(|b| Ipv4Addr::new(b, 0, 0, b).to_ipv6_mapped().into());
        prop_oneof![3 => v4(), 3 => v6, 1 => mapped]
    }

    /// As the rule reads, one network after another.
    fn naive(allow: &[Prefix], deny: &[Prefix], address: IpAddr) -> bool {
        let address = address.to_canonical();
        let longest = |prefixes: &[Prefix]| {
            let holds = |prefix: &&Prefix| {
                width(prefix.network) == width(address)
                    && Prefix::holding(address, prefix.bits) == Some(**prefix)
            };
            prefixes
                .iter()
                .filter(holds)
                .map(|prefix| prefix.bits)
                .max()
        };
        match (longest(allow), longest(deny)) {
            (None, None) => allow.is_empty(),
            (allow, deny) => allow > deny,
        }
    }

    proptest! {
        #[test]
        fn a_search_one_by_one_says_the_same(
            allow in networks(),
            deny in networks(),
            addresses in vec(address(), 1..20),
        ) {
            let access = Access::new(&allow, &deny);
            let ends = allow.iter().chain(&deny).flat_map(|prefix| {
                let (first, last) = (prefix.first(), prefix.last());
                let around = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
                around.map(|number| at(prefix.network, number))
            });
            for address in addresses.iter().copied().chain(ends) {
                prop_assert_eq!(
                    access.allows(address), naive(&allow, &deny, address), "{}", address
                );
            }
        }
    }
}
