//! A configuration, from text to plan. One that is accepted is the same when it is read again;
//! one that is not names places in the text.
#![no_main]

use evenkeel::config::diff::diff;
use evenkeel::config::{MAX_ERRORS, load_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match load_bytes(bytes, "evenkeel.toml") {
        Ok(plan) => {
            let again = load_bytes(bytes, "evenkeel.toml").expect("it has been accepted");
            let changes = diff(&plan, &again);
            assert!(changes.is_empty(), "{changes:?}");
        }
        Err(errors) => {
            assert!(!errors.list.is_empty() && errors.list.len() <= MAX_ERRORS);
            let lines = bytes.split(|&byte| byte == b'\n').count();
            for error in &errors.list {
                assert!((1..=lines).contains(&error.line), "{error}");
                assert!(error.column >= 1 && !error.what.is_empty());
            }
            assert!(errors.to_string().starts_with("evenkeel.toml:"));
        }
    }
});
