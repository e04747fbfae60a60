//! Probes by dialogs of bytes.

use std::io::{Read as _, Write as _};

use super::{answering, probed};
use crate::harness::{Axis, Family, Proxy, Served, until};

/// A backend that sends these bytes to everybody and waits for the end.
fn telling(family: Family, pieces: &'static [&'static str]) -> Served {
    Served::start(family.any(), move |mut stream| {
        stream.set_nodelay(true)?;
        for piece in pieces {
            stream.write_all(piece.as_bytes())?;
            std::thread::yield_now();
        }
        std::io::copy(&mut stream, &mut std::io::sink()).map(drop)
    })
}

#[test]
fn hlt_03_a_backend_that_accepts_and_says_nothing_is_down() {
    for family in [Family::V4, Family::V6] {
        let axis = Axis::plain(family);
        let (silent, mumbling) = (telling(family, &[]), telling(family, &["+PO"]));
        let (closing, right) = (answering(family, "+PO"), answering(family, "+PONG\r\n"));
        let config = probed(axis, "send_expect", &[&silent, &mumbling, &closing, &right])
            .health("send = \"PING\\r\\n\\r\\n\"")
            .health("expect_bytes = \"+PONG\"")
            .health(super::DOWN_FOR_GOOD);
        let mut proxy = Proxy::start(&config);
        proxy.expect("is down");
        proxy.log.wait_down([
            ("a", "no answer within 1s"),
            ("b", "no answer within 1s"),
            ("c", "closed after 3 bytes of an answer"),
        ]);
        assert_eq!(proxy.log.count("is down"), 3);
        proxy.finish();
    }
}

#[test]
fn hlt_04_an_answer_in_three_pieces_passes() {
    let backend = telling(Family::V4, &["+P", "O", "NG and more"]);
    for expected in ["+PONG", "hex:2b504f4e47", "regex:^.PO[A-Z]+ a"] {
        let config = probed(Axis::PLAIN, "send_expect", &[&backend])
            .health(&format!("expect_bytes = \"{expected}\""))
            .health("initial = \"down\"");
        let proxy = Proxy::start(&config);
        proxy.log.wait_text("backend \"pool/a\" is up");
        proxy.finish();
    }
}

#[test]
fn hlt_05_a_wrong_or_an_endless_answer_is_a_failure() {
    let wrong = telling(Family::V4, &["-NOAUTH"]);
    let endless = Served::start(Family::V4.any(), |mut stream| {
        loop {
            stream.write_all(&[b'x'; 64 * 1024])?;
        }
    });
    for expected in ["+PONG", "regex:PONG$"] {
        let config = probed(Axis::PLAIN, "send_expect", &[&wrong, &endless])
            .health(&format!("expect_bytes = \"{expected}\""));
        let mut proxy = Proxy::start(&config);
        proxy.expect("is down");
        // That no more comes which could still match is not known before the time is over.
        let reason = match expected {
            "+PONG" => "another answer than the expected one",
            _ => "no answer within 1s",
        };
        proxy
            .log
            .wait_text(&format!("backend \"pool/a\" is down: {reason}"));
        proxy
            .log
            .wait_text("backend \"pool/b\" is down: another answer than the expected one");
        proxy.finish();
    }
}

#[test]
fn hlt_02_a_dialog_of_several_steps_brings_a_backend_back() {
    let backend = Served::start(Family::V4.any(), |mut stream| {
        let mut said = [0; 6];
        stream.write_all(b"220-mail.example\r\n220 ready\r\n")?;
        stream.read_exact(&mut said)?;
        stream.write_all(if said == *b"NOOP\r\n" {
            b"250 OK\r\n"
        } else {
            b"500 No\r\n"
        })?;
        stream.read_exact(&mut said)?;
        stream.write_all(b"221 Bye\r\n")
    });
    let dialog = |word: &str| {
        let steps = format!(
            "steps = [{{ expect_bytes = \"220-\" }}, {{ expect_bytes = 'regex:\\n220 .*\\n' }}, \
             {{ send = \"{word}\\r\\n\", expect_bytes = \"250 \" }}, \
             {{ send = \"QUIT\\r\\n\", expect_bytes = \"hex:323231\" }}]"
        );
        probed(Axis::PLAIN, "send_expect", &[&backend]).health(&steps)
    };
    let mut proxy = Proxy::start(&dialog("ERR!"));
    proxy.expect("backend \"pool/a\" is down: another answer than the expected one");
    proxy.log.wait_text("backend \"pool/a\" is down");
    proxy.reload(&dialog("NOOP")).unwrap();
    assert!(
        proxy
            .log
            .has("health.steps [{ send = \"\", expect_bytes = \"220-\" }, ")
    );
    proxy.log.wait_text("backend \"pool/a\" is up");
    let served = backend.served();
    until("it is asked again and again", || {
        backend.served() > served + 1
    });
    assert_eq!(proxy.log.count("is down"), 1);
    proxy.finish();
}
