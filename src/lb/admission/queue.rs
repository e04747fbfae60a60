//! Who waits for a slot of a pool: first come, first served, within a limit for all and one for each
//! source. Whoever comes back, because its backend has failed it, stands where it stood before.
//!
//! Where sources take turns, a waiter stands in a round: the one that is being served, or the one behind
//! the last of its own source. So a source that sends many clients waits for itself, and a slot goes
//! to each source in turn (start-time fair queueing, Goyal, Vin and Cheng 1996, with slots of one size).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::source::Source;
use crate::lb::time::Tick;

/// How many may wait, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one pool; 0 = nobody waits.
    pub all: u32,
    /// Of one source; 0 = any number.
    pub per_source: u32,
    /// Sources take turns.
    pub is_fair: bool,
}

/// Why nobody more may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many wait as may.
    All,
    /// As many of this source wait as may.
    Source,
}

/// Where somebody stands who joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Behind all who have joined before, as of now.
    New(Tick),
    /// It has never waited, has had its turn, and came then: before all who came later.
    Since(Tick),
    /// Where it stood before.
    Again(Ticket),
}

/// A place in a queue, which nobody else ever gets; in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    round: u64,
    since: Tick,
    number: u64,
}

/// What becomes of a waiter whose turn it is.
#[derive(Debug)]
pub enum Turn<A> {
    /// It leaves with this answer.
    Over(A),
    /// Nothing for it, but perhaps for those behind it.
    Passed,
    /// Nothing for anybody.
    Wait,
}

/// Those who wait, in order.
#[derive(Clone, Debug)]
pub struct Queue<T> {
    waiters: BTreeMap<Ticket, Waiter<T>>,
    /// The same by age, which is another order where sources take turns.
    ages: BTreeSet<(Tick, u64)>,
    /// Each source that has some.
    sources: BTreeMap<Source, OfSource>,
    /// In which those stood who were served last.
    round: u64,
    /// The number of the next ticket.
    next: u64,
    /// As of when the last one joined that was new. Those who ask may be of several workers, whose
    /// clocks stand still for a turn each.
    latest: Tick,
}

#[derive(Clone, Copy, Debug)]
struct OfSource {
    waiting: u32,
    /// In which the last of them stands.
    round: u64,
}

#[derive(Clone, Debug)]
struct Waiter<T> {
    item: T,
    source: Option<Source>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiters: BTreeMap::new(),
            ages: BTreeSet::new(),
            sources: BTreeMap::new(),
            round: 0,
            next: 0,
            latest: Tick::ZERO,
        }
    }
}

impl<T> Queue<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// When the one has come that has waited longest.
    pub fn oldest(&self) -> Option<Tick> {
        self.ages.first().map(|(since, _)| *since)
    }

    /// Adds somebody of `source`; `None` = of nobody that is counted.
    pub fn join(
        &mut self,
        item: T,
        source: Option<Source>,
        standing: Standing,
        limits: Limits,
    ) -> Result<Ticket, Full> {
        if self.waiters.len() >= limits.all as usize {
            return Err(Full::All);
        }
        let of_source = source.and_then(|source| self.sources.get(&source)).copied();
        let waiting = of_source.map_or(0, |of_source| of_source.waiting);
        if limits.per_source != 0 && waiting >= limits.per_source {
            return Err(Full::Source);
        }
        let earliest = if limits.is_fair {
            of_source.map(|of_source| of_source.round + 1)
        } else {
            self.waiters.keys().next_back().map(|last| last.round)
        };
        let ticket = self.ticket(standing, earliest);
        if let Some(source) = source {
            let last = of_source.map_or(0, |of_source| of_source.round);
            let of_source = OfSource {
                waiting: waiting + 1,
                round: last.max(ticket.round),
            };
            self.sources.insert(source, of_source);
        }
        let waiter = Waiter { item, source };
        self.waiters.insert(ticket, waiter);
        self.ages.insert((ticket.since, ticket.number));
        Ok(ticket)
    }

    /// Where somebody stands: if it is new, no earlier than in the round `earliest`.
    fn ticket(&mut self, standing: Standing, earliest: Option<u64>) -> Ticket {
        let (round, since) = match standing {
            Standing::Again(ticket) => return ticket,
            Standing::Since(since) => (self.round, since),
            Standing::New(now) => {
                self.latest = self.latest.max(now);
                let earliest = earliest.unwrap_or(0);
                (self.round.max(earliest), self.latest)
            }
        };
        self.next += 1;
        Ticket {
            round,
            since,
            number: self.next,
        }
    }

    /// Takes somebody out; `None` if it has left already.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let waiter = self.waiters.remove(&ticket)?;
        self.ages.remove(&(ticket.since, ticket.number));
        if let Some(source) = waiter.source
            && let Some(of_source) = self.sources.get_mut(&source)
        {
            of_source.waiting -= 1;
            if of_source.waiting == 0 {
                self.sources.remove(&source);
            }
        }
        Some(waiter.item)
    }

    /// Asks for each waiter in order what becomes of it, until there is nothing for anybody or `most`
    /// have left; who has left, and with what.
    pub fn serve<A>(&mut self, most: usize, mut turn: impl FnMut(&T) -> Turn<A>) -> Vec<(T, A)> {
        let mut left = Vec::new();
        let mut passed = None;
        while left.len() < most {
            let after = passed.map_or(Bound::Unbounded, Bound::Excluded);
            let Some((&ticket, waiter)) = self.waiters.range((after, Bound::Unbounded)).next()
            else {
                break;
            };
            passed = Some(ticket);
            match turn(&waiter.item) {
                Turn::Wait => break,
                Turn::Passed => {}
                Turn::Over(answer) => {
                    self.round = self.round.max(ticket.round);
                    left.extend(self.leave(ticket).map(|item| (item, answer)));
                }
            }
        }
        left
    }
}

#[cfg(test)]
mod handover;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const NO_LIMITS: Limits = Limits {
        all: u32::MAX,
        per_source: 0,
        is_fair: false,
    };

    fn source(number: u32) -> Option<Source> {
        Some(Source::V4(number))
    }

    fn take_all(queue: &mut Queue<u32>) -> Vec<u32> {
        let left = queue.serve(usize::MAX, |_| Turn::Over(()));
        left.into_iter().map(|(item, ())| item).collect()
    }

    #[test]
    fn the_first_to_come_is_the_first_to_go() {
        let mut queue = Queue::default();
        let mut join = |item: u32, since_ms| {
            let since = Tick::from_ms(since_ms);
            let standing = Standing::Since(since);
            queue.join(item, source(item), standing, NO_LIMITS).unwrap()
        };
        join(1, 10);
        let second = join(2, 10);
        join(3, 20);
        join(4, 10);
        join(5, 9);
        assert_eq!(queue.oldest(), Some(Tick::from_ms(9)));
        assert_eq!(queue.leave(second), Some(2));
        assert_eq!(queue.leave(second), None, "it has left already");
        assert_eq!(take_all(&mut queue), [5, 1, 4, 3]);
        assert!(queue.is_empty() && queue.sources.is_empty());
    }

    #[test]
    fn newcomers_stand_behind_whatever_their_clock_says_and_who_comes_back_where_it_stood() {
        let mut queue = Queue::default();
        let join = |queue: &mut Queue<u32>, item, standing| {
            queue.join(item, None, standing, NO_LIMITS).unwrap()
        };
        let at = Tick::from_ms;
        let first = join(&mut queue, 1, Standing::New(at(10)));
        join(&mut queue, 2, Standing::New(at(9)));
        join(&mut queue, 3, Standing::New(at(11)));
        join(&mut queue, 4, Standing::Since(at(5)));
        assert_eq!(queue.leave(first), Some(1));
        join(&mut queue, 5, Standing::New(at(12)));
        assert_eq!(join(&mut queue, 1, Standing::Again(first)), first);
        assert_eq!(take_all(&mut queue), [4, 1, 2, 3, 5]);
    }

    #[test]
    fn limits_hold_for_all_and_for_each_source() {
        let limits = Limits {
            all: 3,
            per_source: 2,
            is_fair: false,
        };
        let mut queue = Queue::default();
        let join =
            |queue: &mut Queue<u32>, of| queue.join(0, of, Standing::New(Tick::ZERO), limits);
        let first = join(&mut queue, source(1)).unwrap();
        join(&mut queue, source(1)).unwrap();
        assert_eq!(join(&mut queue, source(1)), Err(Full::Source));
        join(&mut queue, source(2)).unwrap();
        assert_eq!(join(&mut queue, source(3)), Err(Full::All));
        queue.leave(first);
        join(&mut queue, None).unwrap();
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn whom_a_slot_does_not_suit_holds_nobody_up() {
        let mut queue = Queue::default();
        for item in 0..5 {
            queue
                .join(item, None, Standing::New(Tick::ZERO), NO_LIMITS)
                .unwrap();
        }
        let mut asked = Vec::new();
        let left = queue.serve(2, |&item| {
            asked.push(item);
            if item == 0 {
                Turn::Passed
            } else {
                Turn::Over(())
            }
        });
        assert_eq!(left, [(1, ()), (2, ())]);
        assert_eq!(asked, [0, 1, 2], "no more than asked for");
        let left: Vec<(u32, ())> = queue.serve(usize::MAX, |_| Turn::Wait);
        assert!(left.is_empty());
        assert_eq!(take_all(&mut queue), [0, 3, 4]);
    }

    const FAIR: Limits = Limits {
        is_fair: true,
        ..NO_LIMITS
    };

    fn join_new(queue: &mut Queue<u32>, item: u32, of: u32, limits: Limits) -> Ticket {
        let standing = Standing::New(Tick::ZERO);
        queue.join(item, source(of), standing, limits).unwrap()
    }

    #[test]
    fn sources_take_turns_and_each_is_served_in_order() {
        let mut queue = Queue::default();
        for (item, of) in [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
            join_new(&mut queue, item, of, FAIR);
        }
        let one = queue.serve(1, |_| Turn::Over(()));
        assert_eq!(one, [(0, ())]);
        join_new(&mut queue, 6, 4, FAIR); // in the round that is being served
        join_new(&mut queue, 7, 1, FAIR); // behind its own
        assert_eq!(queue.oldest(), Some(Tick::ZERO));
        assert_eq!(take_all(&mut queue), [3, 5, 6, 1, 4, 2, 7]);
    }

    #[test]
    fn whoever_comes_when_turns_end_stands_behind_those_who_wait() {
        let mut queue = Queue::default();
        for item in 0..3 {
            join_new(&mut queue, item, 1, FAIR);
        }
        join_new(&mut queue, 3, 2, NO_LIMITS);
        assert_eq!(take_all(&mut queue), [0, 1, 2, 3]);
    }

    proptest! {
        /// While two sources both have somebody who waits, neither is served more than twice more often
        /// than the other, whatever the others do.
        #[test]
        fn no_source_waits_for_the_crowd_of_another(
            steps in prop::collection::vec((0u32..SOURCES, 0u32..4), 1..300),
        ) {
            let mut queue = Queue::default();
            let mut waiting = [0_u32; SOURCES as usize];
            // How often one was served since both it and the other have waited.
            let mut served = [[0_u32; SOURCES as usize]; SOURCES as usize];
            for (of, action) in steps {
                if action > 0 {
                    join_new(&mut queue, of, of, FAIR);
                    waiting[of as usize] += 1;
                    continue;
                }
                let Some(&(of, ())) = queue.serve(1, |_| Turn::Over(())).first() else {
                    continue;
                };
                let at = of as usize;
                waiting[at] -= 1;
                for other in (0..SOURCES as usize).filter(|&other| other != at) {
                    if waiting[other] == 0 || waiting[at] == 0 {
                        served[at][other] = 0;
                        served[other][at] = 0;
                        continue;
                    }
                    served[at][other] += 1;
                    let behind = served[at][other].saturating_sub(served[other][at]);
                    prop_assert!(behind <= 2, "source {other} waits for source {at}");
                }
            }
        }
    }

    const SOURCES: u32 = 4;

    #[derive(Clone, Debug)]
    enum Step {
        Join(u32, u64),
        Leave(prop::sample::Index),
        Serve(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..4, 0u64..5).prop_map(|(of, since)| Step::Join(of, since)),
            2 => any::<prop::sample::Index>().prop_map(Step::Leave),
            1 => (0usize..4).prop_map(Step::Serve),
        ]
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_list(
            steps in prop::collection::vec(step(), 0..200),
            all in 0u32..12,
            per_source in 0u32..5,
        ) {
            let limits = Limits { all, per_source, is_fair: false };
            let mut queue = Queue::default();
            let mut model: VecDeque<(u32, Ticket, u32, u64)> = VecDeque::new();
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Join(of, since_ms) => {
                        let same = model.iter().filter(|(other, ..)| *other == of).count();
                        let expected = if model.len() >= all as usize {
                            Err(Full::All)
                        } else if per_source != 0 && same >= per_source as usize {
                            Err(Full::Source)
                        } else {
                            Ok(())
                        };
                        let since = Standing::Since(Tick::from_ms(since_ms));
                        let joined = queue.join(number, source(of), since, limits);
                        prop_assert_eq!(joined.map(drop), expected);
                        if let Ok(ticket) = joined {
                            let later = model.iter().position(|&(_, _, _, other)| other > since_ms);
                            let place = later.unwrap_or(model.len());
                            model.insert(place, (of, ticket, number, since_ms));
                        }
                    }
                    Step::Leave(index) if !model.is_empty() => {
                        let (_, ticket, item, _) = model.remove(index.index(model.len())).unwrap();
                        prop_assert_eq!(queue.leave(ticket), Some(item));
                    }
                    Step::Leave(_) => {}
                    Step::Serve(most) => {
                        let left = queue.serve(most, |&item| Turn::Over(item));
                        let expected: Vec<_> = (0..most)
                            .map_while(|_| model.pop_front())
                            .map(|(_, _, item, _)| (item, item))
                            .collect();
                        prop_assert_eq!(left, expected);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.ages.len(), model.len());
                let oldest = model.iter().map(|&(.., since_ms)| Tick::from_ms(since_ms)).min();
                prop_assert_eq!(queue.oldest(), oldest);
                let of_sources: u32 = queue.sources.values().map(|of| of.waiting).sum();
                prop_assert_eq!(of_sources as usize, model.len());
                prop_assert!(queue.sources.values().all(|of| of.waiting > 0));
            }
        }
    }
}
