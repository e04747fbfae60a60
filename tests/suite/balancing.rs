//! Which backend a client gets: conformance H.
