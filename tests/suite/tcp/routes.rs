//! Listeners that choose a pool by what a client says first.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::harness::stream::is_silent_for;
use crate::harness::{
    Axis, Config, End, Listening, Proxy, connect, on_every_axis, read_all, until,
};

/// What a client of TLS sends first, in records of at most so many bytes.
pub(super) fn hello(host: &str, protocols: &[&str], fragment: Option<usize>) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(RootCertStore::empty());
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| (*name).into()).collect();
    config.max_fragment_size = fragment;
    let host = host.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(config), host).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// A proxy whose listener has routes, each to a pool of its own, and these pools' backends: that of the
/// listener's own pool first.
struct Routed {
    backends: Vec<Listening>,
    proxy: Proxy,
}

impl Routed {
    fn start(axis: Axis, routes: &[&str], settings: &[&str]) -> Self {
        let backends: Vec<_> = (0..=routes.len())
            .map(|_| Listening::start(axis.family))
            .collect();
        let proxy = Proxy::start(&Self::config(axis, &backends, routes, settings));
        Self { backends, proxy }
    }

    fn config(axis: Axis, backends: &[Listening], routes: &[&str], settings: &[&str]) -> Config {
        let mut config = Config::of(axis, &[backends[0].address]);
        let list = (1..)
            .zip(routes)
            .map(|(n, rule)| format!("{{ {rule}, pool = \"p{n}\" }}"));
        config = config.listener(&format!(
            "route = [{}]",
            list.collect::<Vec<_>>().join(", ")
        ));
        for setting in settings {
            config = config.listener(setting);
        }
        for (n, backend) in backends.iter().enumerate().skip(1) {
            config = config.more(&format!(
                "[pool.p{n}]\nhealth = {{ type = \"none\" }}\n[[pool.p{n}.backend]]\naddress = \"{}\"\n",
                backend.address
            ));
        }
        config
    }

    fn front(&self) -> SocketAddr {
        self.proxy.front()
    }

    /// Fails unless a client that says this goes to that pool, with all that it says.
    #[track_caller]
    fn leads(&self, pieces: &[&[u8]], pool: usize) {
        let mut client = connect(self.front());
        for piece in pieces {
            client.write_all(piece).unwrap();
        }
        let mut server = None;
        let mut found = 0;
        until("a connection at a backend", || {
            for (place, backend) in self.backends.iter().enumerate() {
                if let Some(accepted) = backend.try_accept() {
                    (server, found) = (Some(accepted), place);
                }
            }
            server.is_some()
        });
        let all = pieces.concat();
        assert_eq!(found, pool, "{}", all.escape_ascii());
        client.shutdown(Shutdown::Write).unwrap();
        let mut server = server.unwrap();
        assert!(read_all(&mut server) == (all, End::Fin), "the same bytes");
        server.write_all(b"answer").unwrap();
        drop(server);
        assert_eq!(read_all(&mut client), (b"answer".to_vec(), End::Fin));
    }
}

#[test]
fn tls_clients_go_where_the_name_and_the_protocols_lead() {
    on_every_axis(|axis| {
        let rules = [
            "sni = [\"a.example\", \"*.b.example\"]",
            "alpn = [\"h2\"]",
            "sni = [\"*.c.example\"], alpn = [\"imap\", \"pop3\"]",
        ];
        let routed = Routed::start(axis, &rules, &[]);
        for (host, protocols, pool) in [
            ("a.example", &["h2"][..], 1),
            ("x.y.B.example", &[], 1),
            ("b.example", &[], 0),
            ("other.example", &["http/1.1", "h2"], 2),
            ("m.c.example", &["pop3"], 3),
            ("m.c.example", &["smtp"], 0),
            ("c.example", &["pop3"], 0),
        ] {
            routed.leads(&[&hello(host, protocols, None)], pool);
        }
        // In many records, and in many segments.
        let whole = hello("a.example", &[], Some(64));
        routed.leads(&[&whole], 1);
        let pieces: Vec<&[u8]> = whole.chunks(7).collect();
        routed.leads(&pieces, 1);
        // No TLS.
        routed.leads(&[b"SSH-2.0-client\r\n"], 0);
        routed.proxy.finish();
    });
}

#[test]
fn http_clients_go_where_host_path_and_fields_lead() {
    on_every_axis(|axis| {
        let rules = [
            "http_path = [\"/v1/embeddings\", \"/v1/rerank\"]",
            "http_host = [\"api.example\", \"*.api.example\"], http_path = [\"/\"]",
            "http_header = [\"X-Model: llama\", \"x-beta: 1\"]",
        ];
        let routed = Routed::start(axis, &rules, &[]);
        for (head, pool) in [
            ("POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n\r\n{}", 1),
            ("POST /v1/rerank?a=b HTTP/1.1\r\n", 1),
            (
                "GET / HTTP/1.1\r\nAccept: */*\r\nhost: API.example:8000\r\n\r\n",
                2,
            ),
            (
                "GET http://eu.api.example/x HTTP/1.1\r\nHost: ignored\r\n\r\n",
                2,
            ),
            ("GET / HTTP/1.1\r\nHost: other\r\n\r\n", 0),
            ("GET / HTTP/1.0\r\n\r\n", 0),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0),
            ("*1\r\n$4\r\nPING\r\n", 0),
            ("GET /x HTTP/1.1\r\nX-Model:  llama \r\nHost: o\r\n\r\n", 3),
            (
                "GET /x HTTP/1.1\r\nx-model: llama2\r\nx-model: llama\r\n\r\n",
                0,
            ),
            (
                "GET /x HTTP/1.1\r\nA: b\r\nx-beta: 1\r\nx-model: other\r\n\r\n",
                3,
            ),
        ] {
            routed.leads(&[head.as_bytes()], pool);
            let pieces: Vec<&[u8]> = head.as_bytes().chunks(3).collect();
            routed.leads(&pieces, pool);
        }
        routed.proxy.finish();
    });
}

#[test]
fn nothing_is_waited_for_that_cannot_matter() {
    let rules = [
        "source = [\"192.0.2.0/24\"], sni = [\"a.example\"]",
        "source = [\"127.0.0.0/8\"]",
    ];
    let routed = Routed::start(Axis::PLAIN, &rules, &[]);
    // A client that waits for the server to speak.
    let client = connect(routed.front());
    let server = routed.backends[2].accept();
    drop((client, server));
    routed.proxy.finish();
}

#[test]
fn who_says_too_little_or_too_late_goes_to_the_pool_of_the_listener() {
    on_every_axis(|axis| {
        let settings = ["preread = { timeout = \"300ms\", size = \"1KiB\" }"];
        let routed = Routed::start(axis, &["sni = [\"a.example\"]"], &settings);
        let start = Instant::now();
        let mut client = connect(routed.front());
        client
            .write_all(&hello("a.example", &[], None)[..20])
            .unwrap();
        let mut server = routed.backends[0].accept();
        assert!(start.elapsed() >= Duration::from_millis(250));
        server.read_exact(&mut [0; 20]).unwrap();
        drop((client, server));
        // One that ends early, and one whose first message is longer than is looked at.
        let mut ended = connect(routed.front());
        ended.shutdown(Shutdown::Write).unwrap();
        drop(routed.backends[0].accept());
        assert_eq!(read_all(&mut ended), (vec![], End::Fin));
        let mut long = vec![22, 3, 1, 8, 0, 1, 0, 7, 252];
        long.resize(1_500, 0);
        routed.leads(&[&long], 0);
        routed.proxy.finish();
    });
}

#[test]
fn a_route_is_for_who_is_announced() {
    let header = |client: &str| format!("PROXY TCP4 {client} 198.51.100.1 1 2\r\n").into_bytes();
    let rules = ["source = [\"192.0.2.0/24\"], http_path = [\"/a\"]"];
    let settings = ["accept_proxy = \"v1\"", "trusted = [\"127.0.0.1\"]"];
    let routed = Routed::start(Axis::PLAIN, &rules, &settings);
    for (client, path, pool) in [
        ("192.0.2.7", "/a", 1),
        ("192.0.2.7", "/b", 0),
        ("203.0.113.7", "/a", 0),
    ] {
        let mut connection = connect(routed.front());
        connection.write_all(&header(client)).unwrap();
        is_silent_for(&mut connection, Duration::from_millis(5));
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut server = routed.backends[pool].accept();
        let mut got = vec![0; request.len()];
        server.read_exact(&mut got).unwrap();
        assert_eq!(got, request.as_bytes(), "without the header");
    }
    routed.proxy.finish();
}

#[test]
fn a_reload_changes_the_routes_of_those_to_come() {
    let rules = ["http_path = [\"/a\"]", "http_path = [\"/b\"]"];
    let routed = Routed::start(Axis::PLAIN, &rules, &[]);
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\n").into_bytes();
    let mut early = connect(routed.front());
    early.write_all(b"GET ").unwrap();
    is_silent_for(&mut early, Duration::from_millis(20));
    let swapped = ["http_path = [\"/b\"]", "http_path = [\"/a\"]"];
    let config = Routed::config(Axis::PLAIN, &routed.backends, &swapped, &[]);
    routed.proxy.reload(&config).unwrap();
    routed.leads(&[&ask("/a")], 2);
    routed.leads(&[&ask("/b")], 1);
    // One that came before goes by the routes it found.
    early.write_all(b"/a HTTP/1.1\r\n").unwrap();
    drop((early, routed.backends[1].accept()));
    routed.proxy.finish();
}

#[test]
fn who_waits_where_a_route_has_led_stays_there() {
    let routed = Routed::start(
        Axis::PLAIN,
        &["http_path = [\"/a\"]", "http_path = [\"/b\"]"],
        &[],
    );
    let limited = |rules: &[&str]| {
        let config = Routed::config(Axis::PLAIN, &routed.backends, rules, &[]);
        config
            .text()
            .replace("[pool.p1]\n", "[pool.p1]\nmax_connections = 1\n")
    };
    routed
        .proxy
        .write(limited(&["http_path = [\"/a\"]", "http_path = [\"/b\"]"]).as_bytes());
    routed.proxy.reload_file().unwrap();
    let quiet = routed.proxy.open_descriptors();
    let ask = || {
        let mut client = connect(routed.front());
        client.write_all(b"GET /a HTTP/1.1\r\n").unwrap();
        client
    };
    let open = (ask(), routed.backends[1].accept());
    let waiting = ask();
    routed.proxy.wait_open(quiet + 3);
    // What it asked for goes elsewhere from now on, and who asks for nothing goes where it always went.
    routed
        .proxy
        .write(limited(&["http_path = [\"/c\"]", "http_path = [\"/a\"]"]).as_bytes());
    routed.proxy.reload_file().unwrap();
    drop(open);
    drop((routed.backends[1].accept(), waiting));
    routed.leads(&[b"GET /a HTTP/1.1\r\n"], 2);
    routed.proxy.finish();
}
