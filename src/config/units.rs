//! Durations and bytes as people write them.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The longest duration a setting takes. A year is longer than any session lives, and far enough
/// from every integer's end that sums of deadlines cannot overflow.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The shortest duration other than 0: time is counted in milliseconds.
pub(super) const MIN_DURATION: Duration = Duration::from_millis(1);

/// Reads "2s", "500ms", "1h 30m": at least `least`, at most [`MAX_DURATION`].
///
/// Upper case is refused, because "10M" would be ten months to the grammar and ten minutes to its
/// writer.
pub(super) fn duration(text: &str, least: Duration) -> Option<Duration> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let duration = humantime::parse_duration(text).ok()?;
    (least..=MAX_DURATION)
        .contains(&duration)
        .then_some(duration)
}

/// The same text back, in its shortest form: "1h 30m".
pub(super) fn show(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Reads "16KiB": a whole number of bytes, KiB or MiB, within `range`.
pub(super) fn size(text: &str, range: RangeInclusive<usize>) -> Option<usize> {
    let end = text.find(|symbol: char| !symbol.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    let unit = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    let size = digits.parse::<usize>().ok()?.checked_mul(unit)?;
    range.contains(&size).then_some(size)
}

/// Reads "0a1B": pairs of hexadecimal digits.
pub(super) fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|digit| digit.to_digit(16));
    let digits = digits.collect::<Option<Vec<u32>>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    let byte = |[high, low]: &[u32; 2]| u8::try_from(high * 16 + low).ok();
    pairs.iter().map(byte).collect()
}

/// Bytes as a file would write them; those of a long payload are cut.
pub(super) fn show_bytes(bytes: &[u8]) -> String {
    const SHOWN: usize = 32;
    let is_text = bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
    let shown = &bytes[..bytes.len().min(SHOWN)];
    let more = if shown.len() < bytes.len() { "…" } else { "" };
    if is_text && !bytes.starts_with(b"hex:") {
        return format!("{:?}{more}", String::from_utf8_lossy(shown));
    }
    let digits: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"hex:{digits}\"{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(size("16KiB", 1..=1 << 20), Some(16 << 10));
        assert_eq!(size("1 MiB", 1..=1 << 20), Some(1 << 20));
        assert_eq!(size("7B", 1..=8), Some(7));
        for wrong in [
            "",
            "16",
            "KiB",
            "16kb",
            "-1B",
            "1.5KiB",
            "9B",
            "99999999999999999999B",
        ] {
            assert_eq!(size(wrong, 1..=8), None, "{wrong}");
        }
    }

    #[test]
    fn durations_have_units_and_bounds() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("2s", Some(ms(2_000))),
            ("1ms", Some(MIN_DURATION)),
            ("500ms", Some(ms(500))),
            ("1h 30m", Some(ms(5_400_000))),
            ("1h30m", Some(ms(5_400_000))),
            ("49d 17h 2m 47s 295ms", Some(ms(4_294_967_295))),
            ("50days", Some(ms(50 * 86_400_000))),
            ("365d", Some(MAX_DURATION)),
            ("0s", None),
            ("999us", None),
            ("365d 1ms", None),
            ("18446744073709551615ms", None),
            ("18446744073709551615s", None),
            ("99999999999999999999999s", None),
            ("10M", None),
            ("-1s", None),
            ("5", None),
            ("", None),
            ("s", None),
            ("1 parsec", None),
            ("２s", None),
        ] {
            assert_eq!(duration(text, MIN_DURATION), expected, "{text:?}");
        }
        assert_eq!(duration("0s", Duration::ZERO), Some(Duration::ZERO));
        assert_eq!(show(ms(5_400_000)), "1h 30m");
    }

    #[test]
    fn bytes_are_text_or_hexadecimal() {
        assert_eq!(hexadecimal("00fF10"), Some(vec![0, 255, 16]));
        assert_eq!(hexadecimal(""), Some(Vec::new()));
        for wrong in ["0", "0g", "0 ", "+1", "é0", "0x10"] {
            assert_eq!(hexadecimal(wrong), None, "{wrong:?}");
        }
        assert_eq!(show_bytes(b"PING"), "\"PING\"");
        assert_eq!(show_bytes(b"hex:1"), "\"hex:6865783a31\"");
        assert_eq!(show_bytes(&[0, 255]), "\"hex:00ff\"");
        assert_eq!(show_bytes(&[b'a'; 33]), format!("\"{}\"…", "a".repeat(32)));
    }
}
