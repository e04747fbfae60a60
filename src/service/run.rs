//! From the command line to an exit code.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use clap::{CommandFactory as _, Parser};

use super::cli::{Cli, Command, Run, Source as Named};
use super::exit::Exit;
use super::{client, demo, help, logging, signals, systemd};
use crate::config::plan::{self, Plan};
use crate::control::handle::requests;
use crate::control::loader::{self, LoadError, Source};
use crate::control::sandbox::Confinement;
use crate::control::supervisor::{self, Settings};
use crate::sys::limits;
use crate::sys::privilege::{self, Keep};

/// Runs what the command line asks for.
pub fn run() -> Exit {
    let cli = Cli::parse();
    if let Some(name) = cli.command.not_supported_yet() {
        eprintln!("evenkeel {name}: not supported yet");
        return Exit::Usage;
    }
    if let Some(command) = cli.command.client() {
        return client::run(&command);
    }
    match cli.command {
        Command::Check { file } => check(&file),
        Command::Help(asked) => help::help(&asked, Cli::command()),
        Command::Completions(asked) => help::completions(&asked, &Cli::command()),
        Command::Demo { seconds } => {
            logging::start_quiet(cli.verbose);
            demo::run(seconds)
        }
        Command::Run(run) => {
            logging::start(cli.verbose);
            balance(&run)
        }
        _ => Exit::Usage,
    }
}

/// `evenkeel check`: opens nothing but the file.
#[expect(clippy::print_stdout, reason = "the answer to the command")]
fn check(file: &Path) -> Exit {
    match loader::read(file) {
        Ok(plan) => {
            let backends: usize = plan.pools.iter().map(|pool| pool.backends.len()).sum();
            println!(
                "{}: ok: {} listeners, {} pools, {backends} backends",
                file.display(),
                plan.listeners.len(),
                plan.pools.len()
            );
            Exit::Done
        }
        Err(error) => {
            eprintln!("{error}");
            Exit::Configuration
        }
    }
}

/// `evenkeel run`.
fn balance(run: &Run) -> Exit {
    let (source, plan) = match load(run) {
        Ok(loaded) => loaded,
        Err((exit, error)) => {
            eprintln!("{error}");
            return exit;
        }
    };
    log::info!("evenkeel {}, {source}", env!("CARGO_PKG_VERSION"));
    match serve(source, plan) {
        Ok(()) => Exit::Done,
        Err(error) => {
            log::error!("{error}");
            Exit::Failed
        }
    }
}

fn load(run: &Run) -> Result<(Source, Plan), (Exit, String)> {
    match run.source() {
        Named::File(path) => match loader::read(path) {
            Ok(plan) => Ok((Source::File(path.to_owned()), plan)),
            Err(error @ (LoadError::Read(..) | LoadError::Invalid(_))) => {
                Err((Exit::Configuration, error.to_string()))
            }
            Err(error @ (LoadError::Unresolved { .. } | LoadError::Untrusted { .. })) => {
                Err((Exit::Failed, error.to_string()))
            }
        },
        Named::Flags(flags) => match flags.load() {
            Ok(plan) => Ok((Source::Fixed(Box::new(plan.clone())), plan)),
            Err(error) => Err((Exit::Usage, error)),
        },
    }
}

fn serve(source: Source, plan: Plan) -> Result<(), String> {
    let failed = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let inherited = systemd::inherited().map_err(|error| error.to_string())?;
    let signals = signals::catch().map_err(|error| failed("cannot catch signals", error))?;
    let descriptors =
        limits::raise_descriptors().map_err(|error| failed("RLIMIT_NOFILE", error))?;
    privilege::forbid_new().map_err(|error| failed("PR_SET_NO_NEW_PRIVS", error))?;
    let (handle, requests) = requests();
    // Signals wait until then: their thread is to be confined like the others.
    let on_bound = {
        let source = source.clone();
        move |plan: &Plan| {
            drop_privileges(plan)?;
            let confinement = Confinement::enter(plan, &source, systemd::waits())?;
            let started = signals.forward(handle);
            started.map_err(|error| format!("cannot start a thread: {error}"))?;
            Ok(confinement)
        }
    };
    let settings = Settings {
        source,
        plan,
        inherited,
        descriptors,
        on_bound: Box::new(on_bound),
        observer: systemd::observer(),
        alive_every: systemd::alive_every(),
        seed: seed(),
    };
    supervisor::run(settings, requests).map_err(|failure| failure.to_string())
}

/// Becomes the configured user, or says that it stays root. Threads that are to connect from addresses
/// of clients are started after that and by this one, which alone keeps the right to.
fn drop_privileges(plan: &Plan) -> Result<(), String> {
    let (user, group) = (plan.global.user.as_deref(), plan.global.group.as_deref());
    let is_transparent = plan
        .pools
        .iter()
        .any(|pool| pool.source == plan::Source::Client);
    let keep = if is_transparent {
        Keep::Transparency
    } else {
        Keep::Nothing
    };
    if user.is_none() && group.is_none() {
        if privilege::is_root() {
            log::warn!("running as root: set global.user to drop privileges after binding");
            return Ok(());
        }
        privilege::shed(keep);
        return Ok(());
    }
    let key = if user.is_some() {
        "global.user"
    } else {
        "global.group"
    };
    privilege::look_up(user, group)
        .and_then(|account| privilege::become_account(account, keep))
        .map_err(|error| format!("{key}: {error}"))
}

/// A different seed for every process: std keys its hash maps from the system's randomness.
pub(super) fn seed() -> u64 {
    RandomState::new().hash_one(0)
}
