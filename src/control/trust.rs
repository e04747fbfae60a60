//! Whom probes by TLS trust: what their settings name is read once, when a plan is loaded.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::config::plan::{Health, Pool, ProbeKind, Tls};

/// What a pool's probes need to speak TLS.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// How a handshake is made.
    pub(super) config: Arc<ClientConfig>,
    /// What it was made of: the certificates of authorities, in order.
    certificates: Arc<Vec<CertificateDer<'static>>>,
}

impl PartialEq for Trust {
    /// Whether they trust the same; the settings are compared elsewhere.
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

/// What each pool trusts, in their order; an error comes with the file and the pool. Reads files.
pub(super) fn read(pools: &[Arc<Pool>]) -> Result<Vec<Option<Trust>>, (String, io::Error)> {
    let mut known = HashMap::new();
    let mut all = Vec::with_capacity(pools.len());
    for pool in pools {
        let trust = match &pool.health {
            Health::Probed(probe) => match &probe.kind {
                ProbeKind::Tls(tls) => Some((&**tls, Vec::new())),
                ProbeKind::Http(http) => http.tls.as_ref().map(|tls| (tls, vec![ALPN.to_vec()])),
                _ => None,
            },
            Health::None => None,
        };
        let trust = trust.map(|(tls, alpn)| one(tls, alpn, &mut known));
        let named = |error| (pool.name.clone(), error);
        all.push(trust.transpose().map_err(named)?);
    }
    Ok(all)
}

/// What is spoken in https.
const ALPN: &[u8] = b"http/1.1";

type Certificates = Arc<Vec<CertificateDer<'static>>>;

fn one(
    tls: &Tls,
    alpn: Vec<Vec<u8>>,
    known: &mut HashMap<Option<PathBuf>, Certificates>,
) -> io::Result<Trust> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let (verifier, certificates): (Arc<dyn ServerCertVerifier>, _) = if tls.verify {
        let certificates = match known.get(&tls.ca) {
            Some(certificates) => Arc::clone(certificates),
            None => Arc::new(authorities(tls.ca.as_deref())?),
        };
        known.insert(tls.ca.clone(), Arc::clone(&certificates));
        let mut roots = RootCertStore::empty();
        // Of those of the system, some may be of a kind that is not supported.
        roots.add_parsable_certificates(certificates.iter().cloned());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        (verifier.build().map_err(io::Error::other)?, certificates)
    } else {
        (Arc::new(Anyone(provider)), Arc::default())
    };
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn;
    config.resumption = Resumption::disabled(); // the whole handshake is to be looked at
    Ok(Trust {
        config: Arc::new(config),
        certificates,
    })
}

/// Those of the file, or of the system.
fn authorities(file: Option<&Path>) -> io::Result<Vec<CertificateDer<'static>>> {
    let Some(path) = file else {
        let found = rustls_native_certs::load_native_certs();
        return match found.errors.into_iter().next() {
            _ if !found.certs.is_empty() => Ok(found.certs),
            Some(error) => Err(io::Error::other(error)),
            None => Err(io::Error::other("this system trusts nobody; set tls_ca")),
        };
    };
    let named = |error: &dyn std::fmt::Display| {
        io::Error::other(format!("tls_ca {}: {error}", path.display()))
    };
    let text = std::fs::read(path).map_err(|error| named(&error))?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| named(&error))?;
    match certificates.is_empty() {
        true => Err(named(&"no certificate in PEM")),
        false => Ok(certificates),
    }
}

/// Trusts whoever holds the key of the certificate that they show.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
