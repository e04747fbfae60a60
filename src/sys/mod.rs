//! Floor 1: the kernel, thinly. The only folder where `unsafe` may be lifted.

pub mod batch;
pub mod datagram;
pub mod inherited;
pub mod interface;
pub mod limits;
pub mod privilege;
pub mod process;
pub mod sandbox;
pub mod socket;
pub mod source;
pub mod splice;
