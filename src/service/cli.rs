//! The command line: its definition.

mod client;
mod flags;

use std::path::{Path, PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand};

pub use self::client::{Asks, Backend, Client, Explain, Plan, Sessions, Wait};
pub use self::flags::Flags;
use super::help::{Completions, Help};

/// A Layer 4 load balancer for services whose load comes and goes
#[derive(Clone, Debug, Parser)]
#[command(
    name = "evenkeel",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log more: -v for debug messages, -vv for traces
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Start balancing, from a file or from flags
    Run(Box<Run>),
    /// Check a configuration file and name all its errors
    Check {
        /// The configuration file
        file: PathBuf,
    },
    /// Watch three embedded backends being balanced, one dying and coming back
    Demo {
        /// How long to run
        #[arg(long, value_name = "N", default_value_t = 30)]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=MAX_DEMO_SECONDS))]
        seconds: u64,
    },
    /// Tell of a command or of the configuration's keys, or write the manual's pages
    Help(Help),
    /// Print what makes a shell complete the command line
    Completions(Completions),
    /// Tell how a running process is
    Status(Asks),
    /// Tell which backend a client would get, and why not the others
    Explain(Explain),
    /// Tell who is open: sessions, flows and clients that wait
    Sessions(Sessions),
    /// Tell what a reload to this file would change
    Plan(Plan),
    /// Let a running process read its configuration again
    Reload(Asks),
    /// Drain a backend, take it out or in, or set its weight
    Backend(Backend),
    /// Known, and not supported yet.
    #[command(hide = true)]
    Top(Later),
    /// Known, and not supported yet.
    #[command(hide = true)]
    Scale(Later),
    /// Known, and not supported yet.
    #[command(hide = true)]
    Simulate(Later),
    /// Known, and not supported yet.
    #[command(hide = true)]
    Upgrade(Later),
}

/// A demonstration of more than a day is a service without its configuration.
const MAX_DEMO_SECONDS: u64 = 24 * 60 * 60;

/// The arguments of a subcommand that is not supported yet: any.
#[derive(Args, Clone, Debug)]
pub struct Later {
    #[arg(hide = true, allow_hyphen_values = true, trailing_var_arg = true)]
    arguments: Vec<String>,
}

/// `evenkeel run`.
#[derive(Args, Clone, Debug, Default)]
pub struct Run {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", conflicts_with = "flags")]
    pub config: Option<PathBuf>,
    /// The quick start.
    #[command(flatten)]
    pub flags: Flags,
}

/// Where `run` finds its configuration.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A file.
    File(&'a Path),
    /// The flags.
    Flags(&'a Flags),
}

impl Command {
    /// The name of a subcommand that is known but not supported yet.
    pub fn not_supported_yet(&self) -> Option<&'static str> {
        match self {
            Self::Run(_)
            | Self::Check { .. }
            | Self::Demo { .. }
            | Self::Help(_)
            | Self::Completions(_)
            | Self::Status(_)
            | Self::Plan(_)
            | Self::Sessions(_)
            | Self::Explain(_)
            | Self::Reload(_)
            | Self::Backend(_) => None,
            Self::Top(_) => Some("top"),
            Self::Scale(_) => Some("scale"),
            Self::Simulate(_) => Some("simulate"),
            Self::Upgrade(_) => Some("upgrade"),
        }
    }

    /// What it asks of a running process, or tells it, if it does.
    pub const fn client(&self) -> Option<Client<'_>> {
        match self {
            Self::Status(asks) => Some(Client::Status(asks)),
            Self::Explain(explain) => Some(Client::Explain(explain)),
            Self::Sessions(sessions) => Some(Client::Sessions(sessions)),
            Self::Plan(plan) => Some(Client::Plan(plan)),
            Self::Reload(asks) => Some(Client::Reload(asks)),
            Self::Backend(backend) => Some(Client::Backend(backend)),
            _ => None,
        }
    }
}

impl Run {
    /// The file if one is named, else the flags; both together clap refuses.
    pub fn source(&self) -> Source<'_> {
        self.config
            .as_deref()
            .map_or(Source::Flags(&self.flags), Source::File)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("evenkeel").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_use_is_refused() {
        for (line, expected) in [
            ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            (
                "run -c f --listen tcp://127.0.0.1:1",
                ErrorKind::ArgumentConflict,
            ),
            ("run --colour", ErrorKind::UnknownArgument),
            ("check", ErrorKind::MissingRequiredArgument),
            ("demo --seconds 0", ErrorKind::ValueValidation),
            ("fly", ErrorKind::InvalidSubcommand),
            ("--help", ErrorKind::DisplayHelp),
            ("--version", ErrorKind::DisplayVersion),
        ] {
            assert_eq!(parse(line).unwrap_err().kind(), expected, "{line}");
        }
        let run = parse("run -c f -vv").unwrap();
        assert_eq!(run.verbose, 2);
    }

    #[test]
    fn later_subcommands_are_known_but_not_advertised() {
        let help = Cli::command().render_long_help().to_string();
        for name in ["top", "scale p auto", "simulate --trace steady", "upgrade"] {
            let command = parse(name).unwrap().command;
            let first = name.split(' ').next().unwrap();
            assert_eq!(command.not_supported_yet(), Some(first));
            assert!(!help.contains(&format!("  {first} ")), "{first} in {help}");
        }
        assert!(help.contains("  run "));
    }
}
