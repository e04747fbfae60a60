//! Which answer a request gets.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use super::body::Body;
use super::events::Events;
use super::metrics;
use super::patience::Patience;
use crate::control::aside::aside;
use crate::control::handle::{Handle, Question};
use crate::control::status::{Activity, Status};

/// All that can be asked for.
#[derive(Debug)]
pub(super) struct Site {
    handle: Handle,
    events: Rc<Events>,
    /// Who may hold a page of metrics, which is large where there are many backends.
    pages: Arc<Semaphore>,
    /// It is for this host alone.
    is_local: bool,
}

impl Site {
    pub(super) fn new(handle: Handle, local: SocketAddr) -> Self {
        Self {
            events: Events::new(handle.clone()),
            handle,
            pages: Arc::new(Semaphore::new(PAGES_MAX)),
            is_local: local.ip().is_loopback(),
        }
    }

    pub(super) async fn answer(
        &self,
        request: &Request<Incoming>,
        patience: Patience,
    ) -> Result<Response<Body>, Infallible> {
        patience.renew();
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let answer = text(
                StatusCode::METHOD_NOT_ALLOWED,
                "GET or HEAD only\n",
                patience,
            );
            return Ok(with(answer, header::ALLOW, "GET, HEAD"));
        }
        if self.is_local && !is_of_this_host(request) {
            // A page of elsewhere whose name leads here has no business with what is local.
            let why = "ask by an address or as localhost\n";
            return Ok(text(StatusCode::FORBIDDEN, why, patience));
        }
        Ok(match request.uri().path() {
            "/" => page(HTML, "text/html; charset=utf-8", patience),
            "/dashboard.css" => page(CSS, "text/css; charset=utf-8", patience),
            "/dashboard.js" => page(JS, "text/javascript; charset=utf-8", patience),
            "/healthz" => text(StatusCode::OK, "ok\n", patience),
            "/readyz" => self.readiness(patience).await,
            "/metrics" => self.metrics(patience).await,
            "/events" => self.listen(patience),
            _ => text(StatusCode::NOT_FOUND, "not found\n", patience),
        })
    }

    async fn readiness(&self, patience: Patience) -> Response<Body> {
        let Some(status) = self.handle.ask(Question::Status).await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n", patience);
        };
        match lacks(&status) {
            lacks if lacks.is_empty() => text(StatusCode::OK, "ready\n", patience),
            lacks => text(StatusCode::SERVICE_UNAVAILABLE, lacks, patience),
        }
    }

    /// The page is made on another thread: with many backends it takes milliseconds.
    async fn metrics(&self, patience: Patience) -> Response<Body> {
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        let Ok(permit) = Arc::clone(&self.pages).acquire_owned().await else {
            return text(busy, "stopping\n", patience);
        };
        let Some(status) = self.handle.ask(Question::Status).await else {
            return text(busy, "stopping\n", patience);
        };
        match aside(move || metrics::page(status)).await {
            Ok(Ok(page)) => {
                let body = Body::large(page, permit, patience);
                let answer = with(Response::new(body), header::CONTENT_TYPE, metrics::TYPE);
                with(answer, header::CACHE_CONTROL, "no-store")
            }
            Ok(Err(error)) => text(busy, format!("{error}\n"), patience),
            Err(error) => text(busy, format!("{error}\n"), patience),
        }
    }

    fn listen(&self, patience: Patience) -> Response<Body> {
        let Some(events) = self.events.listen() else {
            let why = "as many dashboards are open as may be\n";
            return text(StatusCode::SERVICE_UNAVAILABLE, why, patience);
        };
        let answer = Response::new(Body::events(events, patience));
        let answer = with(answer, header::CONTENT_TYPE, "text/event-stream");
        with(answer, header::CACHE_CONTROL, "no-store")
    }
}

/// Why it is not ready, a line each; empty = it is.
fn lacks(status: &Status) -> String {
    let mut lacks = String::new();
    if status.state == Activity::Draining {
        lacks += "draining\n";
    }
    for listener in status.listeners.iter().filter(|it| !it.is_accepting) {
        let name = &listener.name;
        let written = writeln!(
            lacks,
            "listener \"{name}\" takes nobody: a limit is reached, or descriptors are lacking"
        );
        debug_assert!(written.is_ok(), "there is memory");
    }
    lacks
}

/// Whether it is asked for by an address or as localhost. A browser names the host that its user
/// wanted, so a name that somebody else has made lead here shows.
fn is_of_this_host(request: &Request<Incoming>) -> bool {
    let named = request.headers().get(header::HOST);
    let Some(named) = named.and_then(|host| host.to_str().ok()) else {
        return named.is_none(); // HTTP/1.0, which no browser speaks
    };
    is_name_of_this_host(named)
}

fn is_name_of_this_host(named: &str) -> bool {
    let is_address = |host: &str| host.parse::<IpAddr>().is_ok();
    if named.parse::<SocketAddr>().is_ok() || is_address(named.trim_matches(['[', ']'])) {
        return true;
    }
    let host = named.rsplit_once(':').map_or(named, |(host, _)| host);
    host.eq_ignore_ascii_case("localhost")
}

fn text(
    status: StatusCode,
    body: impl Into<hyper::body::Bytes>,
    patience: Patience,
) -> Response<Body> {
    let mut answer = Response::new(Body::whole(body, patience));
    *answer.status_mut() = status;
    let answer = with(answer, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    with(answer, header::CACHE_CONTROL, "no-store")
}

/// A part of the dashboard, which may load nothing from anywhere else.
fn page(body: &'static str, kind: &'static str, patience: Patience) -> Response<Body> {
    let answer = Response::new(Body::whole(body, patience));
    let answer = with(answer, header::CONTENT_TYPE, kind);
    let answer = with(answer, header::CACHE_CONTROL, "no-cache");
    let answer = with(answer, header::CONTENT_SECURITY_POLICY, POLICY);
    let answer = with(answer, header::REFERRER_POLICY, "no-referrer");
    with(answer, header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

fn with(
    mut answer: Response<Body>,
    name: header::HeaderName,
    value: &'static str,
) -> Response<Body> {
    let headers = answer.headers_mut();
    headers.insert(name, HeaderValue::from_static(value));
    answer
}

const HTML: &str = include_str!("dashboard/index.html");
const CSS: &str = include_str!("dashboard/dashboard.css");
const JS: &str = include_str!("dashboard/dashboard.js");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Pages of metrics held at once, each of some megabytes where there are a thousand backends.
const PAGES_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_host_are_told_from_those_that_lead_here() {
        for named in [
            "127.0.0.1",
            "127.0.0.1:9910",
            "[::1]:9910",
            "[::1]",
            "localhost:1",
            "LOCALHOST",
        ] {
            assert!(is_name_of_this_host(named), "{named}");
        }
        for named in [
            "evil.example",
            "evil.example:9910",
            "localhost.evil.example",
            "",
            ":1",
        ] {
            assert!(!is_name_of_this_host(named), "{named}");
        }
    }
}
