//! Answers to what tasks of the control plane ask.

use tokio::task::LocalSet;

use super::Supervisor;
use crate::control::handle::Question;
use crate::control::status::{Activity, Status, View};

impl Supervisor {
    /// Answers at once, or sees to it that an answer comes.
    pub(super) async fn answer(&mut self, question: Question, tasks: &LocalSet) {
        // Who has gone meanwhile needs no answer.
        match question {
            Question::Status(reply) => drop(reply.send(self.status())),
            Question::Reload(reply) => self.ask_for_reload(Some(reply)),
            Question::Sessions(wanted, reply) => self.tell_sessions(&wanted, reply, tasks),
            Question::Plan(file, reply) => self.tell_plan(file, reply, tasks),
            Question::Explain(newcomer, reply) => drop(reply.send(self.explain(&newcomer))),
            Question::Backend(order, reply) => drop(reply.send(self.obey(&order, tasks).await)),
        }
    }

    fn status(&self) -> Status {
        let activity = match self.drain {
            None => Activity::Serving,
            Some(_) => Activity::Draining,
        };
        let view = View {
            generation: self.generation,
            activity,
            plan: &self.loaded.plan,
            registry: &self.registry,
            sockets: &self.sockets,
            probers: &self.probers,
            shared: &self.shared,
            reloads: &self.reloads,
            access_log: &self.access_log,
        };
        view.status()
    }
}
