//! Probes by requests of HTTP.

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use super::{answering, probed, request};
use crate::harness::proxy::Folder;
use crate::harness::{Axis, Config, Family, Proxy, Served};

/// A whole answer.
fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Probes that want the model to be loaded.
fn of_model(axis: Axis, backends: &[&Served]) -> Config {
    probed(axis, "http", backends)
        .health("path = \"/health?deep=1\"")
        .health("expect = [200, \"301-399\"]")
        .health("body = 'model.*\\d\\d'")
}

#[test]
fn hlt_03_a_request_says_why_a_backend_is_not_well() {
    for family in [Family::V4, Family::V6] {
        let axis = Axis::plain(family);
        let wrong = [
            (answer("503 Loading", "model 12"), "status 503"),
            (answer("300 Many", "model 12"), "status 300"),
            (answer("200 OK", "model a"), "body does not match"),
            (answer("200 OK", ""), "body does not match"),
            (
                "SSH-2.0-OpenSSH_9.9\r\n".to_owned(),
                "no answer of HTTP: invalid HTTP version parsed",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nmodel".to_owned(),
                "no answer of HTTP: error reading a body from connection",
            ),
            (
                String::new(),
                "no answer of HTTP: connection closed before message completed",
            ),
        ];
        let backends: Vec<Served> = wrong
            .iter()
            .map(|(answer, _)| answering(family, answer))
            .collect();
        let right = answering(family, &answer("302 Found", "a model of 13"));
        let silent = Served::start(family.any(), |stream| {
            request(&stream)?;
            request(&stream).map(drop) // until it is given up
        });
        let all: Vec<&Served> = backends.iter().chain([&silent, &right]).collect();
        let mut proxy = Proxy::start(&of_model(axis, &all).health(super::DOWN_FOR_GOOD));
        proxy.expect("is down");
        let reasons = wrong.iter().map(|(_, reason)| *reason);
        let reasons = reasons.chain(["no answer within 1s"]);
        proxy.log.wait_down(('a'..).zip(reasons));
        assert_eq!(proxy.log.count("is down"), wrong.len() + 1, "one is well");
        proxy.finish();
    }
}

#[test]
fn hlt_02_a_backend_whose_answer_becomes_right_comes_back() {
    for family in [Family::V4, Family::V6] {
        let axis = Axis::plain(family);
        let (asked, requests) = mpsc::channel();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let backend = Served::start(family.any(), move |mut stream| {
            let request = request(&stream)?;
            asked.send(request).ok();
            let status = match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0..4 => "503 Loading",
                _ => "200 OK",
            };
            stream.write_all(answer(status, "model 12").as_bytes())
        });
        let mut proxy = Proxy::start(&of_model(axis, &[&backend]));
        proxy.expect("backend \"pool/a\" is down: status 503, at the answer after ");
        proxy.log.wait_text("backend \"pool/a\" is down");
        proxy.log.wait_text("backend \"pool/a\" is up");
        let request = requests.recv().unwrap().to_lowercase();
        assert!(
            request.starts_with("get /health?deep=1 http/1.1\r\n"),
            "{request}"
        );
        let host = format!("\r\nhost: {}\r\n", backend.address);
        assert!(request.contains(&host), "{request}");
        let config = of_model(axis, &[&backend]).health("host = \"models.example\"");
        proxy.reload(&config).unwrap();
        assert!(proxy.log.has("health.host \"\" → models.example"));
        while !requests
            .recv()
            .unwrap()
            .contains("\r\nhost: models.example\r\n")
        {}
        proxy.finish();
    }
}

#[test]
fn hlt_04_an_answer_in_pieces_without_an_end_passes() {
    let (head, body) = ("HTTP/1.1 200 OK\r\nContent-Le", "ngth: 8\r\n\r\nmod");
    let pieces = Served::start(Family::V4.any(), move |mut stream| {
        stream.set_nodelay(true)?;
        request(&stream)?;
        for piece in [head, body, "el 12"] {
            stream.write_all(piece.as_bytes())?;
            std::thread::yield_now();
        }
        request(&stream).map(drop) // the end is the prober's
    });
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nmod\r\n5\r\nel 12\r\n0\r\n\r\n";
    let chunked = answering(Family::V4, chunked);
    let to_the_end = answering(Family::V4, "HTTP/1.0 200 OK\r\n\r\nmodel 12");
    let config = of_model(Axis::PLAIN, &[&pieces, &chunked, &to_the_end]);
    let proxy = Proxy::start(&config.health("initial = \"down\""));
    for name in ["a", "b", "c"] {
        proxy
            .log
            .wait_text(&format!("backend \"pool/{name}\" is up"));
    }
    proxy.finish();
}

#[test]
fn hlt_05_an_endless_answer_is_looked_at_in_part() {
    let endless = |start: &'static str| {
        Served::start(Family::V4.any(), move |mut stream| {
            request(&stream)?;
            stream.write_all(start.as_bytes())?;
            loop {
                stream.write_all(&[b'x'; 64 * 1024])?;
            }
        })
    };
    let right = endless("HTTP/1.1 200 OK\r\n\r\nmodel 12");
    let wrong = endless("HTTP/1.1 200 OK\r\n\r\nmodel");
    let head = endless("HTTP/1.1 200 OK\r\nA: ");
    let mut proxy = Proxy::start(&of_model(Axis::PLAIN, &[&right, &wrong, &head]));
    proxy.expect("is down");
    proxy.log.wait_down([
        ("b", "body does not match"),
        ("c", "no answer of HTTP: message head is too large"),
    ]);
    assert_eq!(proxy.log.count("is down"), 2);
    proxy.finish();
}

#[test]
fn hlt_06_a_unix_socket_is_asked_as_well() {
    let folder = Folder::new();
    let path = folder.path().join("backend.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let config = Config::new(Axis::PLAIN).backend(&format!("unix:{}", path.display()));
    let config = super::often(config, "http").health("initial = \"down\"");
    let proxy = Proxy::start(&config);
    for _ in 0..2 {
        let (mut stream, _) = listener.accept().unwrap();
        let request = request(&stream).unwrap();
        assert!(request.contains("\r\nhost: localhost\r\n"), "{request}");
        stream.write_all(answer("200 OK", "").as_bytes()).unwrap();
    }
    proxy.log.wait_text("backend \"pool/a\" is up");
    drop(listener);
    let mut proxy = proxy;
    proxy.expect("backend \"pool/a\" is down");
    proxy.finish();
}
