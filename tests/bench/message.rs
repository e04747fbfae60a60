//! What client and backend of the load tool say to each other. Every request starts with a header
//! that names its kind; the bytes after it follow a pattern that depends on their position, so that
//! a lost, repeated or misdirected byte shows.

/// Length of a header in bytes.
pub(crate) const HEADER: usize = 16;

/// The largest piece read or written at once, in bytes.
pub(crate) const CHUNK: usize = 256 * 1024;

/// The pattern repeats after this many bytes. A prime, so that no power of two hides a shift.
const PERIOD: usize = 65_521;

/// What a client asks of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Send the whole message back.
    Echo,
    /// The same, then end.
    EchoOnce,
    /// Stream `value` bytes of the pattern, then end.
    Source,
    /// Take `value` bytes of the pattern, then answer with a [`Kind::Taken`] header.
    Sink,
    /// The backend's answer to [`Kind::Sink`]: `value` bytes came and all were right.
    Taken,
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Whole length in bytes of a message to send back, header included; 0 for other kinds.
    pub(crate) length: u32,
    /// A message's tag, which also says where in the pattern it starts; else an amount in bytes.
    pub(crate) value: u64,
}

impl Header {
    /// The header as sent.
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = match self.kind {
            Kind::Echo => b'e',
            Kind::EchoOnce => b'o',
            Kind::Source => b's',
            Kind::Sink => b'k',
            Kind::Taken => b't',
        };
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }

    /// `None` if the bytes are no header.
    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let kind = match bytes[0] {
            b'e' => Kind::Echo,
            b'o' => Kind::EchoOnce,
            b's' => Kind::Source,
            b'k' => Kind::Sink,
            b't' => Kind::Taken,
            _ => return None,
        };
        let [_, _, _, _, a, b, c, d, value @ ..] = *bytes;
        Some(Self {
            kind,
            length: u32::from_le_bytes([a, b, c, d]),
            value: u64::from_le_bytes(value),
        })
    }
}

/// The bytes every transfer consists of.
#[derive(Debug)]
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    /// The one pattern there is: both ends compute the same.
    pub(crate) fn new() -> Self {
        let mut state = 0x9E37_79B9_u32;
        let mut bytes: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state.to_le_bytes()[0]
            })
            .collect();
        while bytes.len() < PERIOD + CHUNK {
            let more = (PERIOD + CHUNK - bytes.len()).min(PERIOD);
            bytes.extend_from_within(..more);
        }
        Self(bytes)
    }

    /// The pattern from position `at` on: `length` bytes, at most [`CHUNK`].
    pub(crate) fn slice(&self, at: u64, length: usize) -> &[u8] {
        let start = usize::try_from(at % PERIOD as u64).expect("less than the period");
        &self.0[start..start + length]
    }

    /// Writes the message of this kind and tag into the whole of `buffer`.
    pub(crate) fn fill_message(&self, kind: Kind, tag: u64, buffer: &mut [u8]) {
        let header = Header {
            kind,
            length: u32::try_from(buffer.len()).expect("messages are at most a chunk long"),
            value: tag,
        };
        let (head, body) = buffer.split_at_mut(HEADER);
        head.copy_from_slice(&header.encode());
        let length = body.len();
        body.copy_from_slice(self.slice(tag, length));
    }
}
