//! Where backends are found, as it is written.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::address;
use crate::config::error::{Problems, Wrong};
use crate::config::keys::quoted;
use crate::config::plan::{Address, Discover, Origin, Question};
use crate::config::reader::Reader;

/// Also whether anything is asked for, be it wrong.
pub(super) fn discover(
    reader: &Reader<'_>,
    max_connections: u32,
    problems: &Problems,
) -> (Discover, bool) {
    let question = reader.parsed("dns", question).and_then(|found| found.value);
    let resolver = reader
        .parsed("resolver", resolver)
        .and_then(|found| found.value);
    let file = reader.parsed("file", file).and_then(|found| found.value);
    if resolver.is_some() && question.is_none() {
        let wrong = Wrong::new(
            "`resolver` is for `dns`",
            "say what it is asked, or remove it",
        );
        problems.value(reader.place("resolver"), wrong);
    }
    let dns = question.map(|question| Origin::Dns { question, resolver });
    let discover = Discover {
        origins: dns.into_iter().chain(file.map(Origin::File)).collect(),
        keeps_last: reader.flag("keep_last"),
        max_connections,
    };
    let is_given = |key| reader.place(key) != reader.at();
    let is_asked = is_given("dns") || is_given("file");
    (discover, is_asked)
}

fn question(text: &str) -> Result<Option<Question>, Wrong> {
    const CURE: &str = "write HOST:PORT, or srv:NAME such as \"srv:_http._tcp.example\"";
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(name) = text.strip_prefix("srv:") {
        let is_name = address::is_host_name(name);
        let name = is_name.then(|| Question::Service(name.to_ascii_lowercase()));
        let wrong = || Wrong::new(format!("{} is no name of a service", quoted(text)), CURE);
        return name.map(Some).ok_or_else(wrong);
    }
    match address::backend(text)? {
        Address::Host(host, port) if !host.contains('%') => {
            Ok(Some(Question::Addresses(host, port)))
        }
        _ => Err(Wrong::new(
            format!("{} is no name to look up", quoted(text)),
            CURE,
        )),
    }
}

fn resolver(text: &str) -> Result<Option<SocketAddr>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    match address::backend(text)? {
        Address::Ip(address) => Ok(Some(address)),
        _ => Err(Wrong::new(
            format!("{} is no IP:PORT", quoted(text)),
            "write IP:PORT",
        )),
    }
}

fn file(text: &str) -> Result<Option<PathBuf>, Wrong> {
    match text {
        "" => Ok(None),
        _ if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        _ => {
            let what = format!("{} is not an absolute path", quoted(text));
            Err(Wrong::new(what, "write /PATH"))
        }
    }
}
