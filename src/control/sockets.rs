//! Listening sockets: which the plan needs, which there are, and binding the difference.
//!
//! An address that stays keeps its sockets and what waits in their queues. New ones are all bound
//! before anything changes, so a plan that cannot be bound whole leaves no trace.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::socket_file::SocketFile;
use crate::config::plan::{self, Bind, Plan};
use crate::data::mailbox::SocketId;
use crate::sys::datagram;
use crate::sys::socket::{self, Listening, canonical};

/// The listening sockets of the running plan.
#[derive(Debug)]
pub(super) struct Sockets {
    bound: HashMap<Key, Bound>,
    /// Bound by the service manager; kept for life, so that a listener can go and come back.
    inherited: Vec<(Bind, Listening)>,
    workers: usize,
    next: u32,
}

/// What makes two addresses the same socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    bind: Bind,
    v6_only: bool,
    /// With port 0 each listener has a port of its own.
    listener: Option<String>,
}

#[derive(Clone, Debug)]
struct Bound {
    id: SocketId,
    local: Bind,
    /// Of a Unix socket.
    file: Option<SocketFile>,
}

/// Sockets bound for a plan that is not in force yet.
#[derive(Debug)]
pub(super) struct Opened {
    /// Per listener and address of the plan.
    pub(super) ids: Vec<Vec<SocketId>>,
    /// Per worker.
    pub(super) sockets: Vec<Vec<(SocketId, Listening)>>,
    /// New addresses, as they are bound, with their listener's name.
    pub(super) news: Vec<(String, Bind)>,
    keys: HashSet<Key>,
    bound: Vec<(Key, Bound)>,
}

/// An address that cannot be bound.
#[derive(Debug)]
pub(super) struct BindError {
    listener: String,
    bind: Bind,
    error: io::Error,
}

impl Sockets {
    pub(super) fn new(workers: usize, inherited: Vec<Listening>) -> io::Result<Self> {
        let inherited = inherited
            .into_iter()
            .map(|listening| Ok((local(&listening)?, listening)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            bound: HashMap::new(),
            inherited,
            workers,
            next: 1,
        })
    }

    /// Inherited sockets that no listener of the plan uses.
    pub(super) fn unused<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = &'a Bind> {
        let is_used = |bind: &Bind| plan.listeners.iter().any(|l| l.bind.contains(bind));
        self.inherited
            .iter()
            .map(|(bind, _)| bind)
            .filter(move |bind| !is_used(bind))
    }

    /// Binds what `plan` needs and is not there yet, for every worker.
    pub(super) fn open(&mut self, plan: &Plan) -> Result<Opened, BindError> {
        let mut opened = Opened {
            ids: Vec::new(),
            sockets: (0..self.workers).map(|_| Vec::new()).collect(),
            news: Vec::new(),
            keys: HashSet::new(),
            bound: Vec::new(),
        };
        for listener in &plan.listeners {
            let mut ids = Vec::new();
            for bind in &listener.bind {
                match self.open_one(plan, &listener.name, bind, &mut opened) {
                    Ok(id) => ids.push(id),
                    Err(error) => {
                        opened.abandon();
                        let (listener, bind) = (listener.name.clone(), bind.clone());
                        return Err(BindError {
                            listener,
                            bind,
                            error,
                        });
                    }
                }
            }
            opened.ids.push(ids);
        }
        Ok(opened)
    }

    /// Puts what was opened in force and forgets what is not used any more: the workers close it.
    pub(super) fn commit(&mut self, opened: Opened) -> Vec<Vec<(SocketId, Listening)>> {
        let Opened {
            sockets,
            keys,
            bound,
            ..
        } = opened;
        self.bound.retain(|key, bound| {
            let stays = keys.contains(key);
            if !stays {
                bound.unlink();
            }
            stays
        });
        self.bound.extend(bound);
        sockets
    }

    /// Where a listener of the plan in force listens: with the port that the kernel has chosen for 0.
    pub(super) fn addresses<'a>(
        &'a self,
        plan: &'a Plan,
        listener: &'a plan::Listener,
    ) -> impl Iterator<Item = &'a Bind> {
        let bound = |bind| self.bound.get(&Key::new(plan, &listener.name, bind));
        listener.bind.iter().filter_map(bound).map(|it| &it.local)
    }

    /// Removes the files of Unix sockets at the end.
    pub(super) fn unlink_all(&self) {
        for bound in self.bound.values() {
            bound.unlink();
        }
    }

    fn open_one(
        &mut self,
        plan: &Plan,
        listener: &str,
        bind: &Bind,
        opened: &mut Opened,
    ) -> io::Result<SocketId> {
        let key = Key::new(plan, listener, bind);
        opened.keys.insert(key.clone());
        if let Some(bound) = self.bound.get(&key) {
            return Ok(bound.id);
        }
        let id = SocketId(self.next);
        self.next += 1;
        let (sockets, is_inherited) = match self.inherited.iter().find(|(at, _)| at == bind) {
            Some((_, listening)) => (duplicates(listening, self.workers)?, true),
            None => (self.bind_new(bind, key.v6_only)?, false),
        };
        let local = sockets.first().map_or_else(|| Ok(bind.clone()), local)?;
        let file = match &local {
            Bind::Unix(path) if !is_inherited => Some(SocketFile::at(path)?),
            Bind::Unix(_) | Bind::Tcp(_) | Bind::Udp(_) => None,
        };
        for (worker, listening) in sockets.into_iter().enumerate() {
            opened.sockets[worker].push((id, listening));
        }
        opened.news.push((listener.to_owned(), local.clone()));
        opened.bound.push((key, Bound { id, local, file }));
        Ok(id)
    }

    fn bind_new(&self, bind: &Bind, v6_only: bool) -> io::Result<Vec<Listening>> {
        let first = match bind {
            Bind::Unix(path) => {
                let first = Listening::Unix(socket::listen_unix(path)?);
                return duplicates(&first, self.workers);
            }
            Bind::Tcp(address) => {
                if !self.holds_port(bind) {
                    socket::check_free(*address, v6_only)?;
                }
                Listening::Tcp(socket::listen_tcp(*address, v6_only)?)
            }
            Bind::Udp(address) => {
                if !self.holds_port(bind) {
                    datagram::check_free_udp(*address, v6_only)?;
                }
                Listening::Udp(datagram::listen_udp(*address, v6_only)?)
            }
        };
        // A port that the kernel has chosen is the port of all.
        let bound = local(&first)?;
        let mut sockets = vec![first];
        for _ in 1..self.workers {
            sockets.push(match &bound {
                Bind::Tcp(address) => Listening::Tcp(socket::listen_tcp(*address, v6_only)?),
                Bind::Udp(address) => Listening::Udp(datagram::listen_udp(*address, v6_only)?),
                Bind::Unix(_) => break,
            });
        }
        Ok(sockets)
    }

    /// Whether a socket of ours may be in the way of a new one on this port, which is no conflict.
    fn holds_port(&self, bind: &Bind) -> bool {
        let port = |bind: &Bind| {
            let port = bind.address().map(|address| address.port());
            port.map(|port| (matches!(bind, Bind::Udp(_)), port))
        };
        let wanted = port(bind).filter(|(_, port)| *port != 0);
        wanted.is_some()
            && self
                .bound
                .values()
                .any(|bound| port(&bound.local) == wanted)
    }
}

impl Key {
    fn new(plan: &Plan, listener: &str, bind: &Bind) -> Self {
        let is_any_port = bind.address().is_some_and(|address| address.port() == 0);
        Self {
            bind: bind.clone(),
            v6_only: is_v6_only(plan, bind),
            listener: is_any_port.then(|| listener.to_owned()),
        }
    }
}

impl Opened {
    /// Removes the files it made; the sockets close themselves.
    pub(super) fn abandon(&self) {
        for (_, bound) in &self.bound {
            bound.unlink();
        }
    }
}

impl Bound {
    /// Removes its file, unless somebody else's is there by now.
    fn unlink(&self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

/// An IPv6 wildcard leaves IPv4 alone only where the plan binds the IPv4 wildcard as well.
fn is_v6_only(plan: &Plan, bind: &Bind) -> bool {
    bind.v4_twin().is_some_and(|twin| {
        let binds = |listener: &Arc<plan::Listener>| listener.bind.contains(&twin);
        plan.listeners.iter().any(binds)
    })
}

fn duplicates(listening: &Listening, count: usize) -> io::Result<Vec<Listening>> {
    (0..count)
        .map(|_| match listening {
            Listening::Tcp(listener) => listener.try_clone().map(Listening::Tcp),
            Listening::Udp(socket) => socket.try_clone().map(Listening::Udp),
            Listening::Unix(listener) => listener.try_clone().map(Listening::Unix),
        })
        .collect()
}

fn local(listening: &Listening) -> io::Result<Bind> {
    Ok(match listening {
        Listening::Tcp(listener) => Bind::Tcp(canonical(listener.local_addr()?)),
        Listening::Udp(socket) => Bind::Udp(canonical(socket.local_addr()?)),
        Listening::Unix(listener) => {
            let address = listener.local_addr()?;
            let path = address.as_pathname().map(without_suffix);
            Bind::Unix(path.unwrap_or_default())
        }
    })
}

/// A Unix socket is bound under a temporary name, which its address keeps.
fn without_suffix(path: &Path) -> std::path::PathBuf {
    let suffix = std::process::id().to_string();
    match path.extension() {
        Some(extension) if extension == suffix.as_str() => path.with_extension(""),
        _ => path.to_owned(),
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            listener,
            bind,
            error,
        } = self;
        write!(
            f,
            "listener \"{listener}\": bind {bind}: {error}; {}",
            cure(error)
        )
    }
}

/// How to mend what is in the way of a socket.
pub(super) fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another address",
        io::ErrorKind::PermissionDenied => {
            "a port below 1024 needs CAP_NET_BIND_SERVICE or socket activation, a path a writable \
             directory"
        }
        io::ErrorKind::AddrNotAvailable => "no interface has this address",
        io::ErrorKind::AlreadyExists => "a file that is no socket is in the way",
        io::ErrorKind::NotFound => "its directory does not exist",
        _ => "see the error",
    }
}
