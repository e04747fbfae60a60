//! Which member a key was given, remembered as long as the key is in use, for so many keys at most.
//!
//! Every use of a key puts off its end by the same time, so the key that was used least recently is
//! also the next to expire: one list says both who goes when room is needed and who has gone.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use slotmap::{SlotMap, new_key_type};

use crate::lb::time::Tick;

new_key_type! {
    struct Place;
}

/// How long a table remembers, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long after its last use a key is remembered.
    pub ttl: Duration,
    /// How many keys are remembered; with 0 none is.
    pub entries: usize,
}

/// Members by keys. Keys are hashes that clients cannot choose: the caller keys them with a secret.
/// Time never goes back.
#[derive(Debug)]
pub struct Table<M> {
    limits: Limits,
    places: HashMap<u64, Place, BuildHasherDefault<Hashed>>,
    entries: SlotMap<Place, Entry<M>>,
    /// The ends of the list: of the entries used last and longest ago. Both or none.
    ends: Option<Ends>,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    newest: Place,
    oldest: Place,
}

#[derive(Debug)]
struct Entry<M> {
    key: u64,
    member: M,
    used: Tick,
    newer: Option<Place>,
    older: Option<Place>,
}

impl<M: Clone> Table<M> {
    /// An empty table. Memory is taken as keys come.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            places: HashMap::default(),
            entries: SlotMap::with_key(),
            ends: None,
        }
    }

    /// From now on these limits hold, also for what is remembered already.
    pub fn limit(&mut self, limits: Limits, now: Tick) {
        self.limits = limits;
        self.expire(now, usize::MAX);
        while self.len() > limits.entries {
            self.forget_oldest();
        }
    }

    /// The member of a key, which is a use of the key.
    pub fn member(&mut self, key: u64, now: Tick) -> Option<M> {
        let place = *self.places.get(&key)?;
        if self.has_expired(place, now) {
            self.remove(place);
            return None;
        }
        self.use_again(place, now);
        Some(self.entries[place].member.clone())
    }

    /// The same, and no use of it.
    pub fn look_up(&self, key: u64, now: Tick) -> Option<&M> {
        let place = *self.places.get(&key)?;
        (!self.has_expired(place, now)).then(|| &self.entries[place].member)
    }

    /// Gives a key a member, and forgets another key if there is no room: whether one had to be
    /// forgotten before its time.
    pub fn remember(&mut self, key: u64, member: M, now: Tick) -> bool {
        if let Some(&place) = self.places.get(&key) {
            self.entries[place].member = member;
            self.use_again(place, now);
            return false;
        }
        if self.limits.entries == 0 {
            return false;
        }
        let is_full = self.len() >= self.limits.entries && self.expire(now, 1) == 0;
        if is_full {
            self.forget_oldest();
        }
        let place = self.entries.insert(Entry {
            key,
            member,
            used: now,
            newer: None,
            older: None,
        });
        self.places.insert(key, place);
        self.link(place);
        is_full
    }

    /// Forgets a key.
    pub fn forget(&mut self, key: u64) {
        if let Some(&place) = self.places.get(&key) {
            self.remove(place);
        }
    }

    /// Forgets up to so many keys that have expired: how many. What expires is forgotten when it is
    /// asked for or in the way; this gives memory back for other keys sooner.
    pub fn expire(&mut self, now: Tick, at_most: usize) -> usize {
        let mut count = 0;
        while count < at_most
            && let Some(Ends { oldest, .. }) = self.ends
            && self.has_expired(oldest, now)
        {
            self.remove(oldest);
            count += 1;
        }
        count
    }

    /// How many keys are held, expired ones among them.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn has_expired(&self, place: Place, now: Tick) -> bool {
        self.entries[place].used.after(self.limits.ttl) <= now
    }

    fn use_again(&mut self, place: Place, now: Tick) {
        self.entries[place].used = now;
        if self.ends.is_some_and(|ends| ends.newest != place) {
            self.unlink(place);
            self.link(place);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(Ends { oldest, .. }) = self.ends {
            self.remove(oldest);
        }
    }

    fn remove(&mut self, place: Place) {
        self.unlink(place);
        if let Some(entry) = self.entries.remove(place) {
            self.places.remove(&entry.key);
        }
    }

    /// Puts an entry that is in no list at the newer end.
    fn link(&mut self, place: Place) {
        let newest = self.ends.map(|ends| ends.newest);
        if let Some(newest) = newest {
            self.entries[newest].newer = Some(place);
        }
        let entry = &mut self.entries[place];
        (entry.newer, entry.older) = (None, newest);
        self.ends = Some(Ends {
            newest: place,
            oldest: self.ends.map_or(place, |ends| ends.oldest),
        });
    }

    /// Takes an entry out of the list.
    fn unlink(&mut self, place: Place) {
        let (newer, older) = (self.entries[place].newer, self.entries[place].older);
        if let Some(newer) = newer {
            self.entries[newer].older = older;
        }
        if let Some(older) = older {
            self.entries[older].newer = newer;
        }
        self.ends = self.ends.and_then(|ends| {
            Some(Ends {
                newest: if ends.newest == place {
                    older?
                } else {
                    ends.newest
                },
                oldest: if ends.oldest == place {
                    newer?
                } else {
                    ends.oldest
                },
            })
        });
    }
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: u64 = 10;

    fn limits(ttl: u64, entries: usize) -> Limits {
        Limits {
            ttl: Duration::from_millis(ttl),
            entries,
        }
    }

    fn at(ms: u64) -> Tick {
        Tick::from_ms(ms)
    }

    #[test]
    fn a_key_is_remembered_as_long_as_it_is_used() {
        let mut table = Table::new(limits(TTL, 2));
        assert_eq!(table.member(1, at(0)), None);
        table.remember(1, 'a', at(0));
        assert_eq!(table.member(1, at(9)), Some('a'));
        assert_eq!(table.member(1, at(18)), Some('a'));
        assert_eq!(table.member(1, at(28)), None);
        assert!(table.is_empty());
    }

    #[test]
    fn the_key_that_was_used_longest_ago_makes_room() {
        let mut table = Table::new(limits(TTL, 2));
        table.remember(1, 'a', at(0));
        table.remember(2, 'b', at(1));
        assert_eq!(table.member(1, at(2)), Some('a'));
        assert!(table.remember(3, 'c', at(3)), "before its time");
        assert_eq!(table.member(2, at(4)), None);
        assert_eq!(table.member(1, at(4)), Some('a'));
        assert_eq!(table.member(3, at(4)), Some('c'));
        assert!(!table.remember(4, 'd', at(14)), "all have expired");
        assert_eq!(table.expire(at(14), usize::MAX), 1);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_member_can_be_changed_and_forgotten() {
        let mut table = Table::new(limits(TTL, 1));
        table.remember(1, 'a', at(0));
        assert!(!table.remember(1, 'b', at(1)));
        assert_eq!(table.member(1, at(2)), Some('b'));
        table.forget(1);
        table.forget(2);
        assert_eq!(table.member(1, at(2)), None);
        let mut none = Table::new(limits(TTL, 0));
        assert!(!none.remember(1, 'a', at(0)));
        assert!(none.is_empty());
    }

    #[derive(Clone, Debug)]
    enum Act {
        Ask(u64),
        Remember(u64, u8),
        Forget(u64),
        Expire(usize),
        Limit(u64, usize),
        Wait(u64),
    }

    fn acts() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0..12_u64).prop_map(Act::Ask),
            4 => (0..12_u64, any::<u8>()).prop_map(|(key, member)| Act::Remember(key, member)),
            1 => (0..12_u64).prop_map(Act::Forget),
            1 => (0..4_usize).prop_map(Act::Expire),
            1 => (0..TTL * 2, 0..9_usize).prop_map(|(ttl, entries)| Act::Limit(ttl, entries)),
            3 => (0..TTL).prop_map(Act::Wait),
        ]
    }

    /// The same, without any cleverness: entries in the order of their use.
    struct Model {
        ttl: u64,
        entries: usize,
        list: Vec<(u64, u8, u64)>,
    }

    impl Model {
        fn take(&mut self, key: u64) -> Option<(u64, u8, u64)> {
            let place = self.list.iter().position(|entry| entry.0 == key)?;
            Some(self.list.remove(place))
        }

        fn is_dead(&self, used: u64, now: u64) -> bool {
            used + self.ttl <= now
        }

        fn expire(&mut self, now: u64, at_most: usize) -> usize {
            let dead = self.list.iter().filter(|entry| self.is_dead(entry.2, now));
            let count = dead.count().min(at_most);
            self.list.drain(..count);
            count
        }
    }

    proptest! {
        #[test]
        fn it_remembers_what_a_plain_list_does(acts in proptest::collection::vec(acts(), 0..80)) {
            let mut now = 0;
            let mut table = Table::new(limits(TTL, 5));
            let mut model = Model { ttl: TTL, entries: 5, list: Vec::new() };
            for act in acts {
                match act {
                    Act::Ask(key) => {
                        let entry = model.take(key).filter(|entry| !model.is_dead(entry.2, now));
                        model.list.extend(entry.map(|(key, member, _)| (key, member, now)));
                        prop_assert_eq!(table.member(key, at(now)), entry.map(|entry| entry.1));
                    }
                    Act::Remember(key, member) => {
                        let mut evicts = false;
                        if model.take(key).is_none() && model.list.len() >= model.entries {
                            evicts = model.entries > 0 && model.expire(now, 1) == 0;
                            if evicts {
                                model.list.remove(0);
                            }
                        }
                        if model.entries > 0 {
                            model.list.push((key, member, now));
                        }
                        prop_assert_eq!(table.remember(key, member, at(now)), evicts);
                    }
                    Act::Forget(key) => {
                        model.take(key);
                        table.forget(key);
                    }
                    Act::Expire(at_most) => {
                        prop_assert_eq!(table.expire(at(now), at_most), model.expire(now, at_most));
                    }
                    Act::Limit(ttl, entries) => {
                        (model.ttl, model.entries) = (ttl, entries);
                        model.expire(now, usize::MAX);
                        model.list.drain(..model.list.len().saturating_sub(entries));
                        table.limit(limits(ttl, entries), at(now));
                    }
                    Act::Wait(ms) => now += ms,
                }
                let held: Vec<u64> = model.list.iter().map(|entry| entry.0).collect();
                prop_assert_eq!(table.keys_by_use(), held);
                prop_assert!(table.len() <= model.entries);
                prop_assert_eq!(table.places.len(), table.entries.len());
            }
        }
    }

    impl<M: Clone> Table<M> {
        /// From the oldest, by the links in one direction; those in the other must agree.
        fn keys_by_use(&self) -> Vec<u64> {
            let mut keys = Vec::new();
            let mut before = None;
            let mut next = self.ends.map(|ends| ends.oldest);
            while let Some(place) = next {
                let entry = &self.entries[place];
                assert_eq!(entry.older, before);
                keys.push(entry.key);
                (before, next) = (next, entry.newer);
            }
            assert_eq!(before, self.ends.map(|ends| ends.newest));
            keys
        }
    }
}
