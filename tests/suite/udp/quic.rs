//! Real QUIC: HTTP/3 by quinn and h3 on both sides of the proxy.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h3::quic::BidiStream;
use http::{Request, Response};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use quinn::rustls::{self, RootCertStore};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig,
    ServerConfig, TokioRuntime,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::data::on_every_axis;
use crate::harness::scale::amount;
use crate::harness::udp::socket;
use crate::harness::{Axis, Config, Family, Payload, Proxy};

/// A certificate that the clients trust.
struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
        Self {
            certificate: cert.der().clone(),
            key: signing_key.serialize_der().into(),
        }
    }
}

/// A server that answers each request with the body that it brings.
struct Server {
    address: SocketAddr,
    /// Connections accepted.
    count: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(family: Family, identity: &Identity) -> Self {
        Self::start_with(family, identity, EndpointConfig::default())
    }

    /// One whose connection IDs say that it is server `id`.
    fn start_named(id: u8, family: Family, identity: &Identity) -> Self {
        let mut settings = EndpointConfig::default();
        settings.cid_generator(move || Box::new(Naming { id, nonce: 0 }));
        Self::start_with(family, identity, settings)
    }

    fn start_with(family: Family, identity: &Identity, settings: EndpointConfig) -> Self {
        let socket = socket(family);
        let address = socket.local_addr().expect("bound");
        let key = PrivateKeyDer::from(identity.key.clone_key());
        let tls = rustls::ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(vec![identity.certificate.clone()], key);
        let mut tls = tls.expect("a key and its certificate");
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = QuicServerConfig::try_from(tls).expect("TLS 1.3");
        let config = ServerConfig::with_crypto(Arc::new(tls));
        let count = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let accepted = Arc::clone(&count);
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let runtime = Arc::new(TokioRuntime);
                let endpoint = Endpoint::new(settings, Some(config), socket, runtime);
                let serving = serve(endpoint.expect("a socket"), accepted);
                tokio::select! { () = serving => {} _ = stopped => {} }
            });
        });
        Self {
            address,
            count,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("a server has failed");
        }
    }
}

/// Makes connection IDs as QUIC-LB has them, in plain text: a length, a server's id of three bytes,
/// and a nonce.
struct Naming {
    id: u8,
    nonce: u32,
}

impl ConnectionIdGenerator for Naming {
    fn generate_cid(&mut self) -> ConnectionId {
        self.nonce += 1;
        let nonce = self.nonce.to_be_bytes();
        ConnectionId::new(&[&[7, 0, 0, self.id], nonce.as_slice()].concat())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

async fn serve(endpoint: Endpoint, accepted: Arc<AtomicU64>) {
    while let Some(incoming) = endpoint.accept().await {
        accepted.fetch_add(1, SeqCst);
        drop(tokio::spawn(async move {
            // How a connection ends is the client's to judge.
            let Ok(connection) = incoming.await else {
                return;
            };
            let connection = h3_quinn::Connection::new(connection);
            let Ok(mut connection) = h3::server::Connection::new(connection).await else {
                return;
            };
            while let Ok(Some(request)) = connection.accept().await {
                drop(tokio::spawn(async move {
                    let (_, stream) = request.resolve_request().await?;
                    answer(stream).await
                }));
            }
        }));
    }
}

async fn answer<S: BidiStream<Bytes>>(
    mut stream: h3::server::RequestStream<S, Bytes>,
) -> Result<(), h3::error::StreamError> {
    stream.send_response(Response::new(())).await?;
    let (mut send, mut receive) = stream.split();
    while let Some(mut piece) = receive.recv_data().await? {
        send.send_data(piece.copy_to_bytes(piece.remaining()))
            .await?;
    }
    send.finish().await
}

/// A client on a port of its own.
fn client(family: Family, identity: &Identity) -> Endpoint {
    let mut roots = RootCertStore::empty();
    roots.add(identity.certificate.clone()).expect("a root");
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots);
    let mut tls = tls.with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicClientConfig::try_from(tls).expect("TLS 1.3");
    let config = ClientConfig::new(Arc::new(tls));
    let settings = EndpointConfig::default();
    let endpoint = Endpoint::new(settings, None, socket(family), Arc::new(TokioRuntime));
    let mut endpoint = endpoint.expect("a socket");
    endpoint.set_default_client_config(config);
    endpoint
}

/// Posts `count` bytes, and checks that exactly these come back. Tells `progress` how many have.
async fn exchange(
    connection: &Connection,
    payload: Payload,
    count: u64,
    mut progress: impl FnMut(u64),
) {
    let connection = h3_quinn::Connection::new(connection.clone());
    let connection = h3::client::new(connection).await;
    let (mut connection, mut requests) = connection.expect("HTTP/3");
    let request = Request::post(format!("https://{NAME}/")).body(());
    let exchange = async {
        let stream = requests.send_request(request.expect("a request")).await;
        let (mut send, mut receive) = stream.expect("a stream").split();
        let sending = async {
            let mut sent = 0;
            while sent < count {
                let now = usize::try_from(count - sent).map_or(CHUNK, |left| left.min(CHUNK));
                let mut buffer = vec![0; now];
                payload.fill(sent, &mut buffer);
                send.send_data(buffer.into()).await.expect("sent");
                sent += now as u64;
            }
            send.finish().await.expect("open");
        };
        let receiving = async {
            let answer = receive.recv_response().await.expect("an answer");
            assert!(answer.status().is_success());
            let mut received = 0;
            while let Some(mut piece) = receive.recv_data().await.expect("received") {
                let bytes = piece.copy_to_bytes(piece.remaining());
                payload.check(received, &bytes);
                received += bytes.len() as u64;
                progress(received);
            }
            assert_eq!(received, count);
        };
        tokio::join!(sending, receiving);
    };
    tokio::select! {
        () = exchange => {}
        error = poll_fn(|context| connection.poll_close(context)) => panic!("{error}"),
    }
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// Runs the clients' part, which may take `time`.
#[track_caller]
fn within<T>(time: Duration, part: impl Future<Output = T>) -> T {
    runtime().block_on(async { tokio::time::timeout(time, part).await.expect("in time") })
}

#[test]
fn udp_32_quic_connections_are_spread_and_every_byte_comes_back() {
    let count = amount(5_000_000, 250_000_000);
    let identity = Identity::new();
    on_every_axis(|axis| {
        let servers = [(); 2].map(|()| Server::start(axis.family, &identity));
        let addresses = servers.each_ref().map(|server| server.address);
        let config = Config::udp(axis, &addresses)
            .pool("balance = \"round_robin\"")
            .flows("session = \"quic\"")
            .flows("idle_timeout = \"2s\"");
        let proxy = Proxy::start(&config);
        within(TIME, async {
            let one = async |seed: u64| {
                let endpoint = client(axis.family, &identity);
                let connection = endpoint.connect(proxy.front(), NAME).expect("an address");
                let connection = connection.await.expect("connected");
                exchange(&connection, Payload::new(seed), count / 2, |_| {}).await;
                connection.close(0_u8.into(), b"");
                endpoint.wait_idle().await;
            };
            tokio::join!(one(1), one(2));
        });
        for server in &servers {
            assert_eq!(server.count.load(SeqCst), 1);
        }
        let totals = proxy.finish();
        for backend in ["a", "b"] {
            assert!(totals.backend(backend, "bytes to backend") > count / 2);
            assert!(totals.backend(backend, "bytes to client") > count / 2);
        }
    });
}

#[test]
fn udp_32_a_connection_survives_new_addresses_of_its_client() {
    let count = amount(5_000_000, 100_000_000);
    let identity = Identity::new();
    let family = Family::V4;
    let servers = [1, 2, 3].map(|id| Server::start_named(id, family, &identity));
    let mut config = Config::udp(Axis::PLAIN, &[])
        // Each new flow would go to another server.
        .pool("balance = \"round_robin\"")
        .flows("session = \"quic\"")
        .flows("idle_timeout = \"2s\"")
        .flows("quic_server_id_length = 3");
    for (place, server) in servers.iter().enumerate() {
        let id = format!("server_id = \"{:06x}\"", place + 1);
        config = config.backend(&server.address.to_string()).with(&id);
    }
    let proxy = Proxy::start(&config);
    let mut moves = 0;
    within(TIME, async {
        let endpoint = client(family, &identity);
        let connection = endpoint.connect(proxy.front(), NAME).expect("an address");
        let connection = connection.await.expect("connected");
        // While bytes are under way, both ways.
        let progress = |received| {
            if moves < MOVES && received > count / (MOVES + 1) * (moves + 1) {
                endpoint.rebind(socket(family)).expect("a socket");
                moves += 1;
            }
        };
        exchange(&connection, Payload::new(1), count, progress).await;
        connection.close(0_u8.into(), b"");
        endpoint.wait_idle().await;
    });
    assert_eq!(moves, MOVES);
    let counts = servers.each_ref().map(|server| server.count.load(SeqCst));
    assert_eq!(counts, [1, 0, 0]);
    let totals = proxy.finish();
    assert_eq!(
        totals.front("accepted"),
        1 + MOVES,
        "a flow for each address"
    );
    assert_eq!(totals.backend("b", "bytes to backend"), 0);
}

/// Times that a client changes its address.
const MOVES: u64 = 5;

const NAME: &str = "service.test";

/// HTTP/3 (RFC 9114).
const ALPN: &[u8] = b"h3";

/// Bytes sent at a time.
const CHUNK: usize = 64 * 1024;

/// For the whole of an exchange.
const TIME: Duration = Duration::from_secs(1_200);
