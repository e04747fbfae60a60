//! What a probe has found, and whether that speaks for the backend or against it.

use std::fmt;
use std::time::Duration;

use crate::lb::time::Tick;

/// What a probe of a backend has found. Displayed on one line, without the time it began at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// When it began.
    pub began: Tick,
    /// How long it took.
    pub took: Duration,
    /// Its end.
    pub found: Found,
}

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// All is well.
    Passed,
    /// All is not; why, with the number of an error or a status.
    Failed(Stage, String),
    /// It had not ended within this time.
    TimedOut(Stage, Duration),
    /// It could not be made, through no fault of the backend.
    Inconclusive(String),
}

/// The same in a word, for those who count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was well.
    Passed,
    /// All was not.
    Failed,
    /// It had not ended in time.
    TimedOut,
    /// It said nothing of the backend.
    Inconclusive,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [
        Self::Passed,
        Self::Failed,
        Self::TimedOut,
        Self::Inconclusive,
    ];

    /// Its sign in a row of many.
    pub const fn sign(self) -> char {
        match self {
            Self::Passed => '+',
            Self::Failed => '-',
            Self::TimedOut => 't',
            Self::Inconclusive => '?',
        }
    }

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Inconclusive => "inconclusive",
        }
    }
}

impl Found {
    /// It in a word.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Passed => Outcome::Passed,
            Self::Failed(..) => Outcome::Failed,
            Self::TimedOut(..) => Outcome::TimedOut,
            Self::Inconclusive(_) => Outcome::Inconclusive,
        }
    }
}

/// How far a probe came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A connection was to be made.
    Connect,
    /// A handshake.
    Tls,
    /// The backend was to answer.
    Answer,
    /// A program ran.
    Program,
}

impl Finding {
    /// Whether it speaks for the backend or against it; `None` = neither. A backend that
    /// `has_progressed` meanwhile is busy, not dead, as far as silence goes.
    pub fn verdict(&self, has_progressed: bool) -> Option<bool> {
        match self.found {
            Found::Passed => Some(true),
            Found::Failed(..) => Some(false),
            Found::TimedOut(..) => (!has_progressed).then_some(false),
            Found::Inconclusive(_) => None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.took.as_millis();
        match &self.found {
            Found::Passed => write!(f, "passed in {ms} ms"),
            Found::Failed(stage, why) => write!(f, "{why}, at the {stage} after {ms} ms"),
            Found::TimedOut(stage, within) => {
                write!(f, "no answer within {within:?}, at the {stage}")
            }
            Found::Inconclusive(why) => write!(f, "cannot be probed: {why}"),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Tls => "handshake",
            Self::Answer => "answer",
            Self::Program => "program",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_is_made_good_by_progress() {
        let of = |found| Finding {
            began: Tick::ZERO,
            took: Duration::from_millis(3),
            found,
        };
        let refused = Found::Failed(Stage::Connect, "Connection refused".to_owned());
        let silent = Found::TimedOut(Stage::Answer, Duration::from_secs(1));
        for (found, still, moving, text) in [
            (Found::Passed, Some(true), Some(true), "passed in 3 ms"),
            (
                refused,
                Some(false),
                Some(false),
                "Connection refused, at the connect after 3 ms",
            ),
            (
                silent,
                Some(false),
                None,
                "no answer within 1s, at the answer",
            ),
            (
                Found::Inconclusive("no port".to_owned()),
                None,
                None,
                "cannot be probed: no port",
            ),
        ] {
            let finding = of(found);
            assert_eq!(finding.verdict(false), still, "{finding}");
            assert_eq!(finding.verdict(true), moving, "{finding}");
            assert_eq!(finding.to_string(), text);
        }
    }
}
