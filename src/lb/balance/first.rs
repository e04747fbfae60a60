//! The first in the order of the configuration that can take one more: fills one backend before it
//! touches the next, so that the others can be switched off.

use super::candidates::Candidates;

pub(super) fn choose(candidates: &Candidates<'_>) -> Option<usize> {
    candidates.eligible_from(0).next()
}
