//! The commands that ask and tell a running process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::config::plan::ADMIN_SOCKET;
use crate::control::admin::messages::{Order, What};

/// What is asked of a running process, or told.
#[derive(Clone, Debug)]
pub enum Client<'a> {
    /// How it is.
    Status(&'a Asks),
    /// What would become of a client.
    Explain(&'a Explain),
    /// Who is open.
    Sessions(&'a Sessions),
    /// What a reload would change.
    Plan(&'a Plan),
    /// To read its configuration again.
    Reload(&'a Asks),
    /// An order for a backend.
    Backend(&'a Backend),
}

/// What all such commands take.
#[derive(Args, Clone, Debug)]
pub struct Asks {
    /// The admin socket of the process
    #[arg(long, value_name = "PATH", env = "EVENKEEL_ADMIN", default_value = ADMIN_SOCKET)]
    pub admin: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// `evenkeel explain`.
#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// The listener that the client comes by
    #[arg(long, value_name = "NAME")]
    pub listener: String,
    /// Its address
    #[arg(long, value_name = "IP:PORT")]
    pub source: SocketAddr,
    /// Where it connects to [default: the first address of the listener]
    #[arg(long, value_name = "IP:PORT")]
    pub destination: Option<SocketAddr>,
    /// What all such commands take.
    #[command(flatten)]
    pub asks: Asks,
}

/// `evenkeel sessions`.
#[derive(Args, Clone, Debug)]
pub struct Sessions {
    /// Those of this pool alone
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Those on the backend of this name alone
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// So many at most, those that have been open for longest [default: 1000]
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// What all such commands take.
    #[command(flatten)]
    pub asks: Asks,
}

/// `evenkeel plan`.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// The configuration file
    pub file: PathBuf,
    /// Fail if more of the keys of a pool would move to other backends, such as 20%
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub max_moved: Option<f64>,
    /// What all such commands take.
    #[command(flatten)]
    pub asks: Asks,
}

/// `evenkeel backend`.
#[derive(Args, Clone, Debug)]
pub struct Backend {
    /// What it is told.
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Give it no new sessions; those that it has go on
    Drain(Drain),
    /// Give it new sessions again, as its health says
    Ready(Named),
    /// Give it no new sessions and reset those that it has, or as the pool's on_down says
    Down(Named),
    /// Set its weight, whatever the configuration says
    Weight(Weight),
}

#[derive(Args, Clone, Debug)]
struct Named {
    /// The name of its pool
    pool: String,
    /// Its name
    backend: String,
    #[command(flatten)]
    asks: Asks,
}

#[derive(Args, Clone, Debug)]
struct Drain {
    #[command(flatten)]
    named: Named,
    /// Wait until it has no session left, and tell how many there are
    #[arg(long)]
    wait: bool,
    /// Reset those that are left after this time, such as 10m [default: wait for all]
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = humantime::parse_duration)]
    deadline: Option<Duration>,
}

#[derive(Args, Clone, Debug)]
struct Weight {
    #[command(flatten)]
    named: Named,
    /// From 0 (no new sessions) to 65535, or "configured" for what the file says
    #[arg(value_parser = weight)]
    value: Configured,
}

/// A weight; `None` = that of the configuration.
type Configured = Option<u16>;

/// How to wait for a backend that drains.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// When to reset what is left; `None` = never.
    pub deadline: Option<Duration>,
}

impl Backend {
    /// What all such commands take.
    pub fn asks(&self) -> &Asks {
        &self.named().asks
    }

    /// What the process is told.
    pub fn order(&self) -> Order {
        let named = self.named();
        Order {
            pool: named.pool.clone(),
            backend: named.backend.clone(),
            what: match &self.action {
                Action::Drain(_) => What::Drain,
                Action::Ready(_) => What::Ready,
                Action::Down(_) => What::Down,
                Action::Weight(weight) => What::Weight(weight.value),
            },
        }
    }

    /// Whether and how to wait.
    pub fn wait(&self) -> Option<Wait> {
        match &self.action {
            Action::Drain(drain) => drain.wait.then_some(Wait {
                deadline: drain.deadline,
            }),
            Action::Ready(_) | Action::Down(_) | Action::Weight(_) => None,
        }
    }

    fn named(&self) -> &Named {
        match &self.action {
            Action::Drain(drain) => &drain.named,
            Action::Ready(named) | Action::Down(named) => named,
            Action::Weight(weight) => &weight.named,
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let percent = text
        .strip_suffix('%')
        .and_then(|number| number.parse().ok());
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    let share = percent.map(|percent: f64| percent / 100.0);
    share.ok_or_else(|| "write a share from 0% to 100%".to_owned())
}

fn weight(text: &str) -> Result<Configured, String> {
    match text {
        "configured" => Ok(None),
        text => (text.parse().map(Some))
            .map_err(|_| "write a whole number from 0 to 65535, or \"configured\"".to_owned()),
    }
}
