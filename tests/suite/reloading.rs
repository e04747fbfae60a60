//! Reload, drain and signals: conformance I.
