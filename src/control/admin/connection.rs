//! Connections of the admin socket: one request each, bounded in every direction.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::routes::{self, Answer, Asked, Peer};
use crate::control::handle::Handle;

/// Accepts as long as it is polled; whoever is too many waits in the kernel's queue.
pub(super) async fn accept(listener: Rc<UnixListener>, handle: Handle) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return; // it is never closed
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handle = handle.clone();
                tokio::task::spawn_local(async move {
                    serve(stream, handle).await;
                    drop(place);
                });
            }
            Err(error) => {
                log::debug!("admin socket: cannot accept: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, handle: Handle) {
    let peer = match stream.peer_cred() {
        Ok(credentials) => Peer {
            uid: credentials.uid(),
            pid: credentials.pid(),
        },
        Err(error) => return log::debug!("admin socket: nobody knows whose this is: {error}"),
    };
    let service = service_fn(|request| {
        let handle = handle.clone();
        async move { Ok::<_, Infallible>(answer(request, peer, &handle).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("admin socket: {error}"),
        Err(_) => log::debug!("admin socket: a client took more than {CONNECTION_TIME:?}"),
    }
}

async fn answer(request: Request<Incoming>, peer: Peer, handle: &Handle) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let route = match routes::find(&head.method, head.uri.path()) {
        Ok(route) => route,
        Err(answer) => return response(answer),
    };
    let query = head.uri.query().unwrap_or_default().to_owned();
    let body = Limited::new(body, route.body_max()).collect();
    let body = match tokio::time::timeout(BODY_TIME, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            let error = format!("body: {error}; {} bytes are taken", route.body_max());
            return response(Answer::problem(StatusCode::BAD_REQUEST, error));
        }
        Err(_) => {
            let error = format!("body: it must come within {BODY_TIME:?}");
            return response(Answer::problem(StatusCode::REQUEST_TIMEOUT, error));
        }
    };
    let asked = Asked { query, body, peer };
    response(route.answer(asked, handle).await)
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.json.into()));
    *response.status_mut() = answer.status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Connections at a time. Their descriptors come out of the reserve for such things.
const CONNECTIONS_MAX: usize = 16;

/// Header lines of a request; curl sends three.
const HEADERS_MAX: usize = 32;

/// Bytes of a request's head, and of what is read of a body at a time.
const HEAD_MAX: usize = 16 << 10;

/// How long the head of a request may take.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// How long its body may take.
const BODY_TIME: Duration = Duration::from_secs(5);

/// How long all of it may take: more than reading a configuration and resolving its names.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// How long nothing is accepted after an error, which is one of having no descriptors.
const PAUSE: Duration = Duration::from_millis(100);
