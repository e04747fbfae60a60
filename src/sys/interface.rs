//! Network interfaces.

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};

/// The number of the interface called `name`; an error if there is none.
pub fn index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// The addresses of this host, IPv4-mapped ones as the IPv4 addresses they mean.
pub fn addresses() -> io::Result<Vec<IpAddr>> {
    let ip = |address: InterfaceAddress| {
        let address = address.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
    };
    Ok(getifaddrs()?
        .filter_map(ip)
        .map(|ip| ip.to_canonical())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_loopback_address() {
        assert!(addresses().unwrap().contains(&[127, 0, 0, 1].into()));
    }
}
