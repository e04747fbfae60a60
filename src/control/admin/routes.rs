//! What can be asked and told, and what answers it.

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde::Serialize;

use super::messages::{Done, Order, Problem};
use crate::config::MAX_TEXT;
use crate::control::handle::{File, Handle, Newcomer, Outcome, Question, Wanted};
use crate::sys::socket::canonical;

/// Everything there is, by its path; the version is that of what the answers look like.
const ROUTES: [(&str, Method, Route); 6] = [
    ("/v1/status", Method::GET, Route::Status),
    ("/v1/explain", Method::GET, Route::Explain),
    ("/v1/sessions", Method::GET, Route::Sessions),
    ("/v1/plan", Method::POST, Route::Plan),
    ("/v1/reload", Method::POST, Route::Reload),
    ("/v1/backend", Method::POST, Route::Backend),
];

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    Status,
    Explain,
    Sessions,
    Plan,
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
            Self::Status | Self::Explain | Self::Sessions | Self::Reload => 0,
            Self::Backend => ORDER_MAX,
            Self::Plan => MAX_TEXT,
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
            Self::Sessions => match wanted(&asked.query) {
                Ok(wanted) => of((handle.ask(|reply| Question::Sessions(wanted, reply))).await),
                Err(error) => Answer::problem(StatusCode::BAD_REQUEST, error),
            },
            Self::Plan => {
                let name = value(&asked.query, "name").unwrap_or_else(|| "body".to_owned());
                let text = asked.body.to_vec();
                let plan = |reply| Question::Plan(File { name, text }, reply);
                of_result(handle.ask(plan).await)
            }
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

/// The value of a key in a query, if it is there.
fn value(query: &str, wanted: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find_map(|(key, value)| (key == wanted).then(|| value.into_owned()))
}

/// Any of `pool=NAME`, `backend=NAME` and `limit=N`.
fn wanted(query: &str) -> Result<Wanted, String> {
    let limit = value(query, "limit").map(|text| {
        let number = text.parse().ok().filter(|&number| number <= SESSIONS_MAX);
        number.ok_or_else(|| format!("limit: write a number up to {SESSIONS_MAX}"))
    });
    Ok(Wanted {
        pool: value(query, "pool"),
        backend: value(query, "backend"),
        most: limit.unwrap_or(Ok(SESSIONS_TOLD))?,
    })
}

/// `listener=NAME&source=IP:PORT`, and maybe `destination=IP:PORT`.
fn newcomer(query: &str) -> Result<Newcomer, String> {
    let value = |wanted: &str| value(query, wanted);
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

/// Sessions told of where nobody says how many.
const SESSIONS_TOLD: usize = 1_000;

/// Sessions told of at most, each of which takes 200 bytes of an answer.
const SESSIONS_MAX: usize = 100_000;

/// Bytes of an order: two names, and room for how JSON may write them.
const ORDER_MAX: usize = 4 << 10;
