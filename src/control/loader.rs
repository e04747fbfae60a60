//! From a file to a checked plan with every backend's name resolved.

use std::fmt;
use std::io::{self, Read};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::aside::{aside, look_up};
use super::trust::{self, Trust};
use crate::config::plan::{self, Address, Plan};
use crate::config::{self, Errors, MAX_TEXT};
use crate::sys::interface;
use crate::sys::socket::Target;

/// Where the configuration comes from, at the start and at each reload.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A plan made from flags: a reload finds the same.
    Fixed(Box<Plan>),
}

/// A plan and where its backends are.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The plan.
    pub plan: Plan,
    /// Per pool, per backend, in the order of the plan.
    pub targets: Vec<Vec<Target>>,
    /// Per pool, in the order of the plan: what its probes need to speak TLS.
    pub(super) trust: Vec<Option<Trust>>,
}

/// Why there is no plan. Displayed with the file's name, on one or more lines.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read.
    Read(PathBuf, io::Error),
    /// It is not a valid configuration.
    Invalid(Errors),
    /// A backend's host name has no address.
    Unresolved {
        /// The pool and the backend, as `pool/name`.
        backend: String,
        /// The name and port.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// The certificates that a pool's probes trust cannot be had.
    Untrusted {
        /// The pool; empty = not known.
        pool: String,
        /// Why not.
        error: io::Error,
    },
}

/// Reads and checks a file; opens nothing else.
pub fn read(path: &Path) -> Result<Plan, LoadError> {
    let failed = |error| LoadError::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_TEXT)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    config::load_bytes(&bytes, &path.display().to_string()).map_err(LoadError::Invalid)
}

/// The same on a thread of its own: a file may be long, or on a disk that does not answer.
async fn read_in_time(path: &Path) -> Result<Plan, LoadError> {
    let reading = aside({
        let path = path.to_owned();
        move || read(&path)
    });
    let failed = |error| LoadError::Read(path.to_owned(), error);
    match tokio::time::timeout(READ_TIMEOUT, reading).await {
        Ok(Ok(plan)) => plan,
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

/// Loads a plan and resolves its backends.
pub async fn load(source: &Source) -> Result<Loaded, LoadError> {
    let plan = match source {
        Source::File(path) => read_in_time(path).await?,
        Source::Fixed(plan) => plan.as_ref().clone(),
    };
    let mut targets = Vec::with_capacity(plan.pools.len());
    for pool in &plan.pools {
        let mut of_pool = Vec::with_capacity(pool.backends.len());
        for backend in &pool.backends {
            let target = resolve(&backend.address, pool.source)
                .await
                .map_err(|error| {
                    let backend = format!("{}/{}", pool.name, backend.name);
                    LoadError::Unresolved {
                        backend,
                        host: backend_host(pool, of_pool.len()),
                        error,
                    }
                })?;
            of_pool.push(target);
        }
        targets.push(of_pool);
    }
    let trust = read_trust(&plan).await?;
    Ok(Loaded {
        plan,
        targets,
        trust,
    })
}

/// Whom probes trust; on a thread of its own, as files are read.
async fn read_trust(plan: &Plan) -> Result<Vec<Option<Trust>>, LoadError> {
    let reading = aside({
        let pools = plan.pools.clone();
        move || trust::read(&pools)
    });
    let failed = |pool: &str, error| LoadError::Untrusted {
        pool: pool.to_owned(),
        error,
    };
    match tokio::time::timeout(READ_TIMEOUT, reading).await {
        Ok(Ok(trust)) => trust.map_err(|(pool, error)| failed(&pool, error)),
        Ok(Err(error)) => Err(failed("", error)),
        Err(_) => Err(failed("", io::ErrorKind::TimedOut.into())),
    }
}

fn backend_host(pool: &plan::Pool, place: usize) -> String {
    match &pool.backends[place].address {
        Address::Host(host, port) => format!("{host}:{port}"),
        Address::Ip(address) => address.to_string(),
        Address::Unix(path) => path.display().to_string(),
    }
}

/// A name that has several addresses stands for the first that its pool's source suits.
pub(super) async fn resolve(address: &Address, source: plan::Source) -> io::Result<Target> {
    match address {
        Address::Ip(address) => Ok(Target::Tcp(*address)),
        Address::Unix(path) => Ok(Target::Unix(path.clone())),
        Address::Host(host, port) => match host.split_once('%') {
            Some((address, interface)) => scoped(address, interface, *port).map(Target::Tcp),
            None => {
                let looked_up = look_up(host, *port);
                let found = tokio::time::timeout(RESOLVE_TIMEOUT, looked_up)
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
                    .into_iter()
                    .find(|found| suits(source, found));
                found
                    .map(Target::Tcp)
                    .ok_or_else(|| io::Error::other("no address that `source` suits"))
            }
        },
    }
}

/// Whether `found` can be reached from there.
pub(super) const fn suits(source: plan::Source, found: &SocketAddr) -> bool {
    match source {
        plan::Source::Address(own) => found.is_ipv4() == own.is_ipv4(),
        plan::Source::Any | plan::Source::Client => true,
    }
}

/// A link-local address with its interface by name.
fn scoped(address: &str, name: &str, port: u16) -> io::Result<SocketAddr> {
    let address: Ipv6Addr = address
        .parse()
        .map_err(|_| io::Error::other(format!("\"{address}\" is not an IPv6 address")))?;
    let scope = interface::index(name)?;
    Ok(SocketAddrV6::new(address, port, 0, scope).into())
}

/// A file that takes longer to read is a pipe that nobody writes to, or its disk is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A resolver that takes longer is down.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "configuration file {}", path.display()),
            Self::Fixed(_) => f.write_str("configuration from flags"),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "{}: cannot be read: {error}", path.display()),
            Self::Invalid(errors) => errors.fmt(f),
            Self::Unresolved {
                backend,
                host,
                error,
            } => {
                write!(
                    f,
                    "backend \"{backend}\": address \"{host}\" cannot be resolved: {error}"
                )
            }
            Self::Untrusted { pool, error } => {
                write!(f, "pool \"{pool}\": no certificates to trust: {error}")
            }
        }
    }
}

impl std::error::Error for LoadError {}
