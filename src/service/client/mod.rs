//! Commands that ask and tell a running process, over its admin socket.

mod backend;
mod explain;
mod plan;
mod reload;
mod sessions;
mod status;
mod text;
mod view;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::cli::{Asks, Client as Command};
use super::exit::Exit;
use crate::control::admin::messages::Problem;

/// Runs a command to its end.
pub(super) fn run(command: &Command<'_>) -> Exit {
    let (asks, outcome) = match command {
        Command::Status(asks) => (*asks, status::run(asks)),
        Command::Explain(explain) => (&explain.asks, explain::run(explain)),
        Command::Sessions(sessions) => (&sessions.asks, sessions::run(sessions)),
        Command::Plan(plan) => (&plan.asks, plan::run(plan)),
        Command::Reload(asks) => (*asks, reload::run(asks)),
        Command::Backend(backend) => (backend.asks(), backend::run(backend)),
    };
    match outcome {
        Ok(exit) => exit,
        Err(trouble) => trouble.tell(asks.json),
    }
}

/// Why a command has failed.
#[derive(Debug)]
enum Trouble {
    /// No process has answered.
    Nobody(String),
    /// What was given is no configuration.
    Invalid(String),
    /// The process has refused, for this reason.
    Refused(String),
    /// Its answer cannot be understood, or not be shown.
    Broken(String),
}

impl Trouble {
    /// Says why: people read it where errors stand, and programs where they look for the answer.
    fn tell(self, is_json: bool) -> Exit {
        let exit = match self {
            Self::Nobody(_) => Exit::NoProcess,
            Self::Invalid(_) => Exit::Configuration,
            Self::Refused(_) | Self::Broken(_) => Exit::Failed,
        };
        let (Self::Nobody(error)
        | Self::Invalid(error)
        | Self::Refused(error)
        | Self::Broken(error)) = self;
        if is_json {
            // Nothing is left to be told if that fails, too.
            drop(text::print(&(text::json(&Problem { error }) + "\n")));
        } else {
            eprintln!("{error}");
        }
        exit
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// The way to a process.
struct Process {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// What it has answered: JSON.
struct Answer(Bytes);

impl Process {
    /// The one that the command line means.
    fn of(asks: &Asks) -> Result<Self, Trouble> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Ok(Self {
            socket: asks.admin.clone(),
            runtime: builder.enable_all().build()?,
        })
    }

    /// Waits before it is asked again.
    fn pause(&self, time: Duration) {
        self.runtime
            .block_on(async { tokio::time::sleep(time).await });
    }

    fn get(&self, path: &str) -> Result<Answer, Trouble> {
        self.ask(Method::GET, path, Bytes::new())
    }

    fn post(&self, path: &str, body: impl Into<Bytes>) -> Result<Answer, Trouble> {
        self.ask(Method::POST, path, body.into())
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Trouble> {
        let nobody = |error: &dyn std::fmt::Display| {
            let socket = self.socket.display();
            Trouble::Nobody(format!(
                "no process answers at {socket}: {error}; name its socket with --admin or \
                 EVENKEEL_ADMIN"
            ))
        };
        let exchange = async {
            let within = tokio::time::timeout(ANSWER_TIME, self.exchange(method, path, body));
            within.await.map_err(|_| Error::from("it took too long"))?
        };
        let (status, body) = match self.runtime.block_on(exchange) {
            Ok(answer) => answer,
            Err(error) => return Err(nobody(&error)),
        };
        if status.is_success() {
            return Ok(Answer(body));
        }
        let problem = serde_json::from_slice::<Problem>(&body);
        Err(Trouble::Refused(match problem {
            Ok(problem) => problem.error,
            Err(_) => format!("{status}: {}", String::from_utf8_lossy(&body)),
        }))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Error> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, which says what has gone wrong.
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "evenkeel")
            .body(Full::new(body))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
        drop(connection);
        Ok((head.status, body))
    }
}

impl Answer {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Trouble> {
        let read = serde_json::from_slice(&self.0);
        read.map_err(|error| Trouble::Broken(format!("an answer of another version: {error}")))
    }

    /// Shows it as it is.
    fn print(&self) -> Result<(), Trouble> {
        let value: serde_json::Value = self.read()?;
        text::print(&format!("{value:#}\n"))
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long an answer may take: a little more than the process gives itself.
const ANSWER_TIME: Duration = Duration::from_secs(65);

/// Bytes of an answer at most: a million backends.
const ANSWER_MAX: usize = 512 << 20;
