//! Who waits for a slot of a pool: first come, first served, within a limit for all and one for each
//! source. Whoever comes back, because its backend has failed it, stands where it stood before.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::source::Source;
use crate::lb::time::Tick;

/// How many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of one pool; 0 = nobody waits.
    pub all: u32,
    /// Of one source; 0 = any number.
    pub per_source: u32,
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
    /// Those of each source that has some.
    sources: BTreeMap<Source, u32>,
    /// The number of the next ticket.
    next: u64,
    /// As of when the last one joined that was new. Those who ask may be of several workers, whose
    /// clocks stand still for a turn each.
    latest: Tick,
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
            sources: BTreeMap::new(),
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

    /// When the first one has come.
    pub fn oldest(&self) -> Option<Tick> {
        self.waiters.keys().next().map(|ticket| ticket.since)
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
        if let Some(source) = source {
            let count = self.sources.get(&source).copied().unwrap_or(0);
            if limits.per_source != 0 && count >= limits.per_source {
                return Err(Full::Source);
            }
            self.sources.insert(source, count + 1);
        }
        let since = match standing {
            Standing::New(now) => {
                self.latest = self.latest.max(now);
                self.latest
            }
            Standing::Since(since) => since,
            Standing::Again(ticket) => ticket.since,
        };
        let number = match standing {
            Standing::Again(ticket) => ticket.number,
            Standing::New(_) | Standing::Since(_) => {
                self.next += 1;
                self.next
            }
        };
        let ticket = Ticket { since, number };
        let waiter = Waiter { item, source };
        self.waiters.insert(ticket, waiter);
        Ok(ticket)
    }

    /// Takes somebody out; `None` if it has left already.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let waiter = self.waiters.remove(&ticket)?;
        if let Some(source) = waiter.source
            && let Some(count) = self.sources.get_mut(&source)
        {
            *count -= 1;
            if *count == 0 {
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
                Turn::Over(answer) => left.extend(self.leave(ticket).map(|item| (item, answer))),
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
            let limits = Limits { all, per_source };
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
                let of_sources: u32 = queue.sources.values().sum();
                prop_assert_eq!(of_sources as usize, model.len());
                prop_assert!(queue.sources.values().all(|&count| count > 0));
            }
        }
    }
}
