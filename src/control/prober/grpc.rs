//! The health service of gRPC (grpc.health.v1), by cleartext HTTP/2.

use std::io::{self, Cursor};

use h2::RecvStream;
use h2::client::{self, SendRequest};
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HeaderMap, TE, USER_AGENT};

use super::connection::Connection;
use super::http::drive;
use crate::wire::grpc::{Serving, check_request, check_response};

/// The most bytes of an answer's body; it takes seven.
const ANSWER_MAX: u32 = 4 * 1024;

/// The most bytes of the head of an answer.
const HEAD_MAX: u32 = 16 * 1024;

type Sender = SendRequest<Cursor<Vec<u8>>>;

/// Asks `whom` for the health of `service` by `stream`; empty = that of the server.
pub(super) async fn probe(stream: Connection, whom: &str, service: &str) -> io::Result<()> {
    let (sender, connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(ANSWER_MAX)
        .max_header_list_size(HEAD_MAX)
        .handshake(stream)
        .await
        .map_err(no_answer)?;
    tokio::select! {
        judged = ask(sender, whom, service) => judged,
        // Its errors are those of the request.
        never = drive(connection) => never,
    }
}

async fn ask(sender: Sender, whom: &str, service: &str) -> io::Result<()> {
    let request = Request::post(format!("http://{whom}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, concat!("evenkeel/", env!("CARGO_PKG_VERSION")))
        .body(())
        .map_err(io::Error::other)?;
    let mut sender = sender.ready().await.map_err(no_answer)?;
    let (answer, mut body) = sender.send_request(request, false).map_err(no_answer)?;
    let message = Cursor::new(check_request(service));
    body.send_data(message, true).map_err(no_answer)?;
    let (head, mut body) = answer.await.map_err(no_answer)?.into_parts();
    if head.status.as_u16() != 200 {
        return Err(io::Error::other(format!("status {}", head.status.as_u16())));
    }
    check_status(&head.headers)?; // where it is all there is
    let message = read(&mut body).await?;
    if let Some(trailers) = body.trailers().await.map_err(no_answer)? {
        check_status(&trailers)?;
    }
    match check_response(&message) {
        Some(Serving::Serving) => Ok(()),
        Some(other) => Err(io::Error::other(format!("the service is {}", other.name()))),
        None => Err(io::Error::other("no answer of gRPC: no whole message")),
    }
}

/// The body, unless it is too long.
async fn read(body: &mut RecvStream) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(no_answer)?;
        // No window is given back: that of the beginning is enough.
        message.extend_from_slice(&data);
    }
    Ok(message)
}

/// Fails for a status of gRPC that is not OK.
fn check_status(headers: &HeaderMap) -> io::Result<()> {
    let Some(status) = headers.get("grpc-status") else {
        return Ok(());
    };
    let name = match status.as_bytes() {
        b"0" => return Ok(()),
        b"5" => "NOT_FOUND: there is no such service",
        b"12" => "UNIMPLEMENTED: there is no health service",
        b"14" => "UNAVAILABLE",
        other => {
            let text = String::from_utf8_lossy(&other[..other.len().min(8)]).into_owned();
            return Err(io::Error::other(format!("status {text:?} of gRPC")));
        }
    };
    Err(io::Error::other(format!("status {name}")))
}

fn no_answer(error: h2::Error) -> io::Error {
    io::Error::other(format!("no answer of HTTP/2: {error}"))
}
