//! Why a session or a flow ended, in two letters: who ended it, and in which state it was.

use std::fmt;

/// Displayed as its two letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Who ended it.
    pub by: By,
    /// In which state, or how.
    pub state: State,
}

/// Who ends a session or a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The client.
    Client,
    /// The backend.
    Backend,
    /// Evenkeel, by its settings or because it was told to.
    Evenkeel,
    /// The kernel of this host, which has no more of something.
    Kernel,
}

/// What a session or a flow was doing when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waited for a slot.
    Queued,
    /// A backend was looked for.
    Connecting,
    /// Data could go both ways.
    Data,
    /// One side had finished.
    LastBytes,
    /// Nothing had been sent for too long.
    Idle,
    /// Something else took too long.
    TimedOut,
    /// It was reset.
    Reset,
    /// It had come to its end.
    Normal,
}

impl Cause {
    /// Ended by `by` in `state`.
    pub const fn new(by: By, state: State) -> Self {
        Self { by, state }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            By::Client => 'C',
            By::Backend => 'B',
            By::Evenkeel => 'E',
            By::Kernel => 'K',
        };
        let state = match self.state {
            State::Queued => 'Q',
            State::Connecting => 'C',
            State::Data => 'D',
            State::LastBytes => 'L',
            State::Idle => 'I',
            State::TimedOut => 'T',
            State::Reset => 'R',
            State::Normal => 'N',
        };
        write!(f, "{by}{state}")
    }
}
