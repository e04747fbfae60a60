//! What follows from the phase of a session: what its backend has to do for it, and when it may end.

use super::{Session, Stage};
use crate::data::fate::{Cut, End, Fate};
use crate::data::kit::Kit;
use crate::data::token::{SessionKey, deadline_id};
use crate::lb::balance::pick::Policy;
use crate::lb::time::Tick;
use crate::lb::traffic::phase::{Change, Phase};
use crate::lb::traffic::relay::Side;

impl Session {
    /// Bytes have moved; it had received so many from each side before.
    #[inline(always)]
    pub(super) fn on_moved(&mut self, before: [u64; 2], key: SessionKey, kit: &mut Kit) {
        self.last_activity = kit.now;
        self.leg.on_bytes(&self.relay);
        if !self.is_noted {
            self.is_noted = true;
            kit.tally.note(deadline_id(key));
        }
        let [from_client, from_backend] =
            Side::BOTH.map(|side| self.relay.received(side) - before[side as usize]);
        if from_backend > 0 {
            self.leg.lease.backend().progress(kit.now);
        }
        let rules = &self.pool.plan.phase;
        let change = (self.phase).on_bytes(from_client, from_backend, rules, kit.now);
        if let Some(change) = change {
            self.on_phase(change, key, kit);
        }
    }

    /// Its phase has changed. Happens at the pace of questions and answers, and at most once in a
    /// millisecond while an answer goes on.
    pub(super) fn on_phase(&mut self, change: Change, key: SessionKey, kit: &mut Kit) {
        let backend = self.leg.lease.backend();
        match change {
            Change::Asked | Change::Spoke => {}
            Change::WentOn(pause) => {
                backend.meters.of_worker(kit.worker).gap.observe(pause);
                return;
            }
            Change::Answered(time) => {
                (backend.meters.of_worker(kit.worker).first_byte).observe(time);
                if self.pool.plan.balance.policy == Policy::LeastLatency {
                    backend.latency.observe(time, kit.now);
                }
            }
        }
        self.leg.lease.set_busy(true);
        // One deadline is enough for all exchanges within the linger.
        if !self.is_watched && self.idle_at().is_some() {
            self.arm(key, kit);
        }
    }

    /// Its backend has nothing to do for it any more.
    pub(super) fn let_backend_rest(&mut self) {
        self.phase.on_backend_finished();
        self.leg.lease.set_busy(false);
    }

    /// When it is idle by itself.
    pub(super) fn idle_at(&self) -> Option<Tick> {
        match self.stage {
            Stage::Relaying => self.phase.idle_at(&self.pool.plan.phase),
            Stage::Connecting(_) | Stage::Flushing(_) => None,
        }
    }

    /// It is connected.
    pub(super) fn begin_phases(&mut self, kit: &mut Kit) {
        self.phase = Phase::Opening { since: kit.now };
        let lifetime = &self.pool.plan.lifetime;
        self.expires = lifetime.end(kit.now, &mut kit.rng);
    }

    /// Makes it idle if its time has come. A client that does not take what its backend has sent makes
    /// the backend silent, and not idle.
    pub(super) fn look_at_phase(&mut self, kit: &Kit) {
        if !matches!(self.stage, Stage::Relaying) {
            return;
        }
        if self.relay.parked(Side::Backend) > 0 {
            self.phase.go_on(kit.heard);
        }
        self.phase.look(&self.pool.plan.phase, kit.heard);
        self.leg.lease.set_busy(self.phase.is_busy());
    }

    /// When it has lasted long enough and is quiet, if nothing comes before.
    pub(super) fn over_at(&self) -> Option<Tick> {
        let expires = self.expires?;
        match (&self.stage, self.phase) {
            // Whatever may come now and then, it asks for nothing.
            (Stage::Relaying, Phase::Idle) => Some(expires),
            (Stage::Relaying, Phase::Over) => {
                let silent = self.last_activity.after(self.pool.plan.phase.linger);
                Some(expires.max(silent))
            }
            _ => None,
        }
    }

    /// Ends it, unless bytes are still on their way, which a reset would lose.
    pub(super) fn end_at_quiet_point(&mut self, key: SessionKey, kit: &mut Kit) -> Fate {
        let is_on_its_way =
            |side| self.relay.parked(side) > 0 || self.socket(side).unacknowledged() > 0;
        if Side::BOTH.into_iter().any(is_on_its_way) {
            self.expires = Some(kit.heard.after(self.pool.plan.phase.linger));
            self.arm(key, kit);
            return Fate::Wait;
        }
        Fate::End(End::Cut(Cut::Lifetime))
    }
}
