//! Is it well? Verdicts from observations; the probes themselves live in `control::prober`.

pub mod counter;
pub mod finding;
pub mod outlier;
pub mod panic;
pub mod schedule;
pub mod slow_start;
