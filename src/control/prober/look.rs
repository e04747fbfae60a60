//! One look at a backend: what a probe does, and what its end means.

use std::io;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::{connection, exec, grpc, http, send_expect, tls, udp};
use crate::config::plan::{Probe, ProbeKind, SendProxy, Tls};
use crate::control::trust::Trust;
use crate::sys::socket::Target;
use crate::sys::source::Source;
use crate::wire::proxy_header::Transport;

/// What is looked at.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sight {
    /// Whose it is.
    pub(super) pool: String,
    /// What it is called there.
    pub(super) backend: String,
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

/// What a probe found.
pub(super) enum Outcome {
    Passed(Passed),
    Failed(io::Error),
    /// It could not be made, through no fault of the backend.
    Inconclusive(io::Error),
}

/// What a probe learnt beside that all is well.
#[derive(Default)]
pub(super) struct Passed {
    /// When the backend's certificate ends, in seconds since 1970.
    pub(super) certificate_ends: Option<u64>,
}

impl Sight {
    /// Looks once, and no longer than it may.
    pub(super) async fn look(&self) -> Outcome {
        let within = self.probe.timeout;
        // Boxed, so that a prober that waits for its turn does not hold the room of a probe.
        match timeout(within, Box::pin(self.ask())).await {
            Ok(Ok(passed)) => Outcome::Passed(passed),
            Ok(Err(error)) if self.target.is_local(&error) => Outcome::Inconclusive(error),
            Ok(Err(error)) => Outcome::Failed(error),
            Err(_) if self.may_be_silent() => Outcome::Passed(Passed::default()),
            Err(_) => Outcome::Failed(io::Error::other(format!("no answer within {within:?}"))),
        }
    }

    async fn ask(&self) -> io::Result<Passed> {
        let mut passed = Passed::default();
        match &self.probe.kind {
            ProbeKind::Udp(step) => {
                let header = self.send_proxy.header(Transport::Datagram, None);
                udp::probe(&self.target, self.source, header.as_ref(), step).await?;
                return Ok(passed);
            }
            ProbeKind::Exec(command) => {
                exec::probe(command, self).await?;
                return Ok(passed);
            }
            _ => {}
        }
        let mut stream = connection::open(&self.target, self.source).await?;
        // It is told that nobody connects but us.
        if let Some(header) = self.send_proxy.header(Transport::Stream, None) {
            stream.write_all(header.as_bytes()).await?;
        }
        if let (Some(tls), Some(trust)) = (self.tls(), &self.trust) {
            let secured = tls::secure(stream, &self.host, tls, trust).await?;
            stream = secured.stream;
            passed.certificate_ends = secured.ends;
        }
        match &self.probe.kind {
            ProbeKind::Tcp | ProbeKind::Udp(_) | ProbeKind::Exec(_) => {}
            ProbeKind::SendExpect(steps) => send_expect::probe(stream, steps).await?,
            ProbeKind::Http(http) => http::probe(stream, &self.authority(), http).await?,
            ProbeKind::Grpc(service) => grpc::probe(stream, &self.authority(), service).await?,
            ProbeKind::Tls(_) => tls::end(stream).await,
        }
        Ok(passed)
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
