//! Backends that are found rather than written: asking who knows them, again and again, and making them
//! part of what is in force. Whoever does not answer changes nothing.

mod dns;
mod file;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use self::file::File;
use super::loader::{Loaded, suits};
use crate::config::plan::{self, Address, Backend, Origin, Plan};
use crate::sys::socket::Target;

/// Somebody who is asked for the backends of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) pool: String,
    pub(super) origin: Origin,
    keeps_last: bool,
    max_connections: u32,
    source: plan::Source,
}

/// What they have said last.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) backends: Vec<(Backend, Target)>,
    /// When they have said so; `None` = they have not said anything yet.
    pub(super) since: Option<Instant>,
    /// Why they have not said anything since.
    pub(super) fault: Option<String>,
    /// When they are to be asked again.
    lasts: Duration,
}

/// What is known, by who has said it.
pub(super) type Answers = HashMap<Asked, Answer>;

/// Backends that were found, and for how long that holds.
#[derive(Debug)]
struct Sighting {
    backends: Vec<(Backend, Target)>,
    lasts: Duration,
}

/// What somebody has said now.
#[derive(Debug)]
pub(super) struct News {
    asked: Asked,
    said: Result<Sighting, String>,
}

/// Everybody who is asked.
#[derive(Debug)]
pub(super) struct Discovery {
    answers: Answers,
    asking: HashMap<Asked, Asking>,
    sender: UnboundedSender<News>,
    news: UnboundedReceiver<News>,
}

#[derive(Debug)]
struct Asking(JoinHandle<()>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Discovery {
    /// Nobody is asked yet.
    pub(super) fn new() -> Self {
        let (sender, news) = unbounded_channel();
        Self {
            answers: Answers::new(),
            asking: HashMap::new(),
            sender,
            news,
        }
    }

    /// What is known now.
    pub(super) const fn answers(&self) -> &Answers {
        &self.answers
    }

    /// `answers`, with what has come since they were known.
    pub(super) fn newest(&self, mut answers: Answers) -> Answers {
        for (asked, answer) in &mut answers {
            if let Some(newer) = self.answers.get(asked) {
                *answer = newer.clone();
            }
        }
        answers
    }

    /// Asks those who gave these answers from now on, and nobody else.
    pub(super) fn follow(&mut self, answers: Answers, tasks: &LocalSet) {
        let mut before = std::mem::take(&mut self.asking);
        for (asked, answer) in &answers {
            let task = before.remove(asked).unwrap_or_else(|| {
                let task = ask_again(asked.clone(), answer.lasts, self.sender.clone());
                Asking(tasks.spawn_local(task))
            });
            self.asking.insert(asked.clone(), task);
        }
        self.answers = answers;
    }

    /// The next news; never ends as long as it is polled.
    pub(super) async fn next(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await, // we hold a sender
        }
    }

    /// Takes them in; whether other backends are known now.
    pub(super) fn take_in(&mut self, News { asked, said }: News) -> bool {
        let Some(answer) = self.answers.get_mut(&asked) else {
            return false; // a reload has made an end of it
        };
        answer.take_in(&asked, said)
    }
}

impl Asked {
    /// All whom a pool asks.
    fn of(pool: &plan::Pool) -> impl Iterator<Item = Self> {
        pool.discover.origins.iter().map(|origin| Self {
            pool: pool.name.clone(),
            origin: origin.clone(),
            keeps_last: pool.discover.keeps_last,
            max_connections: pool.discover.max_connections,
            source: pool.source,
        })
    }

    /// A backend of which no more is known than where it is.
    fn backend(&self, address: SocketAddr) -> (Backend, Target) {
        let backend = Backend {
            name: address.to_string(),
            address: Address::Ip(address),
            weight: USUAL_WEIGHT,
            max_connections: self.max_connections,
            backup: false,
            server_id: None,
        };
        (backend, Target::Tcp(address))
    }

    fn suits(&self, target: &Target) -> bool {
        let address = target.address();
        address.is_none_or(|address| suits(self.source, &address))
    }
}

impl Answer {
    /// Nothing has been said yet.
    const fn none() -> Self {
        Self {
            backends: Vec::new(),
            since: None,
            fault: None,
            lasts: RETRY,
        }
    }

    fn take_in(&mut self, asked: &Asked, said: Result<Sighting, String>) -> bool {
        let Asked { pool, origin, .. } = asked;
        let keeps = asked.keeps_last && !self.backends.is_empty();
        let said = said.and_then(|sighting| match sighting.backends.is_empty() && keeps {
            true => Err("it names no backend any more".to_owned()),
            false => Ok(sighting),
        });
        match said {
            Ok(sighting) => {
                if self.fault.take().is_some() {
                    log::info!("pool \"{pool}\": {origin}: answers again");
                }
                self.since = Some(Instant::now());
                self.lasts = sighting.lasts;
                let is_new = self.backends != sighting.backends;
                self.backends = sighting.backends;
                is_new
            }
            Err(fault) => {
                if self.fault.as_ref() != Some(&fault) {
                    let kept = self.backends.len();
                    log::warn!("pool \"{pool}\": {origin}: {fault}; its last {kept} backends stay");
                }
                self.fault = Some(fault);
                false
            }
        }
    }
}

/// What those say whom `plan` asks: what is known, and where nothing is, what they say now.
pub(super) async fn ask(plan: &Plan, known: Answers) -> Answers {
    let asked = plan.pools.iter().flat_map(|pool| Asked::of(pool));
    let asked = asked.map(|asked| {
        let before = known.get(&asked).cloned();
        spawn_local(async move {
            let answer = match before {
                Some(answer) => answer,
                None => first(&asked).await,
            };
            (asked, answer)
        })
    });
    let mut answers = Answers::new();
    for task in asked.collect::<Vec<_>>() {
        answers.extend(task.await.ok());
    }
    answers
}

async fn first(asked: &Asked) -> Answer {
    let mut answer = Answer::none();
    let mut looker = Looker::new(asked);
    let said = match tokio::time::timeout(FIRST_TIMEOUT, looker.look(asked)).await {
        Ok(said) => said,
        Err(_) => Err("no answer in time".to_owned()),
    };
    answer.take_in(asked, said);
    answer
}

async fn ask_again(asked: Asked, lasts: Duration, news: UnboundedSender<News>) {
    let mut looker = Looker::new(&asked);
    let mut wait = lasts;
    loop {
        tokio::time::sleep(wait).await;
        let said = looker.look(&asked).await;
        wait = match &said {
            Ok(sighting) => sighting.lasts,
            Err(_) => RETRY,
        };
        let asked = asked.clone();
        if news.send(News { asked, said }).is_err() {
            return; // the process ends
        }
    }
}

/// Knows how to ask.
enum Looker {
    Dns,
    File(File),
}

impl Looker {
    fn new(asked: &Asked) -> Self {
        match &asked.origin {
            Origin::Dns { .. } => Self::Dns,
            Origin::File(path) => Self::File(File::new(path)),
        }
    }

    async fn look(&mut self, asked: &Asked) -> Result<Sighting, String> {
        let mut sighting = match (self, &asked.origin) {
            (Self::Dns, Origin::Dns { question, resolver }) => {
                dns::look(asked, question, *resolver).await?
            }
            (Self::File(file), _) => file.look(asked).await?,
            (Self::Dns, Origin::File(_)) => unreachable!("made for its origin"),
        };
        sighting.backends.retain(|(_, target)| asked.suits(target));
        sighting
            .backends
            .sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        Ok(sighting)
    }
}

/// What was loaded, with the backends that were found.
pub(super) fn extended(loaded: &Loaded, answers: &Answers) -> Loaded {
    let mut extended = loaded.clone();
    let pools = extended.plan.pools.iter_mut().zip(&mut extended.targets);
    for (pool, targets) in pools {
        let known = targets.iter().cloned().collect();
        for (backend, target) in found(&loaded.plan, pool, answers, known) {
            Arc::make_mut(pool).backends.push(backend);
            targets.push(target);
        }
    }
    extended
}

/// The same of a plan whose names have not been looked up.
pub(super) fn extended_plan(plan: &Plan, answers: &Answers) -> Plan {
    let mut extended = plan.clone();
    for pool in &mut extended.pools {
        let target = |backend: &Backend| match &backend.address {
            Address::Ip(address) => Some(Target::Tcp(*address)),
            Address::Unix(path) => Some(Target::Unix(path.clone())),
            Address::Host(..) => None,
        };
        let known = pool.backends.iter().filter_map(target).collect();
        let found = found(plan, pool, answers, known).into_iter();
        let found: Vec<_> = found.map(|(backend, _)| backend).collect();
        if !found.is_empty() {
            Arc::make_mut(pool).backends.extend(found);
        }
    }
    extended
}

/// What was found for a pool of `plan` beside the targets that it has. One that is ourselves is not found.
fn found(
    plan: &Plan,
    pool: &plan::Pool,
    answers: &Answers,
    mut known: HashSet<Target>,
) -> Vec<(Backend, Target)> {
    let of_pool = Asked::of(pool).filter_map(|asked| answers.get(&asked));
    let mut found = Vec::new();
    let mut names: HashSet<&str> = pool.backends.iter().map(|it| it.name.as_str()).collect();
    let is_own = |target: &Target| {
        let binds = || (plan.listeners.iter()).flat_map(|listener| &listener.bind);
        let address = target.address();
        address.is_some() && binds().any(|bind| bind.address() == address)
    };
    for (backend, target) in of_pool.flat_map(|answer| &answer.backends) {
        let is_new = !is_own(target) && !names.contains(backend.name.as_str());
        if is_new && known.insert(target.clone()) {
            names.insert(&backend.name);
            found.push((backend.clone(), target.clone()));
        }
    }
    found
}

/// As much as a backend has that says nothing else.
const USUAL_WEIGHT: u16 = 100;

/// How long the start and a reload wait for the first answer.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);

/// When somebody is asked again who has not answered.
const RETRY: Duration = Duration::from_secs(2);
