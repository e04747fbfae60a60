//! Random sequences of what two ends can do to a session, against a model of what each must see.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use crate::harness::scale::{amount, seed};
use crate::harness::stream::{is_reset, reset_on_close};
use crate::harness::wait::within;
use crate::harness::{
    Axis, Config, DEADLINE, End, Family, Listening, Payload, Proxy, Rng, on_every_axis,
};

/// One end of a session, and what it has done and seen.
struct Actor {
    stream: Option<TcpStream>,
    sends: Payload,
    receives: Payload,
    sent: u64,
    received: u64,
    has_finished: bool,
    end: Option<End>,
}

impl Actor {
    fn new(stream: TcpStream, sends: u64, receives: u64) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self {
            stream: Some(stream),
            sends: Payload::new(sends),
            receives: Payload::new(receives),
            sent: 0,
            received: 0,
            has_finished: false,
            end: None,
        }
    }

    fn act(&mut self, rng: &mut Rng) {
        match rng.below(16) {
            0..7 => self.write(1 << rng.below(19)),
            7..13 => self.read(1 << rng.below(20)),
            13 => self.finish(),
            14 if rng.below(4) == 0 => self.reset(),
            _ => {} // a pause
        }
    }

    /// Writes as much of `count` bytes as the kernel takes.
    fn write(&mut self, count: u64) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        if self.has_finished || self.end == Some(End::Reset) {
            return;
        }
        let mut bytes = vec![0; usize::try_from(count).unwrap()];
        self.sends.fill(self.sent, &mut bytes);
        match stream.write(&bytes) {
            Ok(taken) => self.sent += taken as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if is_reset(&error) => self.end = Some(End::Reset),
            Err(error) => panic!("write: {error}"),
        }
    }

    /// Reads at most `count` bytes and checks them.
    fn read(&mut self, count: usize) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        if self.end.is_some() {
            return;
        }
        let mut bytes = vec![0; count];
        match stream.read(&mut bytes) {
            Ok(0) => self.end = Some(End::Fin),
            Ok(count) => {
                self.receives.check(self.received, &bytes[..count]);
                self.received += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if is_reset(&error) => self.end = Some(End::Reset),
            Err(error) => panic!("read: {error}"),
        }
    }

    fn finish(&mut self) {
        let Some(stream) = &self.stream else { return };
        if !self.has_finished && self.end != Some(End::Reset) {
            match stream.shutdown(Shutdown::Write) {
                Ok(()) => self.has_finished = true,
                // The reset is there and has not been seen yet.
                Err(_) => self.end = Some(End::Reset),
            }
        }
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            reset_on_close(&stream);
        }
    }

    /// Has reset the connection itself.
    const fn is_gone(&self) -> bool {
        self.stream.is_none()
    }
}

/// Plays one script; what it was is told only by its seed.
fn play(backend: &Listening, proxy: &Proxy, seed: u64) {
    let mut rng = Rng::new(seed);
    let (client, server) = backend.pair(proxy.front());
    let mut actors = [
        Actor::new(client, seed, !seed),
        Actor::new(server, !seed, seed),
    ];
    for _ in 0..2 + rng.below(60) {
        let who = rng.size(2);
        actors[who].act(&mut rng);
    }
    // Whoever is left finishes and reads to the end.
    let done = within(DEADLINE, || {
        for actor in &mut actors {
            actor.finish();
            for _ in 0..64 {
                actor.read(256 * 1024);
            }
        }
        actors
            .iter()
            .all(|actor| actor.is_gone() || actor.end.is_some())
    });
    assert!(done, "script {seed}: an end never came");
    check(&actors, seed);
}

/// What each end must have seen.
fn check(actors: &[Actor; 2], seed: u64) {
    for (own, other) in [(&actors[0], &actors[1]), (&actors[1], &actors[0])] {
        assert!(
            own.received <= other.sent,
            "script {seed}: bytes out of nowhere"
        );
        if own.is_gone() {
            continue;
        }
        match own.end {
            Some(End::Fin) => {
                assert!(
                    other.has_finished,
                    "script {seed}: a clean end that nobody sent"
                );
                assert_eq!(
                    own.received, other.sent,
                    "script {seed}: a clean end before the last byte"
                );
            }
            _ => assert!(other.is_gone(), "script {seed}: a reset that nobody sent"),
        }
    }
}

#[test]
fn tcp_24_random_scripts_end_as_the_model_says() {
    let scripts = amount(100, 1250);
    let seed = seed();
    on_every_axis(|axis| run(axis, seed, scripts));
    // The mode in which copy and splice take turns.
    for family in [Family::V4, Family::V6] {
        run(
            Axis {
                family,
                splice: "auto",
                workers: 2,
            },
            seed,
            scripts,
        );
    }
}

fn run(axis: Axis, seed: u64, scripts: u64) {
    let backend = Listening::start(axis.family);
    let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
    for script in 0..scripts {
        play(&backend, &proxy, seed.wrapping_add(script));
    }
    proxy.finish();
}
