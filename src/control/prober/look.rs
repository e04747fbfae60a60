//! One look at a backend: what a probe does, and what its end means.

use std::cell::Cell;
use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::{connection, exec, grpc, http, send_expect, tls, udp};
use crate::config::plan::{Probe, ProbeKind, SendProxy, Tls};
use crate::control::trust::Trust;
use crate::lb::health::finding::{Found, Stage};
use crate::sys::socket::Target;
use crate::sys::source::Source;
use crate::wire::proxy_header::Transport;

/// What is looked at. Backends for which it is the same are looked at together.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sight {
    /// The pool and the backend, where a program is told of them: then it is of nobody else.
    pub(super) told: Option<(String, String)>,
    /// Where it is.
    pub(super) target: Target,
    /// Where probes come from.
    pub(super) source: Source,
    /// How it is told who its clients are.
    pub(super) send_proxy: SendProxy,
    /// Its name, as its address has it, or its IP address.
    pub(super) host: String,
    /// How, how often and how strictly it is looked at.
    pub(super) probe: Probe,
    /// Where that is by TLS: whom to trust.
    pub(super) trust: Option<Trust>,
}

/// How a look ended.
pub(super) struct Seen {
    pub(super) found: Found,
    /// When the backend's certificate ends, in seconds since 1970.
    pub(super) certificate_ends: Option<u64>,
}

impl Sight {
    /// Looks once, and no longer than it may.
    pub(super) async fn look(&self) -> Seen {
        let within = self.probe.timeout;
        let stage = Cell::new(Stage::Connect);
        let mut certificate_ends = None;
        // Boxed, so that a prober that waits for its turn does not hold the room of a probe.
        let found = match timeout(within, Box::pin(self.ask(&stage))).await {
            Ok(Ok(ends)) => {
                certificate_ends = ends;
                Found::Passed
            }
            Ok(Err(error)) if self.target.is_local(&error) => {
                Found::Inconclusive(error.to_string())
            }
            Ok(Err(error)) => Found::Failed(stage.get(), error.to_string()),
            Err(_) if self.may_be_silent() => Found::Passed,
            Err(_) => Found::TimedOut(stage.get(), within),
        };
        Seen {
            found,
            certificate_ends,
        }
    }

    /// Asks, and says at `stage` how far it is; when the certificate ends that it has met.
    async fn ask(&self, stage: &Cell<Stage>) -> io::Result<Option<u64>> {
        let mut certificate_ends = None;
        match &self.probe.kind {
            ProbeKind::Udp(step) => {
                stage.set(Stage::Answer);
                let header = self.send_proxy.header(Transport::Datagram, None);
                udp::probe(&self.target, self.source, header.as_ref(), step).await?;
                return Ok(None);
            }
            ProbeKind::Exec(command) => {
                stage.set(Stage::Program);
                exec::probe(command, self).await?;
                return Ok(None);
            }
            _ => {}
        }
        let mut stream = connection::open(&self.target, self.source).await?;
        // It is told that nobody connects but us.
        if let Some(header) = self.send_proxy.header(Transport::Stream, None) {
            stream.write_all(header.as_bytes()).await?;
        }
        if let (Some(tls), Some(trust)) = (self.tls(), &self.trust) {
            stage.set(Stage::Tls);
            let secured = tls::secure(stream, &self.host, tls, trust).await?;
            stream = secured.stream;
            certificate_ends = secured.ends;
        }
        stage.set(Stage::Answer);
        match &self.probe.kind {
            ProbeKind::Tcp | ProbeKind::Udp(_) | ProbeKind::Exec(_) => {}
            ProbeKind::SendExpect(steps) => send_expect::probe(stream, steps).await?,
            ProbeKind::Http(http) => http::probe(stream, &self.authority(), http).await?,
            ProbeKind::Grpc(service) => grpc::probe(stream, &self.authority(), service).await?,
            ProbeKind::Tls(_) => tls::end(stream).await,
        }
        Ok(certificate_ends)
    }

    fn tls(&self) -> Option<&Tls> {
        match &self.probe.kind {
            ProbeKind::Tls(tls) => Some(tls),
            ProbeKind::Http(http) => http.tls.as_ref(),
            _ => None,
        }
    }

    /// Whom a request asks: the host and the port.
    fn authority(&self) -> String {
        match (&self.target, self.host.as_str()) {
            (Target::Unix(_), host) => host.to_owned(),
            (Target::Tcp(address), host) if host.contains(':') => {
                format!("[{host}]:{}", address.port())
            }
            (Target::Tcp(address), host) => format!("{host}:{}", address.port()),
        }
    }

    /// Whether silence says nothing: a server of datagrams answers what it knows.
    fn may_be_silent(&self) -> bool {
        matches!(&self.probe.kind, ProbeKind::Udp(step) if step.expect.is_nothing())
    }
}
