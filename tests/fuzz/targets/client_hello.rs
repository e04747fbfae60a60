//! The first message of TLS, which is put into records of another length and read again.
#![no_main]

use evenkeel::wire::Stop;
use evenkeel::wire::client_hello::{Name, Wrong, parse};
use evenkeel_fuzz::by_prefix;
use libfuzzer_sys::fuzz_target;

type Told = (Option<String>, Vec<Name>);

fn read(bytes: &[u8]) -> Result<Told, Stop<Wrong>> {
    parse(bytes).map(|hello| {
        let name = hello.server_name().map(str::to_owned);
        (name, hello.protocols().collect())
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(told) = by_prefix(bytes, read) else {
        return;
    };
    assert!(told.1.iter().all(|name| !name.bytes().is_empty()));
    let mut message = Vec::new();
    let mut rest = bytes;
    while let Some((&[22, 3, _, high, low], behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let fragment = &behind[..length.min(behind.len())];
        message.extend_from_slice(fragment);
        rest = &behind[fragment.len()..];
    }
    let mut cut = Vec::new();
    for fragment in message.chunks(61) {
        cut.extend([22, 3, 3, 0, u8::try_from(fragment.len()).unwrap()]);
        cut.extend(fragment);
    }
    assert_eq!(read(&cut), Ok(told));
});
