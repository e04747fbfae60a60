//! Telling who is open: each worker is asked, and the answers are put together.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::Supervisor;
use crate::control::admin::messages::{Session, Sessions};
use crate::control::handle::{Reply, Wanted};
use crate::data::mailbox::{Command, Listed, Listing, Open};
use crate::lb::time::Tick;

impl Supervisor {
    /// Answers once all workers have, or a worker that hangs has had its time.
    pub(super) fn tell_sessions(&self, wanted: &Wanted, reply: Reply<Sessions>, tasks: &LocalSet) {
        let ask = |worker: &crate::data::worker::Handle| {
            let (sender, answer) = oneshot::channel();
            let listing = Listing {
                pool: wanted.pool.clone(),
                backend: wanted.backend.clone(),
                most: wanted.most,
                reply: Box::new(move |listed| drop(sender.send(listed))),
            };
            let posted = worker.mailbox.post(Command::List(listing));
            posted.is_ok().then_some(answer)
        };
        let answers: Vec<oneshot::Receiver<Listed>> = self.workers.iter().filter_map(ask).collect();
        let (epoch, most) = (self.shared.epoch, wanted.most);
        tasks.spawn_local(async move {
            let mut all = Listed::default();
            for answer in answers {
                if let Ok(Ok(listed)) = tokio::time::timeout(WORKER_TIME, answer).await {
                    all.count += listed.count;
                    all.open.extend(listed.open);
                }
            }
            let now = Tick::ZERO.after(epoch.elapsed());
            all.open.sort_by_key(|open| open.since);
            all.open.truncate(most);
            let sessions = all.open.iter().map(|open| session(open, now)).collect();
            let count = all.count;
            // Who has gone meanwhile needs no answer.
            drop(reply.send(Sessions { count, sessions }));
        });
    }
}

fn session(open: &Open, now: Tick) -> Session {
    Session {
        listener: open.listener.name.clone(),
        pool: open.pool.plan.name.clone(),
        backend: open.backend.as_ref().map(|state| state.name().to_owned()),
        client: open.client,
        age_s: now.since(open.since).as_secs_f64(),
        state: open.state.name().to_owned(),
        bytes_to_backend: open.bytes.map(|[to_backend, _]| to_backend),
        bytes_to_client: open.bytes.map(|[_, to_client]| to_client),
    }
}

/// How long a worker may take to answer: longer than any turn of its loop.
const WORKER_TIME: Duration = Duration::from_secs(5);
