//! The PROXY protocol's header as it comes. What has been read of it is made and read again.
#![no_main]

use evenkeel::wire::proxy_header::parse::{Origin, RECEIVED_MAX, Versions, parse};
use evenkeel::wire::proxy_header::{Header, Transport};
use evenkeel_fuzz::by_prefix;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let of = |versions| by_prefix(bytes, |bytes| parse(bytes, versions));
    let (v1, v2, any) = (of(Versions::V1), of(Versions::V2), of(Versions::Any));
    let Ok(header) = any else {
        assert!(v1.is_err() && v2.is_err());
        return;
    };
    assert!(v1 == any || v2 == any);
    assert!(header.length <= bytes.len() && header.length <= RECEIVED_MAX);
    for kind in 0..=u8::MAX {
        let value = header.extension(kind).unwrap_or_default();
        assert!(value.len() <= header.length);
    }
    if let Origin::Client(ends) = header.origin {
        for made in [
            Header::v1(Some(ends)),
            Header::v2(Transport::Stream, Some(ends)),
            Header::v2(Transport::Datagram, Some(ends)),
        ] {
            let again = parse(made.as_bytes(), Versions::Any);
            assert_eq!(again.map(|header| header.origin), Ok(header.origin));
        }
    }
});
