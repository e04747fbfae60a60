//! Parts of the keys by which clients are known, as they are written.

use super::error::Wrong;
use super::keys::quoted;
use super::reader::match_word;
use crate::lb::balance::key::{KeyPart, Part};
use crate::wire::http_head::is_token;

/// Reads one, such as "source_ip" or "http_header/authorization".
pub(super) fn parse(text: &str) -> Result<KeyPart, Wrong> {
    if let Some((word, argument)) = text.split_once('/') {
        let wrong = |what: &str, cure: &str| {
            let what = format!("{} has no usable {what}", quoted(text));
            Err(Wrong::new(what, cure))
        };
        return match word {
            "source_net" => match number(argument, 10) {
                Some(bits @ 1..=128) => Ok(KeyPart::SourceNet(bits)),
                _ => wrong("length", "write source_net/N with N from 1 to 128"),
            },
            "proxy_tlv" => {
                let kind = match argument.strip_prefix("0x") {
                    Some(digits) => number(digits, 16),
                    None => number(argument, 10),
                };
                match kind {
                    Some(kind) => Ok(KeyPart::Said(Part::ProxyTlv(kind))),
                    None => wrong("type", "write proxy_tlv/TYPE such as proxy_tlv/0xE0"),
                }
            }
            "first_bytes" => match number(argument, 10) {
                Some(count @ 1_u16..) => Ok(KeyPart::Said(Part::FirstBytes(count))),
                _ => wrong("length", "write first_bytes/N with N from 1 to 65535"),
            },
            "http_header" if is_token(argument.as_bytes()) => Ok(KeyPart::Said(Part::HttpHeader(
                argument.to_ascii_lowercase(),
            ))),
            "http_header" => wrong(
                "name",
                "write http_header/NAME such as http_header/authorization",
            ),
            _ => Err(unknown(text)),
        };
    }
    match match_word(text, WORDS) {
        Ok("source_ip") => Ok(KeyPart::SourceIp),
        Ok("source_port") => Ok(KeyPart::SourcePort),
        Ok("destination_ip") => Ok(KeyPart::DestinationIp),
        Ok("destination_port") => Ok(KeyPart::DestinationPort),
        Ok("sni") => Ok(KeyPart::Said(Part::Sni)),
        Ok("alpn") => Ok(KeyPart::Said(Part::Alpn)),
        Ok(_) => Ok(KeyPart::Said(Part::HttpPath)),
        Err(Some(wrong)) => Err(wrong),
        Err(None) => Err(unknown(text)),
    }
}

/// How it is written.
pub(super) fn word(part: &KeyPart) -> String {
    match part {
        KeyPart::SourceIp => "source_ip".to_owned(),
        KeyPart::SourcePort => "source_port".to_owned(),
        KeyPart::DestinationIp => "destination_ip".to_owned(),
        KeyPart::DestinationPort => "destination_port".to_owned(),
        KeyPart::SourceNet(bits) => format!("source_net/{bits}"),
        KeyPart::Said(part) => said_word(part),
    }
}

/// The same of what a client says.
pub(super) fn said_word(part: &Part) -> String {
    match part {
        Part::Sni => "sni".to_owned(),
        Part::Alpn => "alpn".to_owned(),
        Part::HttpPath => "http_path".to_owned(),
        Part::HttpHeader(name) => format!("http_header/{name}"),
        Part::FirstBytes(count) => format!("first_bytes/{count}"),
        Part::ProxyTlv(kind) => format!("proxy_tlv/{kind:#04X}"),
    }
}

fn unknown(text: &str) -> Wrong {
    let what = format!("{} is no part of a key", quoted(text));
    Wrong::new(what, format!("use {}, {WITH_ARGUMENT}", WORDS.join(", ")))
}

/// A number of digits alone.
fn number<N: TryFrom<u32>>(digits: &str, radix: u32) -> Option<N> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let number = u32::from_str_radix(digits, radix).ok().filter(|_| is_plain);
    number.and_then(|number| N::try_from(number).ok())
}

const WORDS: &[&str] = &[
    "source_ip",
    "source_port",
    "destination_ip",
    "destination_port",
    "sni",
    "alpn",
    "http_path",
];

const WITH_ARGUMENT: &str = "source_net/N, http_header/NAME, first_bytes/N, proxy_tlv/TYPE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_so() {
        for text in [
            "source_ip",
            "source_net/24",
            "sni",
            "alpn",
            "http_path",
            "http_header/x-user",
            "first_bytes/512",
            "proxy_tlv/0xE0",
            "proxy_tlv/0x05",
        ] {
            let part = parse(text).expect(text);
            assert_eq!(word(&part), text);
        }
        assert_eq!(parse("proxy_tlv/224"), parse("proxy_tlv/0xe0"));
        assert_eq!(parse("http_header/X-User"), parse("http_header/x-user"));
        for wrong in [
            "",
            "source",
            "source_net/0",
            "source_net/+1",
            "proxy_tlv/256",
            "proxy_tlv/0x",
            "http_header/",
            "http_header/a b",
            "first_bytes/0",
            "first_bytes/65536",
            "sni/1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
