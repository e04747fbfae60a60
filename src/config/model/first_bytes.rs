//! What is made of a client's first bytes, as it is written.

use super::{Route, networks};
use crate::config::error::Wrong;
use crate::config::keys::quoted;
use crate::config::plan::Preread;
use crate::config::reader::{Reader, Written};
use crate::config::units;
use crate::lb::balance::route::{Field, HostPattern, Rule};
use crate::wire::http_head::is_token;
use crate::wire::proxy_header::parse::Versions;

pub(super) fn accept_proxy(reader: &Reader<'_>) -> Written<Option<Versions>> {
    let written = reader.word("accept_proxy");
    Written {
        value: match written.value {
            "v1" => Some(Versions::V1),
            "v2" => Some(Versions::V2),
            "any" => Some(Versions::Any),
            _ => None,
        },
        at: written.at,
        given: written.given,
    }
}

pub(super) fn preread(reader: &Reader<'_>) -> Preread {
    let size = |text: &str| {
        units::size(text, 1 << 10..=64 << 10).ok_or_else(|| {
            let cure = "write a size such as 16KiB, of 1KiB up to 64KiB";
            Wrong::new(format!("{} is no size that fits", quoted(text)), cure)
        })
    };
    let written = reader.parsed("size", size);
    Preread {
        timeout: reader.duration("timeout").value,
        size: written.expect("the row has a default").value,
    }
}

pub(super) fn route(reader: &Reader<'_>) -> Route {
    let rule = Rule {
        source: networks(reader, "source"),
        sni: texts(reader, "sni", host),
        alpn: texts(reader, "alpn", protocol),
        http_host: texts(reader, "http_host", host),
        http_path: texts(reader, "http_path", path),
        http_header: texts(reader, "http_header", field),
    };
    Route {
        at: reader.at(),
        rule,
        pool: reader.parsed("pool", |text| Ok(text.to_owned())),
    }
}

fn texts<T>(reader: &Reader<'_>, key: &str, parse: fn(&str) -> Result<T, Wrong>) -> Vec<T> {
    let found = reader.each(key, parse);
    let found = found.map(|found| found.value).unwrap_or_default();
    found.into_iter().map(|text| text.value).collect()
}

fn host(text: &str) -> Result<HostPattern, Wrong> {
    HostPattern::parse(text).ok_or_else(|| {
        let cure = "write one such as \"a.example\", or \"*.a.example\" for all below it";
        Wrong::new(format!("{} is no name of a host", quoted(text)), cure)
    })
}

fn protocol(text: &str) -> Result<String, Wrong> {
    if (1..=255).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    let what = format!("{} is no name of a protocol", quoted(text));
    Err(Wrong::new(what, "write 1 to 255 bytes, such as \"h2\""))
}

fn path(text: &str) -> Result<String, Wrong> {
    let is_visible = |byte: u8| (b'!'..=b'~').contains(&byte) && byte != b'?' && byte != b'#';
    if text.starts_with('/') && text.bytes().all(is_visible) {
        return Ok(text.to_owned());
    }
    let what = format!("{} is no beginning of a path", quoted(text));
    Err(Wrong::new(
        what,
        "begin it with /, without query and spaces",
    ))
}

fn field(text: &str) -> Result<Field, Wrong> {
    let is_visible = |byte: u8| (b' '..=b'~').contains(&byte);
    if let Some((name, value)) = text.split_once(':')
        && is_token(name.as_bytes())
        && value.bytes().all(is_visible)
    {
        return Ok(Field {
            name: name.to_ascii_lowercase(),
            value: value.trim().to_owned(),
        });
    }
    let what = format!("{} is no field of a request", quoted(text));
    Err(Wrong::new(
        what,
        "write its name and its value, such as \"x-model: llama\"",
    ))
}
