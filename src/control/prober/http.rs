//! A request of HTTP/1.1, on a connection of its own.

use std::error::Error as _;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::rt::{self, ReadBufCursor};
use hyper::{Request, Response};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::connection::Connection;
use crate::config::plan::{ANSWER_MAX, Http};

/// The most bytes of the head of an answer.
const HEAD_MAX: usize = 64 * 1024;

/// Asks `whom` by `stream`, and looks at the answer.
pub(super) async fn probe(stream: Connection, whom: &str, http: &Http) -> io::Result<()> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .handshake(Io(stream))
        .await
        .map_err(no_answer)?;
    let request = Request::get(&http.path)
        .header(HOST, http.host.as_deref().unwrap_or(whom))
        .header(USER_AGENT, concat!("evenkeel/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(String::new())
        .map_err(io::Error::other)?;
    let judged =
        async { judge(sender.send_request(request).await.map_err(no_answer)?, http).await };
    tokio::select! {
        judged = judged => judged,
        // Its errors are those of the request.
        never = drive(connection) => never,
    }
}

/// Lets a connection go on, for as long as somebody waits for what comes by it.
pub(super) async fn drive<T>(connection: impl Future) -> T {
    drop(connection.await);
    pending().await
}

async fn judge(answer: Response<Incoming>, http: &Http) -> io::Result<()> {
    let status = answer.status().as_u16();
    if !http.statuses.iter().any(|range| range.contains(&status)) {
        return Err(io::Error::other(format!("status {status}")));
    }
    if let Some(pattern) = &http.body
        && !pattern.matches(&start_of(answer.into_body()).await?)
    {
        return Err(io::Error::other("body does not match"));
    }
    Ok(())
}

/// The first [`ANSWER_MAX`] bytes of a body.
async fn start_of(mut body: Incoming) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    while start.len() < ANSWER_MAX
        && let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        if let Ok(data) = frame.map_err(no_answer)?.into_data() {
            start.extend_from_slice(&data);
        }
    }
    start.truncate(ANSWER_MAX);
    Ok(start)
}

fn no_answer(error: hyper::Error) -> io::Error {
    let because = (error.source()).map_or_else(String::new, |source| format!(": {source}"));
    io::Error::other(format!("no answer of HTTP: {error}{because}"))
}

/// The connection as hyper takes it.
struct Io(Connection);

impl rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [0; 4096];
        let room = into.remaining().min(chunk.len());
        let mut read = ReadBuf::new(&mut chunk[..room]);
        ready!(Pin::new(&mut self.0).poll_read(context, &mut read))?;
        into.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
