//! Which backend? One algorithm per file; [`pick`] is the one entry.

pub mod key;
pub mod pick;
