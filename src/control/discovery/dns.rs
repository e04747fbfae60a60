//! Backends that the Domain Name System names.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, Record, RecordType};

use super::{Asked, Sighting, USUAL_WEIGHT};
use crate::config::plan::Question;

/// Asks for all backends.
pub(super) async fn look(
    asked: &Asked,
    question: &Question,
    server: Option<SocketAddr>,
) -> Result<Sighting, String> {
    let resolver = resolver(server).map_err(|error| error.to_string())?;
    let found = match question {
        Question::Addresses(host, port) => addresses(&resolver, host).await.map(|found| {
            let addresses = found.addresses.into_iter();
            let backends = addresses.map(|ip| asked.backend(SocketAddr::new(ip, *port)));
            (backends.collect(), found.lasts)
        }),
        Question::Service(name) => service(&resolver, asked, name).await,
    };
    let (backends, lasts) = found.map_err(|error| error.to_string())?;
    Ok(Sighting {
        backends,
        lasts: lasts.clamp(LASTS_MIN, LASTS_MAX),
    })
}

/// Made anew each time, since the system's name servers may be others by then.
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, NetError> {
    let mut builder = match server {
        None => TokioResolver::builder_tokio()?,
        Some(server) => {
            let mut config = NameServerConfig::udp_and_tcp(server.ip());
            for connection in &mut config.connections {
                connection.port = server.port();
            }
            let config = ResolverConfig::from_name_servers(vec![config]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.cache_size = 0; // an answer is asked for when the one before has expired
    options.timeout = TIMEOUT;
    builder.build()
}

/// Addresses of a host.
struct Addresses {
    addresses: Vec<IpAddr>,
    lasts: Duration,
}

/// Of both families. Where one cannot be had, the other is what there is.
async fn addresses(resolver: &TokioResolver, host: &str) -> Result<Addresses, NetError> {
    let (v4, v6) = tokio::join!(
        records(resolver, host, RecordType::A),
        records(resolver, host, RecordType::AAAA)
    );
    let records = match (v4, v6) {
        (Ok(v4), Ok(v6)) => [v4, v6].concat(),
        (Ok(some), Err(_)) | (Err(_), Ok(some)) if !some.is_empty() => some,
        (Err(error), _) | (_, Err(error)) => return Err(error),
    };
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0).to_canonical()),
        _ => None,
    };
    Ok(Addresses {
        addresses: records.iter().filter_map(address).collect(),
        lasts: lasts(&records),
    })
}

/// The servers of a service. Those of the first priority are used, and the others are backups; a weight
/// of 0 is the least there is (RFC 2782).
async fn service(
    resolver: &TokioResolver,
    asked: &Asked,
    name: &str,
) -> Result<(Vec<(super::Backend, super::Target)>, Duration), NetError> {
    let records = records(resolver, name, RecordType::SRV).await?;
    let mut least = lasts(&records);
    let servers = records.iter().filter_map(|record| match &record.data {
        RData::SRV(server) if !server.target.is_root() => Some(server),
        _ => None,
    });
    let servers: Vec<_> = servers.take(SERVERS_MAX).collect();
    let first = servers.iter().map(|server| server.priority).min();
    let has_weights = servers.iter().any(|server| server.weight > 0);
    let mut backends = Vec::new();
    for server in servers {
        let found = addresses(resolver, &server.target.to_string()).await?;
        least = least.min(found.lasts);
        for ip in found.addresses {
            let (mut backend, target) = asked.backend(SocketAddr::new(ip, server.port));
            backend.backup = Some(server.priority) != first;
            backend.weight = if has_weights {
                server.weight.max(1)
            } else {
                USUAL_WEIGHT
            };
            backends.push((backend, target));
        }
    }
    Ok((backends, least))
}

/// None where there are none.
async fn records(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<Vec<Record>, NetError> {
    match resolver.lookup(name, kind).await {
        Ok(found) => Ok(found.answers().to_vec()),
        Err(error) if error.is_no_records_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn lasts(records: &[Record]) -> Duration {
    let least = records.iter().map(|record| record.ttl).min();
    least.map_or(Duration::ZERO, |ttl| Duration::from_secs(ttl.into()))
}

/// Servers of a service that are looked up at most, one after the other.
const SERVERS_MAX: usize = 1024;

/// For one question to one name server.
const TIMEOUT: Duration = Duration::from_secs(2);

/// An answer that may not be kept at all, or says that there is nothing, is asked for no more often.
const LASTS_MIN: Duration = Duration::from_secs(1);

/// A mistake in a zone is not waited for any longer.
const LASTS_MAX: Duration = Duration::from_secs(60 * 60);
