//! Clients that mean no good: whatever they do costs them, not the others.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use crate::harness::proxy_protocol::{STREAMS, v2};
use crate::harness::scale::{amount, seed};
use crate::harness::stream::bounded;
use crate::harness::{
    Axis, Config, DEADLINE, End, Family, Proxy, Rng, Served, connect, ping, read_all, reset,
};

/// A backend that sends everything back, behind a listener of each kind.
fn config(backend: &Served) -> Config {
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let listener = |name: &str, settings: &str| {
        format!(
            "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\npool = \"pool\"\n\
             preread = {{ timeout = \"500ms\" }}\n{settings}\n"
        )
    };
    let routes = "[[listener.route]]\nsni = [\"a.example\"]\npool = \"pool\"\n\
                  [[listener.route]]\nhttp_host = [\"a.example\"]\nhttp_path = [\"/a\"]\npool = \"pool\"";
    Config::of(axis, &[backend.address])
        .pool("idle_timeout = \"5s\"")
        .more(&listener("introduced", "accept_proxy = \"any\""))
        .more(&listener("routed", routes))
}

/// Some bytes that may look like something for a while.
fn noise(rng: &mut Rng) -> Vec<u8> {
    let ends = ["192.0.2.7:1", "192.0.2.8:2"].map(|end| end.parse().unwrap());
    let mut bytes = match rng.below(5) {
        0 => b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n".to_vec(),
        1 => v2(STREAMS, ends[0], ends[1]),
        2 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        3 => b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec(),
        _ => Vec::new(),
    };
    let more = usize::try_from(rng.below(300)).unwrap();
    bytes.extend((0..more).map(|_| u8::try_from(rng.below(256)).unwrap()));
    for _ in 0..rng.below(3) {
        if let Some(place) = usize::try_from(rng.below(bytes.len() as u64 + 1)).ok()
            && let Some(byte) = bytes.get_mut(place)
        {
            *byte ^= 1 << rng.below(8);
        }
    }
    bytes
}

/// Says something and leaves in one way or another.
fn harass(front: SocketAddr, rng: &mut Rng) {
    let Ok(stream) = TcpStream::connect_timeout(&front, DEADLINE) else {
        return; // it may be reset before it knows
    };
    let mut stream = bounded(stream);
    // Whatever comes of it.
    drop(stream.write_all(&noise(rng)));
    match rng.below(4) {
        0 => reset(stream),
        1 => drop(stream.shutdown(Shutdown::Write)),
        2 => {
            drop(stream.read(&mut [0; 512]));
        }
        _ => {}
    }
}

#[test]
fn sec_07_random_bytes_on_every_listener_hurt_nobody() {
    let backend = Served::echo(Family::V4);
    let mut proxy = Proxy::start(&config(&backend));
    for text in ["its PROXY header: ", "connect failed"] {
        proxy.expect(text);
    }
    let fronts = ["front", "introduced", "routed"].map(|name| proxy.address(name));
    let seed = seed();
    let mut honest = connect(proxy.front());
    std::thread::scope(|threads| {
        for n in 0..4 {
            threads.spawn(move || {
                let mut rng = Rng::new(seed + n);
                for _ in 0..amount(300, 30_000) {
                    let front = fronts[usize::try_from(rng.below(3)).unwrap()];
                    harass(front, &mut rng);
                }
            });
        }
        for _ in 0..50 {
            ping(&mut honest).unwrap();
        }
    });
    drop(honest);
    proxy.finish();
}

#[test]
fn half_a_header_holds_a_place_for_a_moment_only() {
    let backend = Served::echo(Family::V4);
    let mut proxy = Proxy::start(&config(&backend));
    proxy.expect("its PROXY header: none has come in time");
    let quiet = proxy.open_descriptors();
    let (introduced, routed) = (proxy.address("introduced"), proxy.address("routed"));
    let mut waiting: Vec<_> = (0..amount(500, 4_000))
        .map(|n| {
            let mut client = connect(introduced);
            let half = &b"PROXY TCP4 192.0.2.7 1"[..usize::try_from(n % 20).unwrap() + 1];
            drop(client.write_all(half));
            client
        })
        .collect();
    // Others are served meanwhile, also those who say nothing that a route asks for.
    for front in [proxy.front(), routed] {
        let mut client = connect(front);
        ping(&mut client).unwrap();
    }
    for client in &mut waiting {
        assert_eq!(read_all(client), (vec![], End::Reset));
    }
    proxy.wait_open(quiet);
    proxy.finish();
}
