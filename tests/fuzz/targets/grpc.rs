//! The two messages of a health check of gRPC.
#![no_main]

use evenkeel::wire::grpc::{check_request, check_response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check_response(bytes);
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    check_response(&[&[0], &length[..], bytes].concat());
    if let Ok(service) = str::from_utf8(bytes) {
        let request = check_request(service);
        assert!(request.ends_with(bytes) && request.len() <= bytes.len() + 5 + 1 + 10);
    }
});
