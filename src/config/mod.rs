//! Floor 0: text ⇄ settings. Takes `&str`; opens no file.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod plan;
