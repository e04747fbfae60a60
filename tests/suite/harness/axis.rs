//! The settings under which every case of the data path must hold.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The loopback address.
    pub const fn ip(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Self::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        }
    }

    /// The loopback address with any free port.
    pub const fn any(self) -> SocketAddr {
        SocketAddr::new(self.ip(), 0)
    }
}

/// One combination.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    pub family: Family,
    /// `global.splice`.
    pub splice: &'static str,
    pub workers: u32,
}

impl Axis {
    /// For a case that holds whatever the axis is.
    pub const PLAIN: Self = Self {
        family: Family::V4,
        splice: "auto",
        workers: 1,
    };

    /// For a case that depends on the family alone.
    pub const fn plain(family: Family) -> Self {
        Self {
            family,
            ..Self::PLAIN
        }
    }

    /// {IPv4, IPv6} × {copy, splice} × {1, 2 workers}.
    pub fn all() -> impl Iterator<Item = Self> {
        [Family::V4, Family::V6].into_iter().flat_map(|family| {
            ["off", "always"].into_iter().flat_map(move |splice| {
                [1, 2].into_iter().map(move |workers| Self {
                    family,
                    splice,
                    workers,
                })
            })
        })
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            family,
            splice,
            workers,
        } = self;
        write!(f, "{family:?}, splice {splice}, {workers} workers")
    }
}

/// Runs a case on every axis; a failure says on which.
pub fn on_every_axis(case: impl Fn(Axis)) {
    for axis in Axis::all() {
        println!("axis: {axis}");
        case(axis);
    }
}
