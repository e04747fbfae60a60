//! What must hold for every parser of streams.

use std::fmt::Debug;

use super::Stop;

/// Parses every start of `bytes`, one byte longer each time, and checks that a decision stays, comes
/// when it was said to come, and fits the whole. The number of bytes that decided.
#[track_caller]
pub(super) fn by_byte<'a, T, Wrong>(
    bytes: &'a [u8],
    parse: impl Fn(&'a [u8]) -> Result<T, Stop<Wrong>>,
) -> (Result<T, Stop<Wrong>>, usize)
where
    T: Debug + PartialEq,
    Wrong: Copy + Debug + PartialEq,
{
    let mut needed = 0;
    let mut decided = None;
    for length in 0..=bytes.len() {
        let parsed = parse(&bytes[..length]);
        match (&decided, parsed) {
            (None, Err(Stop::Incomplete { needed: more })) => {
                assert!(more > length, "{more} needed where {length} are there");
                assert!(more >= needed, "first {needed} needed, then {more}");
                needed = more;
            }
            (None, parsed) => {
                assert!(parsed.is_err() || length >= needed, "sooner than said");
                decided = Some((parsed, length));
            }
            (Some((decided, _)), parsed) => assert_eq!(*decided, parsed, "at {length} bytes"),
        }
    }
    decided.unwrap_or_else(|| (Err(Stop::Incomplete { needed }), bytes.len()))
}
