//! What every version of QUIC has in common (RFC 8999), and the server that a connection ID names
//! (QUIC-LB, draft-ietf-quic-load-balancers, plaintext algorithm).
//!
//! Looks at the bytes up to the destination connection ID of a datagram's first packet. Knows no
//! version, no frame and no key.

use std::fmt;

/// Who a server is, as its connection IDs say: 1 to [`SERVER_ID_MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerId {
    length: u8,
    /// Zero beyond the length.
    bytes: [u8; SERVER_ID_MAX],
}

impl ServerId {
    /// The id of these bytes; `None` if they are none or too many.
    pub fn new(id: &[u8]) -> Option<Self> {
        let length = u8::try_from(id.len()).ok().filter(|&length| length > 0)?;
        let mut bytes = [0; SERVER_ID_MAX];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        Some(Self { length, bytes })
    }

    /// Reads pairs of hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let mut bytes = [0; SERVER_ID_MAX];
        if !text.len().is_multiple_of(2) {
            return None;
        }
        for (place, pair) in text.as_bytes().chunks(2).enumerate() {
            let value = digit(pair[0])? * 16 + digit(pair[1])?;
            *bytes.get_mut(place)? = u8::try_from(value).ok()?;
        }
        Self::new(bytes.get(..text.len() / 2)?)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The server that a client's datagram is meant for, where servers have ids of `length` bytes.
///
/// Any bytes can look like a connection ID: a client's first packets carry one that the client has
/// made up, so an answer is a hint until somebody knows the id.
pub fn server_of(datagram: &[u8], length: usize) -> Option<ServerId> {
    decode(destination(datagram)?, length)
}

/// The bytes that start with the destination connection ID. Only a long header says where that
/// ends; behind a short header come those of the payload.
fn destination(datagram: &[u8]) -> Option<&[u8]> {
    let (&first, rest) = datagram.split_first()?;
    if first & LONG_HEADER == 0 {
        return Some(rest);
    }
    let (version, rest) = rest.split_first_chunk::<4>()?;
    // Version negotiation, which no client sends.
    if *version == [0; 4] {
        return None;
    }
    let (&length, rest) = rest.split_first()?;
    rest.get(..usize::from(length))
}

/// One octet of which three bits tell configurations apart and five may tell the length, the server's
/// id, and a nonce, which is what makes two connection IDs of a server differ.
fn decode(id: &[u8], length: usize) -> Option<ServerId> {
    let (&first, rest) = id.split_first()?;
    if first & ROTATION == UNROUTABLE || rest.len() < length.checked_add(NONCE_MIN)? {
        return None;
    }
    ServerId::new(rest.get(..length)?)
}

/// A server's id is at most so many bytes long: with an octet before it and a nonce behind it fills a
/// connection ID of QUIC version 1.
pub const SERVER_ID_MAX: usize = 15;

/// The least length of a nonce.
const NONCE_MIN: usize = 4;

/// Set in the first octet of a packet with a long header.
const LONG_HEADER: u8 = 0x80;

/// The bits of a connection ID's first octet that tell configurations apart.
const ROTATION: u8 = 0b1110_0000;

/// What these bits are in a connection ID that names no server.
const UNROUTABLE: u8 = 0b1110_0000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> ServerId {
        ServerId::from_hex(text).unwrap()
    }

    fn bytes(text: &str) -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .flat_map(|pair| id(std::str::from_utf8(pair).unwrap()).bytes().to_vec())
            .collect()
    }

    fn short(connection_id: &[u8]) -> Vec<u8> {
        [&[0x41], connection_id, b"payload"].concat()
    }

    fn long(version: u32, connection_id: &[u8]) -> Vec<u8> {
        let length = u8::try_from(connection_id.len()).unwrap();
        let head = [&[0xc3], version.to_be_bytes().as_slice(), &[length]].concat();
        [&head, connection_id, &[0], b"payload"].concat()
    }

    #[test]
    fn the_vectors_of_the_draft_are_decoded() {
        for (connection_id, server) in [
            ("07c4605e4504cc4f", "c4605e"),
            ("20a350d28b4203487d970b", "a350d28b42"),
        ] {
            let (connection_id, server) = (bytes(connection_id), id(server));
            let length = server.bytes().len();
            assert_eq!(server_of(&short(&connection_id), length), Some(server));
            assert_eq!(server_of(&long(1, &connection_id), length), Some(server));
            assert_eq!(server_of(&long(9, &connection_id), length), Some(server));
        }
    }

    #[test]
    fn what_names_no_server_is_not_decoded() {
        let connection_id = bytes("07c4605e4504cc4f");
        assert_eq!(server_of(&long(0, &connection_id), 3), None, "negotiation");
        assert_eq!(server_of(&short(&connection_id), 0), None, "no ids");
        let unroutable = bytes("e7c4605e4504cc4f");
        assert_eq!(server_of(&short(&unroutable), 3), None);
        assert_eq!(server_of(&long(1, &unroutable), 3), None);
        assert_eq!(server_of(&long(1, &connection_id[..7]), 3), None, "nonce");
        assert_eq!(server_of(&long(1, &[]), 3), None);
        for length in 0..8 {
            assert_eq!(server_of(&short(&connection_id)[..=length], 3), None);
        }
        for length in 0..14 {
            assert_eq!(server_of(&long(1, &connection_id)[..length], 3), None);
        }
    }

    #[test]
    fn ids_are_pairs_of_digits() {
        assert_eq!(id("00fF").to_string(), "00ff");
        assert_eq!(id("0f").bytes(), [15]);
        assert_ne!(id("00"), id("0000"), "the length counts");
        let longest = "ab".repeat(SERVER_ID_MAX);
        assert_eq!(id(&longest).to_string(), longest);
        for wrong in ["", "0", "0g", "+1", " 1", "é", "ü0", &(longest + "ab")] {
            assert_eq!(ServerId::from_hex(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(datagram: Vec<u8>, length: usize, text: String) {
            server_of(&datagram, length);
            server_of(&datagram, length % 20);
            ServerId::from_hex(&text);
        }

        #[test]
        fn what_a_server_makes_is_decoded(
            server in proptest::collection::vec(any::<u8>(), 1..=SERVER_ID_MAX),
            nonce in proptest::collection::vec(any::<u8>(), NONCE_MIN..20),
            first in 0_u8..0xe0,
            version in 1_u32..,
        ) {
            let connection_id = [&[first], server.as_slice(), &nonce].concat();
            let expected = ServerId::new(&server);
            prop_assert_eq!(server_of(&short(&connection_id), server.len()), expected);
            prop_assert_eq!(server_of(&long(version, &connection_id), server.len()), expected);
        }
    }
}
