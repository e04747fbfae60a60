//! What can be asked and told, and what answers it.

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde::Serialize;

use super::messages::{Done, Order, Problem};
use crate::control::handle::{Handle, Outcome, Question};

/// Everything there is, by its path; the version is that of what the answers look like.
const ROUTES: [(&str, Method, Route); 3] = [
    ("/v1/status", Method::GET, Route::Status),
    ("/v1/reload", Method::POST, Route::Reload),
    ("/v1/backend", Method::POST, Route::Backend),
];

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    Status,
    Reload,
    Backend,
}

/// With what, and by whom.
#[derive(Debug)]
pub(super) struct Asked {
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
            Self::Status | Self::Reload => 0,
            Self::Backend => ORDER_MAX,
        }
    }

    /// Asks the supervisor, who answers one after another.
    pub(super) async fn answer(self, asked: Asked, handle: &Handle) -> Answer {
        match self {
            Self::Status => of(handle.ask(Question::Status).await),
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

fn of_outcome(outcome: Option<Outcome>) -> Answer {
    match outcome {
        Some(Err(error)) => Answer::problem(StatusCode::CONFLICT, error),
        Some(Ok(message)) => of(Some(Done { message })),
        None => of(None::<Done>),
    }
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
