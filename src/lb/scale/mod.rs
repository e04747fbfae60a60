//! How many instances? A pool's own are started and stopped as its load asks for: [`scaler`] says which
//! and when. It starts nothing itself, and knows of an instance what it is told.

pub mod demand;
pub mod instance;
pub mod scaler;
