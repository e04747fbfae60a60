//! What fuzz targets share.

use std::fmt::Debug;

use evenkeel::wire::Stop;

/// Parses `bytes` and starts of them, and checks that a decision stays and comes when it was said
/// to come. What has been decided of the whole.
pub fn by_prefix<'a, T, Wrong>(
    bytes: &'a [u8],
    parse: impl Fn(&'a [u8]) -> Result<T, Stop<Wrong>>,
) -> Result<T, Stop<Wrong>>
where
    T: Debug + PartialEq,
    Wrong: Copy + Debug + PartialEq,
{
    let whole = parse(bytes);
    let mut least = 0;
    // All starts of a short input, and of a longer one those where most happens.
    let lengths = (0..bytes.len()).filter(|&length| length < 64 || bytes.len() - length < 64);
    for length in lengths {
        match parse(&bytes[..length]) {
            Err(Stop::Incomplete { needed }) => {
                assert!(needed > length, "{needed} needed where {length} are there");
                assert!(needed >= least, "first {least} needed, then {needed}");
                least = needed;
            }
            decided => assert_eq!(decided, whole, "at {length} of {}", bytes.len()),
        }
    }
    match &whole {
        Ok(_) => assert!(least <= bytes.len(), "sooner than said"),
        Err(Stop::Incomplete { needed }) => assert!(*needed > bytes.len() && *needed >= least),
        Err(Stop::Invalid(_)) => (),
    }
    whole
}
