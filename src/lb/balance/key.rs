//! What a hash is taken over, and the hash.
//!
//! The output is an API: users size caches by it and restart us without emptying them. It is xxHash3
//! (64 bits, one fixed seed) over the parts in the order of the configuration: an IPv4 address as 4
//! bytes, an IPv6 address as 16, a port as 2, all big-endian. What a client says is hashed once, when it
//! has been said, and not kept: behind these parts stands the [`digest`] of all of it, as 8 bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use twox_hash::XxHash3_64;

use super::client::Client;
use super::said::{Said, Speaker};

/// One part of a hash key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// The client's address.
    SourceIp,
    /// The client's port.
    SourcePort,
    /// The address the client connected to.
    DestinationIp,
    /// The port the client connected to.
    DestinationPort,
    /// The first `N` bits of the client's address: N ≤ 32 takes /N of IPv4 and /64 of IPv6;
    /// N > 32 takes /N of IPv6 and all of IPv4.
    SourceNet(u8),
    /// Something that it says.
    Said(Part),
}

/// A part of a key that is in what a client says first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The server that it asks for by TLS, in any case.
    Sni,
    /// The protocols that it offers by TLS, in its order.
    Alpn,
    /// The path of its first request of HTTP/1.
    HttpPath,
    /// The first field of this name in it, the name in small letters.
    HttpHeader(String),
    /// So many bytes, the first of all.
    FirstBytes(u16),
    /// The extension of this type in the PROXY header that introduces it.
    ProxyTlv(u8),
}

/// Those of `parts` that are in what a client says.
pub fn said(parts: &[KeyPart]) -> impl Iterator<Item = &Part> {
    parts.iter().filter_map(|part| match part {
        KeyPart::Said(part) => Some(part),
        _ => None,
    })
}

/// The hash of what `client` says, as far as `parts` ask for that. [`Said::Never`] if it says none of
/// it; what is missing beside others counts as nothing.
pub fn digest(parts: &[KeyPart], client: &impl Speaker) -> Said<u64> {
    let mut digest = None;
    for (place, part) in (0_u64..).zip(said(parts)) {
        // Each hash is the seed of the next, with the place of the part: no two values run together.
        let mut add = |value: &[u8]| {
            let seed = digest.unwrap_or(SEED).wrapping_add(place);
            digest = Some(XxHash3_64::oneshot_with_seed(seed, value));
        };
        let added = match part {
            Part::Sni => client.sni().map(|name| {
                let name = name.strip_suffix('.').unwrap_or(name);
                add(name.to_ascii_lowercase().as_bytes());
            }),
            Part::Alpn => client.alpn().map(|offers| {
                offers.iter().for_each(|offer| add(offer));
            }),
            Part::HttpPath => client.http_path().map(add),
            Part::HttpHeader(name) => client.http_header(name).map(add),
            Part::FirstBytes(count) => client.first_bytes(usize::from(*count)).map(add),
            Part::ProxyTlv(kind) => {
                let hash = client.extension(*kind).map(u64::to_be_bytes);
                hash.map_or(Said::Never, Said::This).map(|hash| add(&hash))
            }
        };
        if added == Said::NotYet {
            return Said::NotYet;
        }
    }
    digest.map_or(Said::Never, Said::This)
}

/// The hash of something that is not kept.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(SEED, bytes)
}

/// The hash of `client` over `parts`. One that says nothing of what they ask for is placed by its
/// addresses and ports, so that all of those do not meet on one backend.
pub fn hash(parts: &[KeyPart], client: &Client) -> u64 {
    let digest = client.digests.balance;
    let is_mute = digest.is_none() && said(parts).next().is_some();
    let parts = if is_mute { &FIVE_TUPLE } else { parts };
    hash_with(SEED, parts, digest, client)
}

/// The same with a seed of one's own, for what nobody outside is to know, and another digest.
pub fn hash_with(seed: u64, parts: &[KeyPart], digest: Option<u64>, client: &Client) -> u64 {
    let mut bytes = [0; KEY_BYTES_MAX];
    let mut length = 0;
    let mut push = |part: &[u8]| {
        // A key of more parts than there are kinds repeats itself and gains nothing.
        if let Some(place) = bytes.get_mut(length..length + part.len()) {
            place.copy_from_slice(part);
            length += part.len();
        }
    };
    for part in parts {
        match *part {
            KeyPart::Said(_) => {}
            KeyPart::SourceIp => push_ip(client.source.ip().to_canonical(), &mut push),
            KeyPart::DestinationIp => push_ip(client.destination.ip().to_canonical(), &mut push),
            KeyPart::SourcePort => push(&client.source.port().to_be_bytes()),
            KeyPart::DestinationPort => push(&client.destination.port().to_be_bytes()),
            KeyPart::SourceNet(bits) => push_ip(net(client.source, bits), &mut push),
        }
    }
    if let Some(digest) = digest {
        push(&digest.to_be_bytes());
    }
    XxHash3_64::oneshot_with_seed(seed, &bytes[..length])
}

/// The hash of a backend's name, by which it is known to the hashes that choose it.
pub(super) fn name_hash(name: &str) -> u64 {
    hash_bytes(name.as_bytes())
}

fn push_ip(ip: IpAddr, push: &mut impl FnMut(&[u8])) {
    match ip {
        IpAddr::V4(ip) => push(&ip.octets()),
        IpAddr::V6(ip) => push(&ip.octets()),
    }
}

/// The network a client is in.
fn net(source: SocketAddr, bits: u8) -> IpAddr {
    match source.ip().to_canonical() {
        IpAddr::V4(ip) => {
            let host_bits = 32 - u32::from(bits.min(32));
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let bits = if bits > 32 {
                bits.min(128)
            } else {
                IPV6_SITE_BITS
            };
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// The part of an IPv6 address that names a subnet: a client may change the rest at will.
const IPV6_SITE_BITS: u8 = 64;

/// Never changed: it would send every client to another backend.
const SEED: u64 = 0x6576_656e_6b65_656c; // "evenkeel"

/// Room for every kind of part once, in IPv6, and for a digest.
const KEY_BYTES_MAX: usize = 16 * 3 + 2 * 2 + 8;

/// What tells any two connections apart.
const FIVE_TUPLE: [KeyPart; 4] = [
    KeyPart::SourceIp,
    KeyPart::SourcePort,
    KeyPart::DestinationIp,
    KeyPart::DestinationPort,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lb::balance::client::Digests;
    use crate::lb::balance::said::scripted::Scripted;

    fn client(source: &str) -> Client {
        Client::new(source.parse().unwrap(), "10.9.9.9:80".parse().unwrap())
    }

    /// From the reference implementation (xxHash 0.8, XXH3_64bits with the seed), not from this code.
    #[test]
    fn hashes_never_change() {
        use KeyPart::{DestinationIp, DestinationPort, SourceIp, SourcePort};
        let tuple = [SourceIp, SourcePort, DestinationIp, DestinationPort];
        let golden: [(&[KeyPart], &str, u64); 3] = [
            (&tuple, "192.0.2.1:40000", GOLDEN[0]),
            (&[SourceIp], "192.0.2.1:40000", GOLDEN[1]),
            (&[SourceIp], "[2001:db8::1]:40000", GOLDEN[2]),
        ];
        for (parts, source, expected) in golden {
            assert_eq!(hash(parts, &client(source)), expected, "{source} {parts:?}");
        }
    }

    const GOLDEN: [u64; 3] = [0x9f0d5628d6b4b4d6, 0xe2006e7b72e9eceb, 0x3a50991ab1576014];

    #[test]
    fn only_the_named_parts_count() {
        let by_ip = |source| hash(&[KeyPart::SourceIp], &client(source));
        assert_eq!(by_ip("192.0.2.1:1"), by_ip("192.0.2.1:2"));
        assert_ne!(by_ip("192.0.2.1:1"), by_ip("192.0.2.2:1"));
        assert_eq!(
            by_ip("192.0.2.1:1"),
            by_ip("[::ffff:192.0.2.1]:1"),
            "mapped is the same"
        );
        let by_net = |bits, source| hash(&[KeyPart::SourceNet(bits)], &client(source));
        assert_eq!(by_net(24, "192.0.2.1:1"), by_net(24, "192.0.2.200:9"));
        assert_ne!(by_net(24, "192.0.2.1:1"), by_net(24, "192.0.3.1:1"));
        assert_eq!(
            by_net(24, "[2001:db8::1]:1"),
            by_net(24, "[2001:db8::ffff]:1"),
            "/64"
        );
        assert_ne!(
            by_net(24, "[2001:db8::1]:1"),
            by_net(24, "[2001:db8:0:1::1]:1")
        );
        assert_eq!(
            by_net(56, "[2001:db8::1]:1"),
            by_net(56, "[2001:db8:0:1::1]:1")
        );
        assert_eq!(by_net(0, "192.0.2.1:1"), by_net(0, "10.0.0.1:1"));
    }

    #[test]
    fn what_is_said_counts_and_is_waited_for() {
        let header = |name: &str| KeyPart::Said(Part::HttpHeader(name.to_owned()));
        let parts = [
            KeyPart::SourceIp,
            header("authorization"),
            KeyPart::Said(Part::ProxyTlv(0xe0)),
        ];
        let mut speaker = Scripted::default();
        assert_eq!(digest(&parts, &speaker), Said::NotYet);
        speaker.fields = vec![("authorization", Said::Never)];
        assert_eq!(digest(&parts, &speaker), Said::Never);
        speaker.extensions = vec![(0xe0, 7)];
        let by_extension = digest(&parts, &speaker);
        speaker.fields = vec![("authorization", Said::This(b"a"))];
        let by_both = digest(&parts, &speaker);
        assert!(
            matches!((by_extension, by_both), (Said::This(one), Said::This(both)) if one != both)
        );
        assert_eq!(
            digest(&parts[..1], &speaker),
            Said::Never,
            "nothing is asked for"
        );

        let ask = |balance, source| {
            let digests = Digests {
                balance,
                sticky: None,
            };
            hash(
                &parts,
                &Client {
                    digests,
                    ..client(source)
                },
            )
        };
        assert_eq!(ask(Some(1), "192.0.2.1:1"), ask(Some(1), "192.0.2.1:2"));
        assert_ne!(ask(Some(1), "192.0.2.1:1"), ask(Some(2), "192.0.2.1:1"));
        assert_ne!(ask(Some(1), "192.0.2.1:1"), ask(Some(1), "192.0.2.2:1"));
        let mute = |source| hash(&FIVE_TUPLE, &client(source));
        assert_eq!(
            ask(None, "192.0.2.1:1"),
            mute("192.0.2.1:1"),
            "it is spread"
        );
    }

    #[test]
    fn values_do_not_run_together() {
        let parts = [KeyPart::Said(Part::Alpn), KeyPart::Said(Part::Sni)];
        let of = |offers: &[&str], sni| {
            let offers = offers.iter().map(|offer| offer.as_bytes().to_vec());
            digest(
                &parts,
                &Scripted {
                    alpn: Said::This(offers.collect()),
                    sni: Said::This(sni),
                    ..Scripted::default()
                },
            )
        };
        assert_ne!(of(&["ab"], "c"), of(&["a", "b"], "c"));
        assert_ne!(of(&["a"], "bc"), of(&["ab"], "c"));
        assert_eq!(of(&["a"], "B.example."), of(&["a"], "b.example"));
    }
}
