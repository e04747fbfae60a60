//! Carrying out an operator's orders for backends.

use std::sync::Arc;

use tokio::task::LocalSet;

use super::Supervisor;
use crate::config::plan::OnDown;
use crate::control::admin::messages::{Order, What};
use crate::data::mailbox::{Command, Mailbox, Pool};
use crate::lb::admin::Admin;
use crate::lb::backend::BackendState;

impl Supervisor {
    /// Says what was done, or why not.
    pub(super) async fn obey(&mut self, order: &Order, tasks: &LocalSet) -> Result<String, String> {
        let Order {
            pool: pool_name,
            backend: name,
            what,
        } = order;
        let pool = self.registry.pool(pool_name);
        let pool = Arc::clone(pool.ok_or_else(|| format!("there is no pool \"{pool_name}\""))?);
        let members = pool.balancer.members().iter();
        let mut states = members.map(|member| &member.state);
        let state = states
            .find(|state| state.name() == name)
            .ok_or_else(|| format!("pool \"{pool_name}\" has no backend \"{name}\""))?;
        let said = match what {
            What::Ready => self.set_admin(state, Admin::Ready),
            What::Drain => self.set_admin(state, Admin::Drain),
            What::Down => {
                let said = self.set_admin(state, Admin::Down);
                self.cut_by(&pool, state, tasks);
                said
            }
            What::Cut => {
                self.cut(state);
                "cut"
            }
            What::Weight(_) if self.drain.is_some() => return Err("the process stops".to_owned()),
            What::Weight(weight) => {
                state.orders.set_weight(*weight);
                // What is in force, with the weights that hold now.
                let renewed = self.renew(self.loaded.clone(), tasks).await;
                renewed.map_err(|failure| failure.0)?;
                "set"
            }
        };
        let left = state.open();
        Ok(format!(
            "backend \"{pool_name}/{name}\" {what}: {said}; sessions open: {left}"
        ))
    }

    fn set_admin(&self, state: &BackendState, admin: Admin) -> &'static str {
        if !state.orders.set_admin(admin) {
            return "as it was";
        }
        // Clients that wait may have one now, or none to wait for. Any worker serves all.
        if let Some(worker) = self.workers.first()
            && worker.mailbox.wake().is_err()
        {
            log::error!("a worker cannot be woken");
        }
        "set"
    }

    /// Ends the sessions of a backend that is down by order: at once, or when the pool's `on_down` says.
    fn cut_by(&self, pool: &Pool, state: &Arc<BackendState>, tasks: &LocalSet) {
        let OnDown::Drain(after) = pool.plan.on_down else {
            return self.cut(state);
        };
        let (state, workers) = (Arc::clone(state), self.mailboxes());
        tasks.spawn_local(async move {
            tokio::time::sleep(after).await;
            if state.orders.admin() == Admin::Down {
                cut(&workers, &state);
            }
        });
    }

    fn cut(&self, state: &Arc<BackendState>) {
        cut(&self.mailboxes(), state);
    }

    fn mailboxes(&self) -> Vec<Mailbox> {
        self.workers.iter().map(|it| it.mailbox.clone()).collect()
    }
}

fn cut(workers: &[Mailbox], state: &Arc<BackendState>) {
    for worker in workers {
        if worker.post(Command::Cut(Arc::clone(state))).is_err() {
            log::error!("a worker has ended");
        }
    }
}
