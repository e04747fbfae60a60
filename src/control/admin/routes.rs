//! What can be asked and told, and what answers it.

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde::Serialize;

use super::messages::{Done, Order, Problem};
use crate::control::handle::{Handle, Newcomer, Outcome, Question};
use crate::sys::socket::canonical;

/// Everything there is, by its path; the version is that of what the answers look like.
const ROUTES: [(&str, Method, Route); 4] = [
    ("/v1/status", Method::GET, Route::Status),
    ("/v1/explain", Method::GET, Route::Explain),
    ("/v1/reload", Method::POST, Route::Reload),
    ("/v1/backend", Method::POST, Route::Backend),
];

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    Status,
    Explain,
    Reload,
    Backend,
}

/// With what, and by whom.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) query: String,
    pub(super) body: Bytes,
    pub(super) peer: Peer,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) pid: Option<i32>,
}

/// What it gets.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) json: Vec<u8>,
}

/// The route of a request, or why there is none.
pub(super) fn find(method: &Method, path: &str) -> Result<Route, Answer> {
    let found = ROUTES.iter().find(|(known, ..)| *known == path);
    let Some((_, wanted, route)) = found else {
        let paths = ROUTES.map(|(path, ..)| path).join(", ");
        let error = format!("there is no such path; there are {paths}");
        return Err(Answer::problem(StatusCode::NOT_FOUND, error));
    };
    if method != wanted {
        let error = format!("{path} takes {wanted}");
        return Err(Answer::problem(StatusCode::METHOD_NOT_ALLOWED, error));
    }
    Ok(*route)
}

impl Route {
    /// Bytes of a body that are taken.
    pub(super) const fn body_max(self) -> usize {
        match self {
            Self::Status | Self::Explain | Self::Reload => 0,
            Self::Backend => ORDER_MAX,
        }
    }

    /// Asks the supervisor, who answers one after another.
    pub(super) async fn answer(self, asked: Asked, handle: &Handle) -> Answer {
        match self {
            Self::Status => of(handle.ask(Question::Status).await),
            Self::Explain => match newcomer(&asked.query) {
                Ok(newcomer) => {
                    let explain = |reply| Question::Explain(newcomer, reply);
                    of_result(handle.ask(explain).await)
                }
                Err(error) => Answer::problem(StatusCode::BAD_REQUEST, error),
            },
            Self::Reload => {
                let outcome = handle.ask(Question::Reload).await;
                audit(asked.peer, "reload", outcome.as_ref());
                of_outcome(outcome)
            }
            Self::Backend => match serde_json::from_slice::<Order>(&asked.body) {
                Ok(order) => {
                    let what = order.to_string();
                    let outcome = handle.ask(|reply| Question::Backend(order, reply)).await;
                    audit(asked.peer, &what, outcome.as_ref());
                    of_outcome(outcome)
                }
                Err(error) => Answer::problem(StatusCode::BAD_REQUEST, format!("body: {error}")),
            },
        }
    }
}

impl Answer {
    fn new(status: StatusCode, body: &impl Serialize) -> Self {
        let mut json = serde_json::to_vec(body).expect("names are texts, and numbers are finite");
        json.push(b'\n');
        Self { status, json }
    }

    pub(super) fn problem(status: StatusCode, error: impl Into<String>) -> Self {
        let error = error.into();
        Self::new(status, &Problem { error })
    }
}

/// The answer to a question; `None` = the supervisor has ended meanwhile.
fn of(answer: Option<impl Serialize>) -> Answer {
    match answer {
        Some(answer) => Answer::new(StatusCode::OK, &answer),
        None => Answer::problem(StatusCode::SERVICE_UNAVAILABLE, "the process ends"),
    }
}

fn of_result(answer: Option<Result<impl Serialize, String>>) -> Answer {
    match answer.transpose() {
        Ok(answer) => of(answer),
        Err(error) => Answer::problem(StatusCode::CONFLICT, error),
    }
}

fn of_outcome(outcome: Option<Outcome>) -> Answer {
    of_result(outcome.map(|outcome| outcome.map(|message| Done { message })))
}

/// `listener=NAME&source=IP:PORT`, and maybe `destination=IP:PORT`.
fn newcomer(query: &str) -> Result<Newcomer, String> {
    let value = |wanted: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find_map(|(key, value)| (key == wanted).then(|| value.into_owned()))
    };
    let address = |wanted: &str| {
        let parse = |text: String| {
            let wrong = |_| format!("{wanted}: {text:?} is not an address; write IP:PORT");
            text.parse().map(canonical).map_err(wrong)
        };
        value(wanted).map(parse).transpose()
    };
    let missing = |key: &str| format!("{key}: missing; write ?listener=NAME&source=IP:PORT");
    Ok(Newcomer {
        listener: value("listener").ok_or_else(|| missing("listener"))?,
        source: address("source")?.ok_or_else(|| missing("source"))?,
        destination: address("destination")?,
    })
}

/// Says who has changed something, or has tried to.
fn audit(peer: Peer, what: &str, outcome: Option<&Outcome>) {
    let Peer { uid, pid } = peer;
    let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
    let end = match outcome {
        Some(Ok(_)) => "done",
        Some(Err(_)) => "refused",
        None => "the process ended",
    };
    log::info!("admin: uid {uid}, pid {pid}: {what}: {end}");
}

/// Bytes of an order: two names, and room for how JSON may write them.
const ORDER_MAX: usize = 4 << 10;
