//! Why the product's parser and others may differ. Each rule is as narrow as it can be.

use evenkeel::wire::proxy_header::parse::{LINE_MAX, RECEIVED_MAX, Wrong};

use super::parsers::{Verdict, extensions, our_reason, ours, ppp, proxy_header, same_extensions};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    RefusedEarly,
    JudgedBeforeTheEnd,
    LocalIsSkipped,
    HalfUnspecified,
    ExtensionNotWhole,
    WrongChecksum,
    LongerThanOurLimit,
    LineTooLong,
    SignedOrPaddedPort,
    UnknownRunsOn,
    HalfALineBreak,
    NoSpace,
    NotText,
    ManyWords,
}

impl Rule {
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RefusedEarly => "waits for more where nothing could make it a header",
            Self::JudgedBeforeTheEnd => "judges a line before its end has come",
            Self::LocalIsSkipped => "looks at the family of LOCAL, which is to be ignored",
            Self::HalfUnspecified => "reads or refuses a family or transport that is unspecified",
            Self::ExtensionNotWhole => "leaves extensions that are not whole to its user",
            Self::WrongChecksum => "leaves checksums to its user",
            Self::LongerThanOurLimit => "has no limit of its own",
            Self::LineTooLong => "takes lines of more than 107 bytes",
            Self::SignedOrPaddedPort => "takes ports with a plus sign or zeros ahead",
            Self::UnknownRunsOn => "takes words that begin with UNKNOWN",
            Self::HalfALineBreak => "takes half a line break for a space, or a whole one",
            Self::NoSpace => "does not look at what stands behind PROXY",
            Self::NotText => {
                "refuses UNKNOWN followed by what is not UTF-8, which is to be ignored"
            }
            Self::ManyWords => "finds no end of UNKNOWN followed by many words",
        }
    }
}

/// The rule that explains why `ours` is what the product says of `bytes`, and `theirs` what `name`
/// does.
pub fn explain(name: &str, bytes: &[u8], ours: &Verdict, theirs: &Verdict) -> Option<Rule> {
    let is_line = bytes.starts_with(b"PROXY");
    match (ours, theirs) {
        (Verdict::Invalid, Verdict::Incomplete) => refused_early(name, bytes),
        (Verdict::Invalid, Verdict::Header(..)) if is_line => laxer_line(name, bytes),
        (Verdict::Invalid, Verdict::Header(..)) => laxer_block(bytes),
        (_, Verdict::Invalid | Verdict::Incomplete) if is_line => stricter_line(name, bytes, ours),
        _ => other_block(name, bytes, ours, theirs),
    }
}

/// Nothing that may follow must make it a header for `name`, or only by another rule.
fn refused_early(name: &str, bytes: &[u8]) -> Option<Rule> {
    let ends: [&[u8]; 4] = [b"\n", b"\r\n", b" 1 2\r\n", &[0; 70_000]];
    let lasting = ends.iter().all(|end| {
        let whole = [bytes, end].concat();
        let theirs = match name {
            "ppp" => ppp(&whole),
            _ => proxy_header(&whole),
        };
        let is_header = matches!(theirs, Verdict::Header(..));
        ours(&whole) == Verdict::Invalid
            && (!is_header || explain(name, &whole, &Verdict::Invalid, &theirs).is_some())
    });
    lasting.then_some(Rule::RefusedEarly)
}

/// The line without its end, and what follows the line.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[..end], &bytes[end + 2..]))
}

fn laxer_line(name: &str, bytes: &[u8]) -> Option<Rule> {
    let Some((line, _)) = line(bytes) else {
        return bytes.contains(&b'\n').then_some(Rule::HalfALineBreak);
    };
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let is_odd =
        |port: &&[u8]| port.starts_with(b"+") || (port.len() > 1 && port.starts_with(b"0"));
    let ports = words.get(4..6).unwrap_or_default();
    if line.len() + 2 > LINE_MAX {
        (name == "proxy-header").then_some(Rule::LineTooLong)
    } else if line.get(5) != Some(&b' ') {
        (name == "proxy-header").then_some(Rule::NoSpace)
    } else if line[6..].starts_with(b"UNKNOWN") && !matches!(line.get(13), None | Some(b' ')) {
        Some(Rule::UnknownRunsOn)
    } else if line[6..].starts_with(b"UNKNOWN") && line.contains(&b'\n') {
        Some(Rule::HalfALineBreak)
    } else if ports.iter().any(is_odd) {
        Some(Rule::SignedOrPaddedPort)
    } else {
        None
    }
}

fn stricter_line(name: &str, bytes: &[u8], ours: &Verdict) -> Option<Rule> {
    let is_unknown = bytes.starts_with(b"PROXY UNKNOWN");
    let start = &bytes[..bytes.len().min(LINE_MAX)];
    match (ours, line(bytes)) {
        (Verdict::Incomplete, _) if !start.contains(&b'\n') => Some(Rule::JudgedBeforeTheEnd),
        (Verdict::Header(None, _), Some((line, _))) if is_unknown && name == "ppp" => {
            let words = line.split(|&byte| byte == b' ').count();
            if str::from_utf8(line).is_err() {
                Some(Rule::NotText)
            } else {
                (words > 6).then_some(Rule::ManyWords)
            }
        }
        _ => None,
    }
}

/// What ours refuses, and why, found out in another way.
fn laxer_block(bytes: &[u8]) -> Option<Rule> {
    match our_reason(bytes)? {
        Wrong::TooLong => {
            let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
            (16 + length > RECEIVED_MAX).then_some(Rule::LongerThanOurLimit)
        }
        Wrong::Extension | Wrong::Checksum if extensions(bytes).is_none() => {
            Some(Rule::ExtensionNotWhole)
        }
        Wrong::Checksum => (!checksum_holds(bytes)?).then_some(Rule::WrongChecksum),
        _ => None,
    }
}

fn other_block(name: &str, bytes: &[u8], ours: &Verdict, theirs: &Verdict) -> Option<Rule> {
    let (&command, &family) = (bytes.get(12)?, bytes.get(13)?);
    let is_half = family != 0 && (family & 0xf0 == 0 || family & 0x0f == 0);
    let is_refused = matches!(theirs, Verdict::Invalid | Verdict::Incomplete);
    match (ours, theirs) {
        // The family is looked at before the rest has come.
        (Verdict::Header(None, _) | Verdict::Incomplete, _) if is_refused && command == 0x20 => {
            Some(Rule::LocalIsSkipped)
        }
        (Verdict::Header(None, _) | Verdict::Incomplete, _) if is_refused && is_half => {
            Some(Rule::HalfUnspecified)
        }
        (Verdict::Header(None, length), Verdict::Header(Some(_), other)) => {
            (is_half && name == "ppp" && length == other).then_some(Rule::HalfUnspecified)
        }
        _ => None,
    }
}

/// What the others leave to their users must be right in what ours takes.
pub fn is_sound(bytes: &[u8], ours: &Verdict) -> bool {
    let has_checksum =
        || extensions(bytes).is_some_and(|all| all.iter().any(|(kind, _)| *kind == 3));
    let is_block = matches!(ours, Verdict::Header(Some(_), _)) && !bytes.starts_with(b"PROXY");
    let holds = !is_block || !has_checksum() || checksum_holds(bytes) == Some(true);
    holds && same_extensions(bytes)
}

/// Whether the header has one checksum, and that is right; by another way of calculating it.
fn checksum_holds(bytes: &[u8]) -> Option<bool> {
    let length = 16 + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let mut header = bytes.get(..length)?.to_vec();
    let extensions = extensions(bytes)?;
    let mut end = length
        - extensions
            .iter()
            .map(|(_, value)| 3 + value.len())
            .sum::<usize>();
    let mut found = Vec::new();
    for (kind, value) in extensions {
        end += 3 + value.len();
        if kind == 3 {
            found.push((end, value));
        }
    }
    let [(end, value)] = &found[..] else {
        return Some(false);
    };
    let Ok(value) = <[u8; 4]>::try_from(&value[..]) else {
        return Some(false);
    };
    header[end - 4..*end].fill(0);
    Some(crc32c(&header) == u32::from_be_bytes(value))
}

/// Bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 0 {
                crc >> 1
            } else {
                crc >> 1 ^ 0x82f6_3b78
            };
        }
    }
    !crc
}
