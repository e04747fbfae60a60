//! The two messages of grpc.health.v1.Health/Check, framed as gRPC has them.

/// Asks for the health of a service; empty = that of the server.
pub fn check_request(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | LENGTH_DELIMITED); // string service = 1
        put_number(service.len(), &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![UNCOMPRESSED];
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

/// What a server says of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It serves.
    Serving,
    /// It does not, for now.
    NotServing,
    /// There is no such service.
    ServiceUnknown,
    /// It does not know, or says something that nobody has heard of.
    Unknown,
}

impl Serving {
    /// As the protocol names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "SERVING",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// What the answer says; `None` = it is not one whole message.
pub fn check_response(framed: &[u8]) -> Option<Serving> {
    let (&[compressed, a, b, c, d], mut message) = framed.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
    if compressed != UNCOMPRESSED || message.len() != length {
        return None;
    }
    let mut serving = 0;
    while !message.is_empty() {
        let key = number(&mut message)?;
        match (key >> 3, (key & 7) as u8) {
            (1, VARINT) => serving = number(&mut message)?, // ServingStatus status = 1
            (_, VARINT) => drop(number(&mut message)?),
            (_, EIGHT_BYTES) => message = message.get(8..)?,
            (_, LENGTH_DELIMITED) => {
                let length = usize::try_from(number(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, FOUR_BYTES) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(match serving {
        1 => Serving::Serving,
        2 => Serving::NotServing,
        3 => Serving::ServiceUnknown,
        _ => Serving::Unknown,
    })
}

const UNCOMPRESSED: u8 = 0;
const VARINT: u8 = 0;
const EIGHT_BYTES: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FOUR_BYTES: u8 = 5;

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn put_number(mut number: usize, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    to.push(number.to_le_bytes()[0]);
}

/// Takes such a number from `bytes`.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_what_other_libraries_send() {
        assert_eq!(check_request(""), [0, 0, 0, 0, 0]);
        assert_eq!(check_request("a.B"), *b"\0\0\0\0\x05\x0a\x03a.B");
        let long = check_request(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
        assert_eq!(long.len(), 208);
    }

    #[test]
    fn responses_are_read() {
        for (framed, serving) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Some(Serving::Serving)),
            (b"\0\0\0\0\x02\x08\x02", Some(Serving::NotServing)),
            (b"\0\0\0\0\x02\x08\x03", Some(Serving::ServiceUnknown)),
            (b"\0\0\0\0\x00", Some(Serving::Unknown)),
            (b"\0\0\0\0\x03\x08\x81\x01", Some(Serving::Unknown)),
            (b"\0\0\0\0\x06\x12\x02ab\x08\x01", Some(Serving::Serving)),
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x02\x08", None),
            (b"\0\0\0\0\x02\x08\x01\0", None),
            (b"\0\0\0\0\x02\x0b\x01", None),
            (b"\0\0\0\0\x02\x12\x7f", None),
            (b"", None),
        ] {
            assert_eq!(check_response(framed), serving, "{framed:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_too_much(message in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
            framed.extend(message);
            check_response(&framed);
        }
    }
}
