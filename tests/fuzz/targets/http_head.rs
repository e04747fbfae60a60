//! The head of a request of HTTP/1.
#![no_main]

use evenkeel::wire::http_head::parse;
use evenkeel_fuzz::by_prefix;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let line = by_prefix(bytes, |bytes| {
        parse(bytes).map(|head| (head.method(), head.path()))
    });
    let host = by_prefix(bytes, |bytes| parse(bytes)?.host());
    let field = by_prefix(bytes, |bytes| parse(bytes)?.field("authorization"));
    if let Ok((method, path)) = line {
        assert!(!method.is_empty() && !path.contains(&b'?') && !path.contains(&b' '));
    } else {
        assert!(host.is_err() && field.is_err());
    }
    if let Ok(Some(host)) = host {
        assert!(!host.is_empty() && !host.contains(['/', '@', ' ']));
    }
    if let Ok(Some(value)) = field {
        assert!(!value.contains(&b'\n') && value.trim_ascii() == value);
    }
});
