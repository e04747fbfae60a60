//! What a hash is taken over, and the hash.
//!
//! The output is an API: users size caches by it and restart us without emptying them. It is xxHash3
//! (64 bits, one fixed seed) over the parts in the order of the configuration: an IPv4 address as 4
//! bytes, an IPv6 address as 16, a port as 2, all big-endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use twox_hash::XxHash3_64;

use super::pick::Client;

/// One part of a hash key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

/// The hash of `client` over `parts`.
pub fn hash(parts: &[KeyPart], client: &Client) -> u64 {
    hash_with(SEED, parts, client)
}

/// The same with a seed of one's own, for what nobody outside is to know.
pub fn hash_with(seed: u64, parts: &[KeyPart], client: &Client) -> u64 {
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
            KeyPart::SourceIp => push_ip(client.source.ip().to_canonical(), &mut push),
            KeyPart::DestinationIp => push_ip(client.destination.ip().to_canonical(), &mut push),
            KeyPart::SourcePort => push(&client.source.port().to_be_bytes()),
            KeyPart::DestinationPort => push(&client.destination.port().to_be_bytes()),
            KeyPart::SourceNet(bits) => push_ip(net(client.source, bits), &mut push),
        }
    }
    XxHash3_64::oneshot_with_seed(seed, &bytes[..length])
}

/// The hash of a backend's name, by which it is known to the hashes that choose it.
pub(super) fn name_hash(name: &str) -> u64 {
    XxHash3_64::oneshot_with_seed(SEED, name.as_bytes())
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

/// Room for every kind of part once, in IPv6.
const KEY_BYTES_MAX: usize = 16 * 3 + 2 * 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn client(source: &str) -> Client {
        Client {
            source: source.parse().unwrap(),
            destination: "10.9.9.9:80".parse().unwrap(),
        }
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
}
