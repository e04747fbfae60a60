//! What an event is about, packed into mio's `Token`.
//!
//! | bits 63–32 | bit 31 | bits 30–0 | meaning |
//! |---|---|---|---|
//! | 0 | 0 | 0 | the mailbox |
//! | 0 | 0 | 1 + n | listening socket n of this worker |
//! | 0 | 1 | n | datagram socket n of this worker |
//! | generation, odd | side | slot, bit 30 clear | a session's socket |
//! | generation, odd | 0 | slot, bit 30 set | the socket of a flow |
//! | generation, odd | 1 | slot, bit 30 set | the socket of a client that has no backend yet |
//!
//! The generation makes a late event of a closed session miss its successor in the same slot.

use mio::Token;
use slotmap::{Key, KeyData, new_key_type};

use crate::lb::traffic::flow::FlowKey;
use crate::lb::traffic::relay::Side;

new_key_type! {
    /// A session of this worker.
    pub(super) struct SessionKey;

    /// A client of this worker that has no backend yet.
    pub(super) struct ArrivalKey;
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Mailbox,
    /// The place of a listening socket.
    Listener(u32),
    Session(SessionKey, Side),
    /// The place of a datagram socket.
    Gate(u32),
    Flow(FlowKey),
    Arrival(ArrivalKey),
}

impl Subject {
    pub(super) fn token(self) -> Token {
        let bits = match self {
            Self::Mailbox => 0,
            Self::Listener(place) => u64::from(place) + 1,
            Self::Gate(place) => u64::from(place) | BACKEND,
            Self::Flow(key) => key.data().as_ffi() | FLOW,
            Self::Arrival(key) => key.data().as_ffi() | FLOW | BACKEND,
            Self::Session(key, Side::Client) => key.data().as_ffi(),
            Self::Session(key, Side::Backend) => key.data().as_ffi() | BACKEND,
        };
        Token(usize::try_from(bits).expect("usize has 64 bits, as asserted below"))
    }

    pub(super) fn of(token: Token) -> Self {
        let bits = token.0 as u64;
        if bits >> 32 != 0 && bits & FLOW != 0 {
            let key = KeyData::from_ffi(bits & !FLOW & !BACKEND);
            return if bits & BACKEND == 0 {
                Self::Flow(key.into())
            } else {
                Self::Arrival(key.into())
            };
        }
        if bits >> 32 != 0 {
            let side = if bits & BACKEND == 0 {
                Side::Client
            } else {
                Side::Backend
            };
            return Self::Session(KeyData::from_ffi(bits & !BACKEND).into(), side);
        }
        match u32::try_from(bits & !BACKEND) {
            Ok(place) if bits & BACKEND != 0 => Self::Gate(place),
            Ok(place) if place > 0 => Self::Listener(place - 1),
            _ => Self::Mailbox,
        }
    }
}

/// A session's key as the name of its deadline: the slot is the low half.
pub(super) fn deadline_id(key: SessionKey) -> u64 {
    key.data().as_ffi()
}

/// The session whose deadline has this name.
pub(super) fn session_of(deadline_id: u64) -> SessionKey {
    KeyData::from_ffi(deadline_id).into()
}

/// The name of the deadline of a client without a backend, in a wheel of those only.
pub(super) fn arrival_deadline_id(key: ArrivalKey) -> u64 {
    key.data().as_ffi()
}

/// The client whose deadline has this name.
pub(super) fn arrival_of(deadline_id: u64) -> ArrivalKey {
    KeyData::from_ffi(deadline_id).into()
}

/// A flow's key as the name of its deadline, in a wheel of flows only.
pub(super) fn flow_deadline_id(key: FlowKey) -> u64 {
    key.data().as_ffi()
}

/// The flow whose deadline has this name.
pub(super) fn flow_of(deadline_id: u64) -> FlowKey {
    KeyData::from_ffi(deadline_id).into()
}

const BACKEND: u64 = 1 << 31;
const FLOW: u64 = 1 << 30;

/// Sessions a worker can hold, and flows: slots must stay clear of the bits above.
pub(super) const SESSIONS_MAX: usize = 1 << 30;

const _: () = assert!(usize::BITS == 64 && SESSIONS_MAX as u64 <= FLOW);

#[cfg(test)]
mod tests {
    use slotmap::SlotMap;

    use super::*;

    #[test]
    fn a_token_says_what_it_was_made_of() {
        let mut sessions: SlotMap<SessionKey, ()> = SlotMap::with_key();
        let first = sessions.insert(());
        sessions.remove(first);
        let second = sessions.insert(());
        let mut flows: SlotMap<FlowKey, ()> = SlotMap::with_key();
        let flow = flows.insert(());
        assert_eq!(flow_of(flow_deadline_id(flow)), flow);
        let mut arrivals: SlotMap<ArrivalKey, ()> = SlotMap::with_key();
        let arrival = arrivals.insert(());
        assert_eq!(arrival_of(arrival_deadline_id(arrival)), arrival);
        let low_half = |key| u32::try_from(deadline_id(key) & u64::from(u32::MAX)).unwrap();
        assert_eq!(low_half(first), low_half(second), "the slot is used again");
        assert_eq!(session_of(deadline_id(second)), second);
        for subject in [
            Subject::Mailbox,
            Subject::Listener(0),
            Subject::Listener(77),
            Subject::Gate(0),
            Subject::Gate(77),
            Subject::Flow(flow),
            Subject::Arrival(arrival),
            Subject::Session(first, Side::Client),
            Subject::Session(first, Side::Backend),
            Subject::Session(second, Side::Backend),
        ] {
            assert_eq!(Subject::of(subject.token()), subject);
        }
        assert!(!sessions.contains_key(first), "a stale token finds nothing");
    }
}
