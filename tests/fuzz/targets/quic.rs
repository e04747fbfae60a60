//! The server that a datagram of QUIC names, and ids as they are written.
#![no_main]

use evenkeel::wire::quic::{SERVER_ID_MAX, ServerId, server_of};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for length in (0..=SERVER_ID_MAX + 1).chain([usize::MAX]) {
        if let Some(server) = server_of(bytes, length) {
            assert_eq!(server.bytes().len(), length);
            assert!(bytes.windows(length).any(|window| window == server.bytes()));
            assert_eq!(ServerId::from_hex(&server.to_string()), Some(server));
        }
    }
    if let Ok(text) = str::from_utf8(bytes)
        && let Some(server) = ServerId::from_hex(text)
    {
        assert_eq!(server.to_string(), text.to_ascii_lowercase());
    }
});
