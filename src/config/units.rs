//! Durations as people write them.

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
