//! What now with these bytes?

pub mod cause;
pub mod deadline;
pub mod flow;
pub mod latency;
pub mod phase;
pub mod relay;
