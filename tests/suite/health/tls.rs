//! Probes by TLS: a handshake, and requests of HTTP after one.

use std::fs;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{probed, request};
use crate::harness::proxy::Folder;
use crate::harness::{Axis, Config, Family, Proxy, Served, until};

/// An authority, and the file that names it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: Folder,
}

type Secured = StreamOwned<ServerConnection, TcpStream>;

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = Folder::new();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { issuer, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The settings that trust it alone.
    fn trusted(&self, config: Config) -> Config {
        config.health(&format!("tls_ca = {:?}", self.file()))
    }

    /// How a server speaks TLS with a certificate for this name, which ends so.
    fn certify(&self, name: &str, end: (i32, u8, u8)) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(end.0, end.1, end.2);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        Arc::new(config)
    }
}

/// A backend that speaks TLS so, and then does `serve`.
fn secured(
    family: Family,
    config: Arc<ServerConfig>,
    serve: impl Fn(&mut Secured) -> io::Result<()> + Send + Sync + 'static,
) -> Served {
    Served::start(family.any(), move |stream| {
        let session = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, stream);
        serve(&mut stream)
    })
}

/// Reads until the end.
fn listen(stream: &mut Secured) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(drop)
}

const LATER: (i32, u8, u8) = (2099, 1, 1);

#[test]
fn hlt_03_a_handshake_says_why_it_failed() {
    for (family, name) in [(Family::V4, "127.0.0.1"), (Family::V6, "::1")] {
        let axis = Axis::plain(family);
        let (ours, other) = (Authority::new(), Authority::new());
        let backends = [
            Served::start(family.any(), |mut stream| {
                stream.write_all(b"220 ready for cleartext\r\n")?;
                io::copy(&mut stream, &mut io::sink()).map(drop)
            }),
            secured(family, ours.certify("a.example", LATER), listen),
            secured(family, other.certify(name, LATER), listen),
            secured(family, ours.certify(name, (2020, 1, 1)), listen),
            Served::start(family.any(), |_| Ok(())),
            secured(family, ours.certify(name, LATER), listen),
        ];
        let all: Vec<&Served> = backends.iter().collect();
        let config = ours.trusted(probed(axis, "tls", &all));
        let mut proxy = Proxy::start(&config);
        proxy.expect("is down: no TLS: ");
        proxy.log.wait_down([
            ("a", "no TLS: received corrupt message"),
            (
                "b",
                "no TLS: invalid peer certificate: certificate not valid for name",
            ),
            ("c", "no TLS: invalid peer certificate: "),
            ("d", "no TLS: invalid peer certificate: certificate expired"),
            ("e", "no TLS: "),
        ]);
        assert_eq!(proxy.log.count("is down"), 5);

        // Under the name that it has, the second one is well.
        let config = config.health("tls_server_name = \"a.example\"");
        proxy.reload(&config).unwrap();
        proxy.log.wait_text("backend \"pool/b\" is up");
        proxy.log.wait_text("backend \"pool/f\" is down");
        proxy.finish();
    }
}

#[test]
fn hlt_02_a_request_by_tls_brings_a_backend_back() {
    let ours = Authority::new();
    let count = AtomicU64::new(0);
    let backend = secured(
        Family::V4,
        ours.certify("models.example", LATER),
        move |stream| {
            let request = request(&mut *stream)?.to_lowercase();
            let is_right = request.starts_with("get /up ") && request.contains("127.0.0.1");
            let status = match count.fetch_add(1, SeqCst) {
                4.. if is_right => "200 OK",
                _ => "503 Loading",
            };
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 4\r\n\r\ndone")?;
            stream.conn.send_close_notify();
            stream.flush()
        },
    );
    let config = ours
        .trusted(probed(Axis::PLAIN, "https", &[&backend]))
        .health("path = \"/up\"")
        .health("body = \"^done$\"")
        .health("tls_server_name = \"models.example\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down: status 503");
    proxy
        .log
        .wait_text("backend \"pool/a\" is down: status 503");
    proxy.log.wait_text("backend \"pool/a\" is up");
    proxy.finish();
}

#[test]
fn hlt_03_a_certificate_that_ends_is_told_of_once() {
    let ours = Authority::new();
    let now = std::time::SystemTime::now() + std::time::Duration::from_secs(5 * 86_400);
    let date = humantime_date(now);
    let soon = secured(Family::V4, ours.certify("127.0.0.1", date), listen);
    let config = ours
        .trusted(probed(Axis::PLAIN, "tls", &[&soon]))
        .health("initial = \"down\"")
        .health("rise = 20");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\": its certificate ends in 4 days");
    proxy.log.wait_text("backend \"pool/a\" is up");
    assert_eq!(proxy.log.count("its certificate ends in 4 days"), 1);
    proxy.finish();

    // Who is not verified is told of all the same.
    let ended = secured(Family::V4, ours.certify("b.example", (2020, 1, 1)), listen);
    let config = probed(Axis::PLAIN, "tls", &[&ended])
        .health("initial = \"down\"")
        .health("tls_verify = false");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\": its certificate has ended");
    proxy.log.wait_text("its certificate has ended");
    proxy.log.wait_text("backend \"pool/a\" is up");
    proxy.finish();
}

/// The day of a moment.
fn humantime_date(time: std::time::SystemTime) -> (i32, u8, u8) {
    let text = humantime::format_rfc3339(time).to_string();
    let mut parts = text[..10]
        .split('-')
        .map(|part| part.parse::<i32>().unwrap());
    let mut next = || parts.next().unwrap();
    let (year, month, day) = (next(), next(), next());
    (year, month.try_into().unwrap(), day.try_into().unwrap())
}

#[test]
fn hlt_20_authorities_are_read_at_each_load() {
    let (ours, other) = (Authority::new(), Authority::new());
    let backend = secured(Family::V4, ours.certify("127.0.0.1", LATER), listen);
    let config = ours.trusted(probed(Axis::PLAIN, "tls", &[&backend]));
    let mut proxy = Proxy::start(&config.clone().health("initial = \"down\""));
    proxy.expect("reload failed");
    proxy.expect("backend \"pool/a\" is down: no TLS: invalid peer certificate: ");
    proxy.log.wait_text("backend \"pool/a\" is up");

    for (text, error) in [
        (None, "No such file or directory"),
        (Some("nothing"), "no certificate in PEM"),
    ] {
        let kept = fs::read(ours.file()).unwrap();
        match text {
            None => fs::remove_file(ours.file()).unwrap(),
            Some(text) => fs::write(ours.file(), text).unwrap(),
        }
        let answer = proxy.reload(&config).unwrap_err();
        assert!(
            answer.contains("pool \"pool\": no certificates to trust: tls_ca "),
            "{answer}"
        );
        assert!(answer.contains(error), "{answer}");
        fs::write(ours.file(), kept).unwrap();
    }
    let served = backend.served();
    until("probes go on", || backend.served() > served + 2);

    // The same settings, and another authority in the file.
    fs::copy(other.file(), ours.file()).unwrap();
    proxy.reload(&config.health("initial = \"down\"")).unwrap();
    proxy.log.wait_text("backend \"pool/a\" is down");
    proxy.finish();
}
