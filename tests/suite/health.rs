//! Probes and what follows from them: conformance G.
