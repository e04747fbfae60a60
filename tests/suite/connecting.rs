//! Connecting to backends and trying again: conformance B.
