//! Network interfaces by name.

use std::io;

/// The number of the interface called `name`; an error if there is none.
pub fn index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}
