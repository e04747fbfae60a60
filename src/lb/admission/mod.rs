//! May it come in? Limits and what they are derived from.

pub mod access;
pub mod budget;
pub mod queue;
pub mod rate;
pub mod source;
pub mod sticky;
