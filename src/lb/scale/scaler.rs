//! Which instances to start and to stop, from what is asked and what they are at.
//!
//! - What is missing is started at once, as many as may start at the same time: one after the other, a
//!   steady load waits for as many starts in a row.
//! - What is too much goes one at a time, at an interval that is no shorter than one and a half times
//!   what a start takes: where a start is dear, a burst may well come back before it is over.
//! - Who drains is taken back before anybody is started, and who was started last drains first, among
//!   those with as little to do: its caches are the coldest.
//! - The last one goes when nobody has been there for the idle time, which begins when it is ready.
//! - A start that takes too long or fails is tried again after a pause, and not for ever.
//!
//! Measured against other rules on traces of model servers, no rule to shrink by won everywhere, and to
//! start all that is missing at once did.

use std::cmp::Reverse;
use std::time::Duration;

use super::demand::{Asked, Demand};
use super::instance::{Instance, StartTimes, State};
use crate::lb::time::Tick;

/// How a pool is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Instances there are at least.
    pub min: usize,
    /// And at most.
    pub max: usize,
    /// Busy sessions that one is to have; not 0.
    pub per_instance: u32,
    /// The pause after one was drained, until the next may be.
    pub scale_down_interval: Duration,
    /// How long nobody must have been there before the last one goes.
    pub idle_timeout: Duration,
    /// A start that takes longer has failed.
    pub start_timeout: Duration,
    /// An instance that drains is stopped after so long although it is busy.
    pub drain_timeout: Duration,
    /// How many may start at the same time; not 0.
    pub max_parallel_starts: usize,
}

/// Who says how many there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The load.
    Auto,
    /// Somebody who has asked for so many.
    Fixed(usize),
}

/// What one instance has to do now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Its sessions.
    pub open: u32,
    /// Those that are busy.
    pub busy: u32,
}

/// What is to be done with an instance, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start it.
    Start(usize),
    /// Give it no new clients.
    Drain(usize),
    /// Give it clients again.
    Undrain(usize),
    /// Stop it; whoever is still there is cut.
    Stop(usize),
}

/// The instances of a pool. Plain data.
#[derive(Clone, Debug)]
pub struct Scaler {
    settings: Settings,
    target: Target,
    instances: Vec<Instance>,
    demand: Demand,
    starts: StartTimes,
    /// How many there were to be at the last look.
    wanted: usize,
    /// When one was drained last because there were too many.
    shrunk: Tick,
    /// Since when nobody has been there; `None` = somebody is.
    empty_since: Option<Tick>,
}

impl Scaler {
    /// A pool of which nothing runs yet.
    pub fn new(settings: Settings, now: Tick) -> Self {
        Self {
            target: Target::Auto,
            instances: vec![Instance::new(); settings.max],
            demand: Demand::default(),
            starts: StartTimes::default(),
            wanted: settings.min,
            shrunk: now,
            empty_since: Some(now),
            settings,
        }
    }

    /// Goes on by other settings. Instances beyond the most drain and keep their places until they have
    /// stopped.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.resize();
    }

    /// Sets who says how many there are to be. Instances that have failed are tried again.
    pub fn aim(&mut self, target: Target) {
        self.target = target;
        self.instances.iter_mut().for_each(Instance::forgive);
    }

    /// Each instance, by its place.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// How many there were to be at the last look.
    pub const fn wanted(&self) -> usize {
        self.wanted
    }

    /// What starts have taken.
    pub const fn starts(&self) -> &StartTimes {
        &self.starts
    }

    /// Whether nobody can be served, and nothing is under way that would change that: who waits, waits
    /// in vain.
    pub fn is_hopeless(&self) -> bool {
        (self.instances.iter()).all(|instance| matches!(instance.state(), State::Failed))
    }

    /// Takes in what is asked, between two looks.
    pub fn observe(&mut self, asked: Asked) {
        self.demand.observe(asked);
    }

    /// The instance takes clients now.
    pub fn on_ready(&mut self, place: usize, now: Tick) {
        let instance = &mut self.instances[place];
        if let State::Starting { since } = instance.state {
            instance.state = State::Ready { since: now };
            self.starts.observe(now.since(since));
            self.empty_since = self.empty_since.map(|_| now);
        }
    }

    /// The instance runs no longer, be it that it was told so or that it has failed.
    pub fn on_end(&mut self, place: usize, now: Tick) {
        let instance = &mut self.instances[place];
        let has_failed = match instance.state {
            State::Starting { .. } | State::Ready { .. } => true,
            State::Stopping { has_failed } => has_failed,
            // It was to go.
            State::Draining { .. } => false,
            State::Stopped | State::Resting { .. } | State::Failed => return,
        };
        instance.on_end(has_failed, now);
        self.resize();
    }

    /// What is to be done now; `loads` by place. To be asked each second, and at once when somebody
    /// begins to wait.
    pub fn look(&mut self, loads: &[Load], queued: u32, now: Tick) -> Vec<Action> {
        let busy = loads.iter().map(|load| load.busy).sum();
        let asked = Asked { busy, queued };
        let is_empty = queued == 0 && loads.iter().all(|load| load.open == 0);
        self.empty_since = is_empty.then(|| self.empty_since.unwrap_or(now));
        let demand = self.demand.look(asked, now);
        self.wanted = match self.target {
            Target::Fixed(count) => count.min(self.settings.max),
            Target::Auto => self.wanted_for(demand, queued),
        };
        let mut actions = Vec::new();
        self.end_what_is_over(loads, now, &mut actions);
        self.grow(now, &mut actions);
        self.shrink(loads, now, &mut actions);
        actions
    }

    fn wanted_for(&self, demand: f64, queued: u32) -> usize {
        let Settings {
            min,
            max,
            per_instance,
            ..
        } = self.settings;
        // A mean that is small is still somebody, but nobody who waits.
        let needed = (demand / f64::from(per_instance)).ceil();
        let needed = (0..max)
            .find(|&count| count as f64 >= needed)
            .unwrap_or(max);
        needed.max(min).max(usize::from(queued > 0)).min(max)
    }

    /// Gives up starts that take too long, and stops who has drained.
    fn end_what_is_over(&mut self, loads: &[Load], now: Tick, actions: &mut Vec<Action>) {
        for (place, instance) in self.instances.iter_mut().enumerate() {
            instance.forget_failures(now);
            let busy = loads.get(place).map_or(0, |load| load.busy);
            let has_failed = match instance.state {
                State::Starting { since } if now.since(since) >= self.settings.start_timeout => {
                    true
                }
                State::Draining { since, .. }
                    if busy == 0 || now.since(since) >= self.settings.drain_timeout =>
                {
                    false
                }
                _ => continue,
            };
            instance.state = State::Stopping { has_failed };
            actions.push(Action::Stop(place));
        }
    }

    /// Takes back who drains, the warmest first, and starts what is missing then.
    fn grow(&mut self, now: Tick, actions: &mut Vec<Action>) {
        let mut missing = self.wanted.saturating_sub(self.ready() + self.starting());
        while missing > 0
            && let Some((place, ready_since)) = self.warmest_draining()
        {
            self.instances[place].state = State::Ready { since: ready_since };
            actions.push(Action::Undrain(place));
            missing -= 1;
        }
        let may_start = self
            .settings
            .max_parallel_starts
            .saturating_sub(self.starting());
        let startable = (self.instances.iter_mut().enumerate())
            .take(self.settings.max)
            .filter(|(_, instance)| instance.is_startable(now));
        for (place, instance) in startable.take(missing.min(may_start)) {
            instance.state = State::Starting { since: now };
            actions.push(Action::Start(place));
        }
    }

    /// Lets go of who is too much: at once who has no place, or where somebody has said how many there
    /// are to be, and otherwise one at a time.
    fn shrink(&mut self, loads: &[Load], now: Tick, actions: &mut Vec<Action>) {
        for place in self.settings.max..self.instances.len() {
            self.send_away(place, now, actions);
        }
        while self.ready() + self.starting() > self.at_most() {
            if !self.let_go(loads, now, actions) {
                return;
            }
        }
        if self.target == Target::Auto && self.has_spare(loads, now) {
            self.let_go(loads, now, actions);
            self.shrunk = now;
        }
    }

    fn at_most(&self) -> usize {
        match self.target {
            Target::Auto => self.settings.max,
            Target::Fixed(_) => self.wanted,
        }
    }

    fn has_spare(&self, loads: &[Load], now: Tick) -> bool {
        let ready = self.ready();
        if ready <= self.settings.min || self.starting() > 0 {
            return false;
        }
        if ready == 1 {
            let is_over = |since| now.since(since) >= self.settings.idle_timeout;
            return self.empty_since.is_some_and(is_over);
        }
        // With the spare one gone, somebody must be left who has room.
        let is_over = |(place, instance): &(usize, &Instance)| {
            let busy = loads.get(*place).map_or(0, |load| load.busy);
            is_ready(instance) && busy >= self.settings.per_instance
        };
        let over = self.instances.iter().enumerate().filter(is_over).count();
        let is_time = now.since(self.shrunk) >= self.interval();
        self.wanted < ready && ready > over + 1 && is_time
    }

    /// The pause between two that go.
    fn interval(&self) -> Duration {
        let start = self.starts.most();
        self.settings.scale_down_interval.max(start + start / 2)
    }

    /// Lets one instance go: who starts before who is ready, and of these the one with the least to do,
    /// and among equals the youngest. False if there is none.
    fn let_go(&mut self, loads: &[Load], now: Tick, actions: &mut Vec<Action>) -> bool {
        let last_starting = (self.instances.iter())
            .rposition(|instance| matches!(instance.state, State::Starting { .. }));
        let least = |(place, instance): (usize, &Instance)| {
            let State::Ready { since } = instance.state else {
                return None;
            };
            let busy = loads.get(place).map_or(0, |load| load.busy);
            Some((busy, Reverse(since), place))
        };
        let candidates = self.instances.iter().enumerate().filter_map(least);
        let least = candidates.min().map(|(_, _, place)| place);
        let Some(place) = last_starting.or(least) else {
            return false;
        };
        self.send_away(place, now, actions);
        true
    }

    /// Gives up its start, or lets it drain.
    fn send_away(&mut self, place: usize, now: Tick, actions: &mut Vec<Action>) {
        let state = &mut self.instances[place].state;
        match *state {
            State::Starting { .. } => {
                *state = State::Stopping { has_failed: false };
                actions.push(Action::Stop(place));
            }
            State::Ready { since } => {
                *state = State::Draining {
                    since: now,
                    ready_since: since,
                };
                actions.push(Action::Drain(place));
            }
            _ => {}
        }
    }

    /// Who drains, has been ready for the longest time, and has a place.
    fn warmest_draining(&self) -> Option<(usize, Tick)> {
        let draining = |(place, instance): (usize, &Instance)| match instance.state {
            State::Draining { ready_since, .. } => Some((ready_since, place)),
            _ => None,
        };
        let places = self.instances.iter().enumerate().take(self.settings.max);
        let (ready_since, place) = places.filter_map(draining).min()?;
        Some((place, ready_since))
    }

    fn ready(&self) -> usize {
        self.instances.iter().filter(|it| is_ready(it)).count()
    }

    fn starting(&self) -> usize {
        let is_starting = |it: &&Instance| matches!(it.state, State::Starting { .. });
        self.instances.iter().filter(is_starting).count()
    }

    /// Has a place for each that may run, and for those that still do.
    fn resize(&mut self) {
        let is_gone = |it: &Instance| {
            matches!(
                it.state,
                State::Stopped | State::Resting { .. } | State::Failed
            )
        };
        let used = self.instances.iter().rposition(|it| !is_gone(it));
        let used = used.map_or(0, |place| place + 1);
        let length = self.settings.max.max(used);
        self.instances.resize(length, Instance::new());
    }
}

const fn is_ready(instance: &Instance) -> bool {
    matches!(instance.state(), State::Ready { .. })
}

#[cfg(test)]
mod tests;
