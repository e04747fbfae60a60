//! The configuration and the command line: conformance J.
