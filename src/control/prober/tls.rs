//! TLS on a connection: a handshake, and how long the server's certificate holds.

use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::connection::Connection;
use crate::config::plan::Tls;
use crate::control::trust::Trust;
use crate::wire::certificate;

/// A connection by TLS, and when the certificate ends, in seconds since 1970.
pub(super) struct Secured {
    pub(super) stream: Connection,
    pub(super) ends: Option<u64>,
}

/// Makes the handshake by `stream` with the server of this name, unless the settings have another.
pub(super) async fn secure(
    stream: Connection,
    name: &str,
    tls: &Tls,
    trust: &Trust,
) -> io::Result<Secured> {
    let name = tls.server_name.as_deref().unwrap_or(name).to_owned();
    let name = ServerName::try_from(name).map_err(failed)?;
    let connector = TlsConnector::from(Arc::clone(&trust.config));
    let stream = connector.connect(name, stream).await.map_err(failed)?;
    let certificates = stream.get_ref().1.peer_certificates();
    let ends = certificates.and_then(|all| certificate::not_after(all.first()?));
    Ok(Secured {
        stream: Box::new(stream),
        ends,
    })
}

/// Says goodbye.
pub(super) async fn end(mut stream: Connection) {
    // It has proved what it should; that it goes first is no fault.
    drop(stream.shutdown().await);
}

fn failed(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("no TLS: {error}"))
}
