//! What becomes of a session after an event, and why it ends.

use super::counters::Ended;
use super::refuse::Refused;
use crate::lb::traffic::cause::{By, Cause, State};
use crate::lb::traffic::relay::Side;

/// What the worker does with a session after an event.
#[derive(Debug)]
pub(super) enum Fate {
    /// It waits for its next event.
    Wait,
    /// Its turn was cut short.
    Ready,
    /// It has lost its backend before it was connected, and every other one is full.
    Queue,
    /// It is over.
    End(End),
}

/// How a session ends.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides finished.
    Close,
    /// This side was reset, and so is the other; the client's, where both were.
    Reset(Side),
    /// It was cut by us; the reason is logged.
    Cut(Cut),
    /// There is no backend for it.
    Refuse(Refused),
}

/// Why we cut a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing came for too long.
    Idle,
    /// One side had finished, and nothing came from the other for too long.
    HalfClosed,
    /// It has lasted long enough, and was idle.
    Lifetime,
    /// A peer does not take the last bytes before a reset.
    NotTaken,
    /// Its backend is down, and keeps no session.
    BackendDown,
    /// The process stops, and it was idle.
    IdleInDrain,
    /// The process stops, and has waited long enough.
    DrainOver,
    /// The process stops at once.
    Stop,
}

impl Cut {
    /// For the log.
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::HalfClosed => "half closed for too long",
            Self::Lifetime => "max_lifetime is over",
            Self::NotTaken => "the last bytes before a reset are not taken",
            Self::BackendDown => "its backend is down",
            Self::IdleInDrain => "idle while draining",
            Self::DrainOver => "the drain time is over",
            Self::Stop => "the process stops",
        }
    }
}

/// How far a session had come when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It had no backend yet.
    Connecting,
    /// Both sides were there.
    Open,
    /// This side had finished first.
    Finished(Side),
}

impl End {
    /// What it is counted as; `None` = as a refusal.
    pub(super) const fn ended(&self) -> Option<Ended> {
        Some(match self {
            Self::Close => Ended::Finished,
            Self::Reset(Side::Client) => Ended::ClientReset,
            Self::Reset(Side::Backend) => Ended::BackendReset,
            Self::Cut(Cut::Idle) => Ended::Idle,
            Self::Cut(Cut::HalfClosed | Cut::NotTaken) => Ended::HalfClosed,
            Self::Cut(Cut::Lifetime) => Ended::Lifetime,
            Self::Cut(Cut::BackendDown) => Ended::BackendDown,
            Self::Cut(Cut::IdleInDrain | Cut::DrainOver | Cut::Stop) => Ended::Stopping,
            Self::Refuse(_) => return None,
        })
    }

    /// What the access log says of it.
    pub(super) const fn cause(&self, progress: Progress) -> Cause {
        let state = match progress {
            Progress::Connecting => State::Connecting,
            Progress::Open => State::Data,
            Progress::Finished(_) => State::LastBytes,
        };
        match (self, progress) {
            (Self::Close, Progress::Finished(side)) => Cause::new(by(side), State::Normal),
            // Both finished within one turn.
            (Self::Close, _) => Cause::new(By::Client, State::Normal),
            (Self::Reset(side), Progress::Connecting) => Cause::new(by(*side), State::Connecting),
            (Self::Reset(side), _) => Cause::new(by(*side), State::Reset),
            (Self::Cut(Cut::Idle), _) => Cause::new(By::Evenkeel, State::Idle),
            (Self::Cut(Cut::HalfClosed | Cut::NotTaken | Cut::Lifetime), _) => {
                Cause::new(By::Evenkeel, State::TimedOut)
            }
            (Self::Cut(_), _) => Cause::new(By::Evenkeel, state),
            (Self::Refuse(refused), _) => Cause::new(refused.by(), State::Connecting),
        }
    }
}

const fn by(side: Side) -> By {
    match side {
        Side::Client => By::Client,
        Side::Backend => By::Backend,
    }
}
