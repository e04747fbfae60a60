//! Floor 1: the kernel, thinly. The only folder where `unsafe` may be lifted.

pub mod socket;
pub mod splice;
