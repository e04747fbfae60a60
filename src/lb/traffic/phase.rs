//! What a session's backend is at: nothing, a question, an answer. Told from who sent how much and
//! when, so it serves whatever is spoken.
//!
//! A session waits once its client has spoken and until its backend answers; it streams while the
//! backend goes on, until that has been silent for a while; then it is idle. Waiting and streaming
//! are busy. What follows from that, and what it cannot know:
//! - Where one question is asked at a time, as in HTTP/1, waiting is exact, and the end of streaming
//!   comes late by the linger. An answer that pauses for longer than that is idle in the pause.
//! - Of questions asked together, the answers are one; a pause between them longer than the linger
//!   is idle although the backend works.
//! - Many requests on one connection, as in HTTP/2, are one that is busy or not.
//! - Small messages that ask for nothing, such as pings, keep a session busy, unless they are
//!   shorter than [`Rules::min_bytes`].
//! - A backend that speaks first answers nobody. But a session that has just begun counts as busy for
//!   the linger, whoever speaks: where many come at once, each must count before it has asked.
//!
//! Costs a look at the state and a store per chunk. The end of streaming needs no timer per chunk
//! either: it is looked for when a deadline that was set once has come.

use std::time::Duration;

use super::super::rng::Rng;
use super::super::time::Tick;

/// How phases are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A backend that has been silent for so long has nothing more to say.
    pub linger: Duration,
    /// Chunks shorter than this make no idle session busy, from whichever side they come, and are no
    /// question.
    pub min_bytes: u32,
}

/// How long sessions last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// From then on a session ends where it is quiet; 0 = it lasts as long as it will.
    pub most: Duration,
    /// Up to so much is added to that, for each session anew, so that those that have begun together
    /// do not end together.
    pub jitter: Duration,
}

impl Lifetime {
    /// When a session has lasted long enough that begins now.
    pub fn end(&self, now: Tick, rng: &mut Rng) -> Option<Tick> {
        if self.most.is_zero() {
            return None;
        }
        let jitter_ms = u64::try_from(self.jitter.as_millis()).unwrap_or(u64::MAX);
        let more = Duration::from_millis(rng.below(jitter_ms.saturating_add(1)));
        Some(now.after(self.most).after(more))
    }
}

/// Plain data: what has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It has begun, and its client has not spoken yet.
    Opening {
        /// When it began.
        since: Tick,
    },
    /// Nothing is asked.
    Idle,
    /// The client spoke last.
    Waiting {
        /// When it began to speak.
        since: Tick,
    },
    /// The backend answers.
    Streaming {
        /// When it sent something last.
        last: Tick,
    },
    /// The backend has finished for good.
    Over,
}

/// What has changed by a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The client asks.
    Asked,
    /// The backend answers, so long after the question began.
    Answered(Duration),
    /// The backend goes on after so long a pause.
    WentOn(Duration),
    /// The backend speaks although nothing is asked: an answer goes on after a long pause, or it
    /// tells something of its own.
    Spoke,
}

impl Phase {
    /// Whether the backend has, or is about to have, something to do for it.
    pub const fn is_busy(&self) -> bool {
        match self {
            Self::Opening { .. } | Self::Waiting { .. } | Self::Streaming { .. } => true,
            Self::Idle | Self::Over => false,
        }
    }

    /// Whether nothing is asked or answered, so that a session may end without breaking anything off,
    /// as far as can be told.
    pub const fn is_quiet(&self) -> bool {
        matches!(self, Self::Opening { .. } | Self::Idle | Self::Over)
    }

    /// Takes in what has come since the last call, from the client and from the backend. Where it is
    /// both, the backend has spoken last: to take an answer for over too soon is mended by its next
    /// byte, to wait for one that has come already is not.
    #[inline(always)]
    pub fn on_bytes(
        &mut self,
        from_client: u64,
        from_backend: u64,
        rules: &Rules,
        now: Tick,
    ) -> Option<Change> {
        let asked = match from_client {
            0 => None,
            count => self.on_client(count, rules, now),
        };
        match from_backend {
            0 => asked,
            count => self.on_backend(count, rules, now).or(asked),
        }
    }

    #[inline(always)]
    fn on_client(&mut self, count: u64, rules: &Rules, now: Tick) -> Option<Change> {
        match *self {
            Self::Waiting { .. } | Self::Over => None,
            Self::Opening { .. } | Self::Idle | Self::Streaming { .. } => {
                if count < u64::from(rules.min_bytes) {
                    return None;
                }
                *self = Self::Waiting { since: now };
                Some(Change::Asked)
            }
        }
    }

    #[inline(always)]
    fn on_backend(&mut self, count: u64, rules: &Rules, now: Tick) -> Option<Change> {
        let change = match *self {
            Self::Streaming { last } => {
                let pause = now.since(last);
                (!pause.is_zero()).then_some(Change::WentOn(pause))
            }
            Self::Waiting { since } => Some(Change::Answered(now.since(since))),
            Self::Idle if count >= u64::from(rules.min_bytes) => Some(Change::Spoke),
            Self::Opening { .. } | Self::Idle | Self::Over => return None,
        };
        *self = Self::Streaming { last: now };
        change
    }

    /// The answer that streams is not over, for all that the backend is silent.
    pub fn go_on(&mut self, now: Tick) {
        if let Self::Streaming { last } = self {
            *last = now.max(*last);
        }
    }

    /// The backend has finished: nothing more can be asked of it.
    pub const fn on_backend_finished(&mut self) {
        *self = Self::Over;
    }

    /// When it becomes idle if nothing comes before.
    pub fn idle_at(&self, rules: &Rules) -> Option<Tick> {
        match self {
            Self::Opening { since: last } | Self::Streaming { last } => {
                Some(last.after(rules.linger))
            }
            Self::Idle | Self::Waiting { .. } | Self::Over => None,
        }
    }

    /// Makes it idle if its time has come.
    pub fn look(&mut self, rules: &Rules, now: Tick) {
        if self.idle_at(rules).is_some_and(|at| at <= now) {
            *self = Self::Idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lb::rng::Rng;

    const RULES: Rules = Rules {
        linger: Duration::from_secs(2),
        min_bytes: 0,
    };

    fn at(ms: u64) -> Tick {
        Tick::from_ms(ms)
    }

    /// What is seen at a time: bytes of the client, and of the backend.
    type Seen = (u64, u64, u64);

    /// A session that is looked at each millisecond, as exactly as a deadline could.
    fn busy_in_each_ms(rules: &Rules, seen: &[Seen], until_ms: u64) -> Vec<bool> {
        let mut phase = Phase::Opening { since: at(0) };
        let mut seen = seen.iter().peekable();
        let mut busy = Vec::new();
        for ms in 0..until_ms {
            phase.look(rules, at(ms));
            while let Some(&&(when, from_client, from_backend)) = seen.peek()
                && when <= ms
            {
                phase.on_bytes(from_client, from_backend, rules, at(ms));
                seen.next();
            }
            busy.push(phase.is_busy());
        }
        busy
    }

    #[test]
    fn a_question_and_its_answer() {
        let mut phase = Phase::Idle;
        assert_eq!(phase.on_bytes(500, 0, &RULES, at(10)), Some(Change::Asked));
        assert_eq!(
            phase.on_bytes(500, 0, &RULES, at(20)),
            None,
            "it goes on asking"
        );
        assert_eq!(phase.idle_at(&RULES), None, "an answer may take any time");
        let answered = Change::Answered(Duration::from_millis(30_000));
        assert_eq!(phase.on_bytes(0, 90, &RULES, at(30_010)), Some(answered));
        assert_eq!(phase.on_bytes(0, 90, &RULES, at(30_010)), None);
        let went_on = Change::WentOn(Duration::from_millis(40));
        assert_eq!(phase.on_bytes(0, 90, &RULES, at(30_050)), Some(went_on));
        phase.look(&RULES, at(32_049));
        assert!(phase.is_busy());
        phase.look(&RULES, at(32_050));
        assert_eq!(phase, Phase::Idle);
    }

    #[test]
    fn an_answer_that_is_not_taken_goes_on() {
        let mut phase = Phase::Streaming { last: at(0) };
        phase.go_on(at(1_999));
        phase.look(&RULES, at(3_000));
        assert!(phase.is_busy() && !phase.is_quiet());
        phase.look(&RULES, at(3_999));
        phase.go_on(at(3_999));
        assert_eq!(phase, Phase::Idle);
    }

    #[test]
    fn lifetimes_are_spread_over_the_jitter() {
        let seconds = Duration::from_secs;
        let mut rng = Rng::new(1);
        let mut end = |most, jitter| Lifetime { most, jitter }.end(at(7), &mut rng);
        assert_eq!(end(seconds(0), seconds(9)), None);
        assert_eq!(end(seconds(5), seconds(0)), Some(at(5_007)));
        let ends: Vec<_> = (0..1_000)
            .filter_map(|_| end(seconds(5), seconds(1)))
            .collect();
        assert!(
            ends.iter()
                .all(|end| (5_007..=6_007).contains(&end.as_ms()))
        );
        let early = ends.iter().filter(|end| end.as_ms() < 5_507).count();
        assert!((400..600).contains(&early), "{early}");
    }

    #[test]
    fn a_backend_that_speaks_first_answers_nobody() {
        let mut phase = Phase::Opening { since: at(0) };
        assert_eq!(phase.on_bytes(0, 60, &RULES, at(1_500)), None);
        phase.look(&RULES, at(2_000));
        assert_eq!(
            phase,
            Phase::Idle,
            "a greeting is no answer that could go on"
        );
    }

    #[test]
    fn a_backend_that_has_finished_does_nothing_more() {
        let mut phase = Phase::Waiting { since: at(0) };
        phase.on_backend_finished();
        assert_eq!(phase.on_bytes(900, 0, &RULES, at(5)), None);
        assert!(!phase.is_busy() && phase.idle_at(&RULES).is_none());
    }

    #[test]
    fn pings_and_their_answers_keep_nobody_busy() {
        let rules = Rules {
            min_bytes: 64,
            ..RULES
        };
        let pings: Vec<Seen> = (0..60).map(|n| (5_000 + 1_000 * n, 17, 17)).collect();
        let busy = busy_in_each_ms(&rules, &pings, 70_000);
        assert_eq!(
            busy.iter().filter(|busy| **busy).count(),
            2_000,
            "while it is new"
        );
        let busy = busy_in_each_ms(&RULES, &pings, 70_000);
        assert!(
            busy[5_000..65_000].iter().all(|busy| *busy),
            "without the bound they do"
        );
        // Short chunks of an answer keep it going.
        let tokens: Vec<Seen> = (0..100).map(|n| (5_100 + 100 * n, 0, 5)).collect();
        let busy = busy_in_each_ms(&rules, &[&[(5_000, 900, 0)], &tokens[..]].concat(), 20_000);
        assert!(busy[5_000..17_000].iter().all(|busy| *busy));
    }

    /// One exchange after another, and the milliseconds in which the backend works.
    fn exchanges(
        rng: &mut Rng,
        (pause_ms, think_ms, gap_ms): (u64, u64, u64),
        tokens: u64,
    ) -> (Vec<Seen>, Vec<bool>) {
        let (mut seen, mut works, mut now) = (Vec::new(), Vec::new(), 0);
        for _ in 0..50 {
            now += 1 + rng.below(2 * pause_ms);
            let asked = now;
            seen.push((now, 800, 0));
            now += 1 + rng.below(2 * think_ms);
            for _ in 0..tokens {
                seen.push((now, 0, 120));
                now += 1 + rng.below(2 * gap_ms);
            }
            let last = seen.last().expect("just pushed").0;
            works.resize(usize::try_from(asked).unwrap(), false);
            works.resize(usize::try_from(last + 1).unwrap(), true);
            now = last;
        }
        (seen, works)
    }

    /// The share of the time in which the backend works that is not busy, and the other way round.
    fn errors(script: (Vec<Seen>, Vec<bool>)) -> (f64, f64) {
        let (seen, works) = script;
        let busy = busy_in_each_ms(&RULES, &seen, works.len() as u64);
        let share = |works_then: bool| {
            let of_it = || {
                works
                    .iter()
                    .zip(&busy)
                    .skip(2_000)
                    .filter(|it| *it.0 == works_then)
            };
            let wrong = of_it().filter(|it| *it.1 != works_then).count();
            wrong as f64 / of_it().count().max(1) as f64
        };
        (share(true), share(false))
    }

    /// The limits of what can be told, measured: conversations of a person, of a program that asks
    /// again at once, and with a model that takes longer for a token than the linger.
    #[test]
    fn error_rates_of_scripted_sessions() {
        let mut rng = Rng::new(1);
        let chat = errors(exchanges(&mut rng, (60_000, 3_000, 30), 200));
        let agent = errors(exchanges(&mut rng, (300, 3_000, 30), 200));
        let slow = errors(exchanges(&mut rng, (60_000, 3_000, 2_000), 30));
        println!("missed, false: chat {chat:?}, agent {agent:?}, slow decoder {slow:?}");
        // A busy phase is never missed while tokens come faster than the linger.
        assert_eq!((chat.0, agent.0), (0.0, 0.0));
        // Two seconds after each of these pauses are taken for busy.
        assert!((0.02..0.05).contains(&chat.1), "{chat:?}");
        assert!(agent.1 > 0.99, "{agent:?}");
        // Half of the gaps are longer than the linger, by a second on average.
        assert!((0.15..0.35).contains(&slow.0), "{slow:?}");
    }

    proptest! {
        /// Against the definition: something asked and unanswered, or a backend heard of within the
        /// linger, since the first question.
        #[test]
        fn agrees_with_the_definition(
            chunks in proptest::collection::vec((0..5_000u64, 0..100u64, 0..100u64), 0..40),
            linger_ms in 1..4_000u64, min_bytes in prop_oneof![Just(0), 1..100u32],
        ) {
            let rules = Rules { linger: Duration::from_millis(linger_ms), min_bytes };
            let mut phase = Phase::Opening { since: at(0) };
            let (mut now, mut asked, mut heard, mut has_asked) = (0, None, None, false);
            for (pause, from_client, from_backend) in chunks {
                now += pause;
                phase.look(&rules, at(now));
                let is_within = |heard: Option<u64>| heard.is_some_and(|it| now < it + linger_ms);
                let opening = !has_asked && now < linger_ms;
                prop_assert_eq!(phase.is_busy(), opening || asked.is_some() || is_within(heard));
                let change = phase.on_bytes(from_client, from_backend, &rules, at(now));
                let mut expected = None;
                if from_client > 0 && from_client >= u64::from(min_bytes) && asked.is_none() {
                    (asked, has_asked) = (Some(now), true);
                    expected = Some(Change::Asked);
                }
                if let Some(since) = asked && from_backend > 0 {
                    expected = Some(Change::Answered(Duration::from_millis(now - since)));
                    (asked, heard) = (None, Some(now));
                } else if from_backend > 0 && is_within(heard) {
                    let pause = now - heard.expect("within");
                    expected = (pause > 0)
                        .then_some(Change::WentOn(Duration::from_millis(pause)))
                        .or(expected);
                    heard = Some(now);
                } else if from_backend > 0 && from_backend >= u64::from(min_bytes)
                    && (has_asked || now >= linger_ms)
                {
                    heard = Some(now);
                    expected = Some(Change::Spoke);
                }
                prop_assert_eq!(change, expected);
            }
        }

        /// However late it is looked at: it is idle in the end, unless somebody waits.
        #[test]
        fn streaming_ends_by_itself(
            chunks in proptest::collection::vec((0..5_000u64, 0..2u64, 0..2u64), 0..40), late in 0..9_000u64,
        ) {
            let mut phase = Phase::Opening { since: at(0) };
            let mut now = 0;
            for (pause, from_client, from_backend) in chunks {
                now += pause;
                phase.on_bytes(from_client, from_backend, &RULES, at(now));
            }
            if let Some(end) = phase.idle_at(&RULES) {
                prop_assert!(end <= at(now + 2_000));
                phase.look(&RULES, at(end.as_ms() + late));
                prop_assert_eq!(phase, Phase::Idle);
            } else {
                let is_waiting = matches!(phase, Phase::Waiting { .. });
                prop_assert!(is_waiting || phase == Phase::Idle);
            }
        }
    }
}
