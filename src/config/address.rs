//! Addresses as people write them: `10.0.0.1:80`, `[::1]:80`, `[fe80::1%2]:80`, `host:80`,
//! `unix:/path`.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

use super::error::Wrong;
use super::keys::quoted;
use super::plan::{Address, Bind};
use crate::lb::admission::access::Prefix;

/// The longest path of a Unix socket, in bytes: `sun_path` less its closing NUL.
pub(super) const MAX_UNIX_PATH: usize = 107;

/// The longest host name, in bytes (RFC 1035, 2.3.4).
pub(super) const MAX_HOST: usize = 253;

/// Reads an address to listen on, for datagrams or for streams. IPv4-mapped IPv6 addresses become
/// IPv4.
pub(super) fn bind(text: &str, is_udp: bool) -> Result<Bind, Wrong> {
    const FORMS: &str = "write IP:PORT, [IPV6]:PORT or unix:/PATH";
    if let Some(path) = text.strip_prefix("unix:") {
        if is_udp {
            let what = format!("{text:?} takes streams, not datagrams");
            return Err(Wrong::new(what, "write IP:PORT or [IPV6]:PORT"));
        }
        return Ok(Bind::Unix(unix_path(text, path, "unix:/PATH")?));
    }
    let (host, port) = host_and_port(text, FORMS, 0)?;
    match ip(host, port) {
        Some(address) if is_udp => Ok(Bind::Udp(address)),
        Some(address) => Ok(Bind::Tcp(address)),
        None => Err(Wrong::new(
            format!("{text:?} is not an address of this machine's own"),
            format!("{FORMS}; a listener takes no host names"),
        )),
    }
}

/// Reads an address to listen on that people ask by HTTP.
pub(super) fn ip_and_port(text: &str) -> Result<SocketAddr, Wrong> {
    const FORMS: &str = "write IP:PORT or [IPV6]:PORT";
    let (host, port) = host_and_port(text, FORMS, 0)?;
    ip(host, port).ok_or_else(|| {
        let what = format!("{text:?} is not an address of this machine's own");
        Wrong::new(what, FORMS)
    })
}

/// Reads a network of clients, or the address of one.
pub(super) fn network(text: &str) -> Result<Prefix, Wrong> {
    let parse = || {
        let Some((address, digits)) = text.split_once('/') else {
            let address: IpAddr = text.parse().ok()?;
            return Some((address, Prefix::of(address)));
        };
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = digits.parse().ok().filter(|_| is_number)?;
        let address: IpAddr = address.parse().ok()?;
        Some((address, Prefix::holding(address, bits)?))
    };
    let Some((address, prefix)) = parse() else {
        let cure = "write an address, or one and its bits: 10.0.0.0/8, 2001:db8::/32";
        return Err(Wrong::new(format!("{} is no network", quoted(text)), cure));
    };
    let is_v4 = prefix.network().is_ipv4();
    let own = if is_v4 {
        address.to_canonical()
    } else {
        address
    };
    if own != prefix.network() {
        let what = format!("{} has bits set beyond its length", quoted(text));
        return Err(Wrong::new(what, format!("write {prefix} or {own}")));
    }
    Ok(prefix)
}

/// Reads a backend's address. IPv4-mapped IPv6 addresses become IPv4; host names become lower
/// case. A scope that is an interface's name stays text, as the kernel alone knows its number.
pub(super) fn backend(text: &str) -> Result<Address, Wrong> {
    const FORMS: &str = "write IP:PORT, [IPV6]:PORT, HOST:PORT or unix:/PATH";
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Address::Unix(unix_path(text, path, "unix:/PATH")?));
    }
    let (host, port) = host_and_port(text, FORMS, 1)?;
    if let Some(address) = ip(host, port) {
        if address.ip().is_unspecified() {
            return Err(Wrong::new(
                format!("{text:?} is an address to listen on, not one to connect to"),
                "name the backend's own address",
            ));
        }
        return Ok(Address::Ip(address));
    }
    let scoped = scoped_host(host);
    if scoped.is_some() || is_host_name(host) {
        let name = scoped.map_or_else(|| host.to_ascii_lowercase(), str::to_owned);
        return Ok(Address::Host(name, port));
    }
    Err(Wrong::new(format!("{text:?} is not an address"), FORMS))
}

/// `path` as that of a Unix socket, which `text` names in this `form`.
pub(super) fn unix_path(text: &str, path: &str, form: &str) -> Result<PathBuf, Wrong> {
    let form = format!("write {form}");
    let wrong = |what: &str, cure: &str| Err(Wrong::new(format!("{text:?} {what}"), cure));
    if path.starts_with(['@', '\0']) {
        wrong(
            "is an abstract Unix socket, which has no permissions",
            &form,
        )
    } else if !path.starts_with('/') {
        wrong("is not an absolute path", &form)
    } else if path.contains('\0') {
        wrong("holds a NUL", "take it out")
    } else if path.len() > MAX_UNIX_PATH {
        let cure = format!("use a path of at most {MAX_UNIX_PATH} bytes");
        wrong("is too long for a Unix socket", &cure)
    } else {
        Ok(PathBuf::from(path))
    }
}

/// Splits `host:port`; an IPv6 host keeps its brackets. A listener may have port 0, any free one.
fn host_and_port<'a>(text: &'a str, forms: &str, least: u16) -> Result<(&'a str, u16), Wrong> {
    let wrong = |what: &str, cure: &str| Err(Wrong::new(format!("{text:?} {what}"), cure));
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.ends_with(']') => (host, port),
        _ => return wrong("has no host and port", forms),
    };
    if host.contains(':') && !host.starts_with('[') {
        return wrong(
            "is ambiguous",
            "put an IPv6 address in brackets: [IPV6]:PORT",
        );
    }
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if !digits && port.contains('-') && port.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
        return wrong("is a range of ports", "write one address for each port");
    }
    match port.parse() {
        Ok(port) if digits && port >= least => Ok((host, port)),
        _ => wrong(
            "has no usable port",
            &format!("end it with a port from {least} to 65535"),
        ),
    }
}

/// `host` as an IP address, with brackets if and only if it is IPv6.
fn ip(host: &str, port: u16) -> Option<SocketAddr> {
    let Some(inner) = host.strip_prefix('[') else {
        return host
            .parse()
            .ok()
            .map(|v4| SocketAddr::new(IpAddr::V4(v4), port));
    };
    let inner = inner.strip_suffix(']')?;
    let (address, scope) = match inner.split_once('%') {
        Some((address, scope)) => (address, scope.parse().ok()?),
        None => (inner, 0),
    };
    let v6: std::net::Ipv6Addr = address.parse().ok()?;
    Some(match v6.to_ipv4_mapped() {
        Some(v4) => SocketAddr::new(IpAddr::V4(v4), port),
        None => SocketAddr::V6(SocketAddrV6::new(v6, port, 0, scope)),
    })
}

/// `fe80::1%eth0` out of `[fe80::1%eth0]`.
fn scoped_host(host: &str) -> Option<&str> {
    let inner = host.strip_prefix('[')?.strip_suffix(']')?;
    let (address, scope) = inner.split_once('%')?;
    address.parse::<std::net::Ipv6Addr>().ok()?;
    // An interface's name: IFNAMSIZ is 16 with its NUL.
    let named = (1..16).contains(&scope.len())
        && scope
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'%');
    named.then_some(inner)
}

/// Letters, digits, `-`, `_` and `.`, as the resolver takes them; all digits and dots would be a
/// mistyped IPv4 address.
pub(super) fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = host
        .strip_suffix('.')
        .unwrap_or(host)
        .rsplit('.')
        .next()
        .unwrap_or_default();
    host.len() <= MAX_HOST
        && host.strip_suffix('.').unwrap_or(host).split('.').all(label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "{address}/udp"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_come_back_as_they_were() {
        for text in [
            "10.0.0.1:1",
            "[::1]:65535",
            "[fe80::1%2]:80",
            "[fe80::1%eth0]:80",
            "db.internal:5432",
            "a_b:80",
            "unix:/run/app.sock",
        ] {
            let address = backend(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "0.0.0.0:80",
            "[::]:80",
            "[fe80::1%2]:80",
            "unix:/run/app.sock",
        ] {
            assert_eq!(bind(text, false).expect(text).to_string(), text);
        }
    }

    #[test]
    fn networks_have_no_bits_of_their_hosts() {
        for text in [
            "10.0.0.0/8",
            "10.0.0.1/32",
            "0.0.0.0/0",
            "::/0",
            "2001:db8::/32",
        ] {
            assert_eq!(network(text).expect(text).to_string(), text);
        }
        assert_eq!(network("::1").expect("an address").to_string(), "::1/128");
        assert_eq!(network("::ffff:10.0.0.0/104"), network("10.0.0.0/8"));
        let wrong = network("::ffff:10.1.2.3/104").expect_err("bits of hosts");
        assert_eq!(wrong.cure, "write 10.0.0.0/8 or 10.1.2.3");
    }

    #[test]
    fn addresses_have_one_form() {
        assert_eq!(backend("[::ffff:10.0.0.1]:80"), backend("10.0.0.1:80"));
        assert_eq!(
            bind("[::ffff:10.0.0.1]:80", false),
            bind("10.0.0.1:80", false)
        );
        assert_eq!(backend("DB.Internal:80"), backend("db.internal:80"));
        assert_eq!(
            backend("[fe80::1%eth0]:80"),
            Ok(Address::Host("fe80::1%eth0".to_owned(), 80))
        );
    }

    #[test]
    fn bad_addresses_are_told_apart() {
        let long = format!("unix:/{}", "x".repeat(MAX_UNIX_PATH));
        for (text, expected) in [
            ("", "has no host and port"),
            (":80", "has no host and port"),
            ("10.0.0.1", "has no host and port"),
            ("[::1]", "has no host and port"),
            ("::1:80", "is ambiguous"),
            ("10.0.0.1:8000-8010", "is a range of ports"),
            ("10.0.0.1:", "has no usable port"),
            ("10.0.0.1:0", "has no usable port"),
            ("10.0.0.1:65536", "has no usable port"),
            ("10.0.0.1:+80", "has no usable port"),
            ("10.0.0.1:http", "has no usable port"),
            ("10.0.0.256:80", "is not an address"),
            ("[10.0.0.1]:80", "is not an address"),
            ("[::1%]:80", "is not an address"),
            ("http://a:80", "is ambiguous"),
            ("a b:80", "is not an address"),
            ("-a:80", "is not an address"),
            ("0.0.0.0:80", "is an address to listen on"),
            ("[::]:80", "is an address to listen on"),
            ("unix:@app", "is an abstract Unix socket"),
            ("unix:\0app", "is an abstract Unix socket"),
            ("unix:app", "is not an absolute path"),
            ("unix:/a\0b", "holds a NUL"),
            (&long, "is too long for a Unix socket"),
        ] {
            let wrong = backend(text).expect_err(text);
            assert!(wrong.what.contains(expected), "{text:?}: {wrong:?}");
        }
        assert!(
            bind("localhost:80", false)
                .expect_err("a name")
                .cure
                .contains("no host names")
        );
    }
}
