//! Headers: right ones, nearly right ones, and what was made of them.

use std::net::{Ipv4Addr, Ipv6Addr};

use fastrand::Rng;

use super::rules::crc32c;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Two headers in five are left as they were made.
pub fn header(random: &mut Rng) -> Vec<u8> {
    let mut bytes = if random.bool() {
        line(random)
    } else {
        block(random)
    };
    if random.u8(..5) < 2 {
        if random.bool() {
            bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        }
        return bytes;
    }
    for _ in 0..random.usize(1..4) {
        change(random, &mut bytes);
    }
    bytes
}

fn change(random: &mut Rng, bytes: &mut Vec<u8>) {
    const PIECES: [&[u8]; 12] = [
        b" ", b"  ", b"\r\n", b"\r", b"\n", b"\0", b"PROXY ", b"UNKNOWN", b"+1", b"00", b"::",
        SIGNATURE,
    ];
    let place = random.usize(..=bytes.len());
    match random.u8(..8) {
        0 => bytes.truncate(place),
        1 if place < bytes.len() => drop(bytes.remove(place)),
        2 => bytes.insert(place, random.u8(..)),
        3 => {
            let piece = PIECES[random.usize(..PIECES.len())];
            drop(bytes.splice(place..place, piece.iter().copied()));
        }
        4 if place < bytes.len() => bytes[place] ^= 1 << random.u8(..8),
        // Where most is decided.
        5 if bytes.len() >= 16 => bytes[random.usize(12..16)] = random.u8(..),
        6 if bytes.len() >= 16 => bytes[13] = random.u8(..4) << 4 | random.u8(..3),
        7 if bytes.len() >= 16 => bytes[15] = bytes[15].wrapping_add(random.u8(..)),
        _ if place < bytes.len() => bytes[place] = random.u8(..),
        _ => bytes.push(random.u8(..)),
    }
}

/// Version 1.
fn line(random: &mut Rng) -> Vec<u8> {
    let ends = match random.u8(..8) {
        0..3 => format!(
            "TCP4 {} {} {} {}",
            v4(random),
            v4(random),
            port(random),
            port(random)
        ),
        3..6 => format!(
            "TCP6 {} {} {} {}",
            v6(random),
            v6(random),
            port(random),
            port(random)
        ),
        6 => "UNKNOWN".to_owned(),
        _ => {
            let length = random.usize(..100);
            let junk: String = (0..length).map(|_| random.char(' '..'~')).collect();
            format!("UNKNOWN {junk}")
        }
    };
    format!("PROXY {ends}\r\n").into_bytes()
}

fn v4(random: &mut Rng) -> String {
    let ip = Ipv4Addr::from(random.u32(..));
    match random.u8(..20) {
        0 => ip.to_string().replacen('.', ".0", 1),
        1 => format!("{}.{}", ip.octets()[0], ip),
        2 => v6(random),
        _ => ip.to_string(),
    }
}

fn v6(random: &mut Rng) -> String {
    let ip = random.u128(..) & random.u128(..) & random.u128(..);
    // Groups of zeros, as they are in use.
    let ip = (0..8)
        .filter(|_| random.bool())
        .fold(ip, |ip, group| ip & !(0xffff << (16 * group)));
    match random.u8(..20) {
        0 => Ipv4Addr::from(random.u32(..)).to_ipv6_mapped().to_string(),
        1 => Ipv6Addr::from(ip).to_string().to_uppercase(),
        2 => Ipv6Addr::from(ip).to_string().replacen(':', "::", 1),
        3 => {
            let groups = Ipv6Addr::from(ip)
                .segments()
                .map(|group| format!("{group:04x}"));
            groups.join(":")
        }
        _ => Ipv6Addr::from(ip).to_string(),
    }
}

fn port(random: &mut Rng) -> String {
    match random.u8(..40) {
        0 => "0".to_owned(),
        1 => format!("0{}", random.u16(..)),
        2 => (65_530 + random.u32(..12)).to_string(),
        3 => format!("+{}", random.u16(..)),
        _ => random.u16(..).to_string(),
    }
}

/// Version 2.
fn block(random: &mut Rng) -> Vec<u8> {
    let (family, length) = match random.u8(..12) {
        0..5 => (0x11 + random.u8(..2), 12),
        5..9 => (0x21 + random.u8(..2), 36),
        9 => (0x31 + random.u8(..2), 216),
        10 => (0, 0),
        _ => (random.u8(..), random.usize(..40)),
    };
    let mut rest: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
    if random.u8(..10) == 0 {
        rest.truncate(random.usize(..=length));
    }
    let mut checksum = None;
    for _ in 0..random.usize(..5) {
        let kind = [1, 2, 3, 4, 5, 0x20, 0xe0, random.u8(..)][random.usize(..8)];
        let most = if random.u8(..200) == 0 { 20_000 } else { 30 };
        let length = if kind == 3 && random.u8(..20) > 0 {
            4
        } else {
            random.usize(..most)
        };
        rest.extend([kind]);
        rest.extend(u16::try_from(length).expect("short").to_be_bytes());
        rest.extend((0..length).map(|_| random.u8(..)));
        if kind == 3 && length == 4 {
            checksum = Some(16 + rest.len() - 4);
        }
    }
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes();
    let command = [0x21, 0x21, 0x21, 0x20][random.usize(..4)];
    let mut bytes = [SIGNATURE, &[command, family][..], &length, &rest].concat();
    if let Some(place) = checksum.filter(|_| random.u8(..4) > 0) {
        bytes[place..place + 4].fill(0);
        let checksum = crc32c(&bytes).to_be_bytes();
        bytes[place..place + 4].copy_from_slice(&checksum);
    }
    bytes
}
