//! Time-outs: conformance D.
