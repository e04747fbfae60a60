//! X.509 certificates: how long they hold. Nothing is verified here.

/// When the certificate ends, in seconds since 1970; `None` = it cannot be read, or ended before.
pub fn not_after(certificate: &[u8]) -> Option<u64> {
    let mut rest = certificate;
    let mut certificate = element(&mut rest, SEQUENCE)?;
    let mut fields = element(&mut certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        element(&mut fields, VERSION)?;
    }
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        element(&mut fields, tag)?; // its number, its algorithm, its issuer
    }
    let mut validity = element(&mut fields, SEQUENCE)?;
    next(&mut validity)?;
    match next(&mut validity)? {
        (UTC_TIME, time) => {
            let (year, rest) = number(time, 2)?;
            seconds(year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        (GENERALIZED_TIME, time) => {
            let (year, rest) = number(time, 4)?;
            seconds(year, rest)
        }
        _ => None,
    }
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The version stands before everything else, where it is not the first.
const VERSION: u8 = 0xa0;

/// Takes the next element from `bytes`, which must have this tag: its content.
fn element<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    next(bytes).and_then(|(found, content)| (found == tag).then_some(content))
}

/// Takes the next element from `bytes`: its tag and its content.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let append = |length, &byte| length << 8 | usize::from(byte);
            (digits.iter().fold(0, append), rest)
        }
        _ => return None, // no certificate is that long
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some((tag, content))
}

/// The number that the first `digits` of `text` write, and what follows.
fn number(text: &[u8], digits: usize) -> Option<(u64, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    let is_number = number.iter().all(u8::is_ascii_digit);
    let append = |number, &digit| number * 10 + u64::from(digit - b'0');
    is_number.then(|| (number.iter().fold(0, append), rest))
}

/// The seconds to `rest` of a year: month, day, hour, minute and second, of two digits each, and Z.
fn seconds(year: u64, rest: &[u8]) -> Option<u64> {
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day) && rest == b"Z";
    if !is_date || year < 1970 {
        return None;
    }
    // Years begin in March here, so that the leap day is their last.
    let (year, month) = if month < 3 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(DAYS_TO_1970)?;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days from the first of March of the year 0 to 1970.
const DAYS_TO_1970: u64 = 719_468;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn ending(year: i32, month: u8, day: u8) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, month, day);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_read() {
        assert_eq!(not_after(&ending(2027, 1, 2)), Some(1_798_848_000));
        assert_eq!(not_after(&ending(2049, 12, 31)), Some(2_524_521_600));
        assert_eq!(not_after(&ending(2051, 3, 1)), Some(2_561_241_600));
        assert_eq!(seconds(1999, b"1231235959Z"), Some(946_684_799));
        assert_eq!(seconds(2024, b"0229010203Z"), Some(1_709_168_523));
        assert_eq!(seconds(1970, b"0101000000Z"), Some(0));
        for wrong in [
            "1331000000Z",
            "0100000000Z",
            "01010000Z",
            "0101000000+0100",
            "a101000000Z",
        ] {
            assert_eq!(seconds(2024, wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn half_a_certificate_ends_never() {
        let whole = ending(2027, 1, 2);
        for length in 0..whole.len() {
            assert_eq!(not_after(&whole[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            not_after(&bytes);
            let mut nested = vec![SEQUENCE, 0x82, 0, 100, SEQUENCE, 0x81, 90];
            nested.extend(bytes);
            not_after(&nested);
        }
    }
}
