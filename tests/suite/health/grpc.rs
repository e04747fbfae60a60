//! Probes by the health service of gRPC.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use hyper::header::HeaderMap;
use hyper::{Request, Response};

use super::{answering, probed};
use crate::harness::{Axis, Family, Proxy, Served};

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Answer {
    /// The message, in a frame, and the status of gRPC after it.
    Message(&'static [u8], &'static str),
    /// Nothing but the head, with the status of gRPC.
    HeadAlone(&'static str),
    /// Another status of HTTP.
    Http(u16),
    /// A body without an end.
    Endless,
    /// A connection that ends at once.
    Reset,
}

const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 2];

/// A server that answers so, as the request and its message say.
fn server(
    family: Family,
    answer: impl Fn(&Request<()>, &[u8]) -> Answer + Send + Sync + 'static,
) -> Served {
    let answer = Arc::new(answer);
    Served::start(family.any(), move |stream| {
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // The prober goes first, in whatever way: an error is no fault here.
        drop(runtime.block_on(serve(stream, &*answer)));
        Ok(())
    })
}

async fn serve(
    stream: std::net::TcpStream,
    answer: impl Fn(&Request<()>, &[u8]) -> Answer,
) -> Result<(), h2::Error> {
    let stream = tokio::net::TcpStream::from_std(stream).expect("not blocking");
    let mut connection = h2::server::handshake(stream).await?;
    let mut held = Vec::new();
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let (head, mut body) = request.into_parts();
        // The message came with the head, or the connection must go on for it to come.
        let message = tokio::select! {
            message = body.data() => message.transpose()?.unwrap_or_default(),
            _ = connection.accept() => Default::default(),
        };
        let request = Request::from_parts(head, ());
        let head = Response::builder().header("content-type", "application/grpc");
        match answer(&request, &message) {
            Answer::Message(message, status) => {
                let mut body = respond.send_response(head.body(()).unwrap(), false)?;
                body.send_data(message.into(), false)?;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                body.send_trailers(trailers)?;
            }
            Answer::HeadAlone(status) => {
                let head = head.header("grpc-status", status);
                respond.send_response(head.body(()).unwrap(), true)?;
            }
            Answer::Http(status) => {
                respond.send_response(head.status(status).body(()).unwrap(), true)?;
            }
            Answer::Endless => {
                let mut body = respond.send_response(head.body(()).unwrap(), false)?;
                body.send_data(vec![b'x'; 1024 * 1024].into(), false)?;
                held.push(body); // dropping it would end it
            }
            Answer::Reset => return Ok(()),
        }
    }
    Ok(())
}

#[test]
fn hlt_03_a_health_service_says_why_it_is_not_serving() {
    for family in [Family::V4, Family::V6] {
        let axis = Axis::plain(family);
        let wrong = [
            (
                Answer::Message(NOT_SERVING, "0"),
                "the service is NOT_SERVING",
            ),
            (Answer::Message(&[0; 5], "0"), "the service is UNKNOWN"),
            (
                Answer::Message(&[0, 0, 0, 0, 9, 8, 1], "0"),
                "no answer of gRPC",
            ),
            (Answer::Message(SERVING, "14"), "status UNAVAILABLE"),
            (
                Answer::HeadAlone("12"),
                "status UNIMPLEMENTED: there is no health service",
            ),
            (
                Answer::HeadAlone("5"),
                "status NOT_FOUND: there is no such service",
            ),
            (Answer::Http(404), "status 404"),
            (Answer::Endless, "no answer within 1s"),
            (Answer::Reset, "no answer of HTTP/2: "),
        ];
        let mut backends: Vec<Served> = wrong
            .iter()
            .map(|&(answer, _)| server(family, move |_, _| answer))
            .collect();
        backends.push(answering(family, "HTTP/1.1 400 Bad Request\r\n\r\n"));
        backends.push(server(family, |_, _| Answer::Message(SERVING, "0")));
        let all: Vec<&Served> = backends.iter().collect();
        let mut proxy = Proxy::start(&probed(axis, "grpc", &all).health(super::DOWN_FOR_GOOD));
        proxy.expect("is down");
        let reasons = wrong.iter().map(|(_, reason)| *reason);
        proxy
            .log
            .wait_down(('a'..).zip(reasons.chain(["no answer of HTTP/2: "])));
        assert_eq!(proxy.log.count("is down"), wrong.len() + 1, "one is well");
        proxy.finish();
    }
}

#[test]
fn hlt_02_a_service_that_serves_again_comes_back() {
    let is_serving = Arc::new(AtomicBool::new(false));
    let backend = server(Family::V4, {
        let is_serving = Arc::clone(&is_serving);
        move |request, message| {
            let is_right = request.method() == "POST"
                && request.uri().path() == "/grpc.health.v1.Health/Check"
                && request.headers()["content-type"] == "application/grpc"
                && request.headers()["te"] == "trailers"
                && message == b"\0\0\0\0\x07\x0a\x05a.Cha";
            match (is_right, is_serving.load(SeqCst)) {
                (false, _) => Answer::HeadAlone("5"),
                (true, false) => Answer::Message(NOT_SERVING, "0"),
                (true, true) => Answer::Message(SERVING, "0"),
            }
        }
    });
    let config = probed(Axis::PLAIN, "grpc", &[&backend]).health("grpc_service = \"a.Cha\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down: the service is NOT_SERVING, at the answer after ");
    proxy.log.wait_text("backend \"pool/a\" is down");
    is_serving.store(true, SeqCst);
    proxy.log.wait_text("backend \"pool/a\" is up");

    proxy.expect("backend \"pool/a\" is down: status NOT_FOUND: there is no such service");
    proxy
        .reload(&config.health("grpc_service = \"a.B\""))
        .unwrap();
    assert!(proxy.log.has("health.grpc_service \"a.Cha\" → \"a.B\""));
    proxy.log.wait_text("is down: status NOT_FOUND");
    proxy.finish();
}
