//! Rise and fall: a state that changes only after enough opposite results in a row.

/// One backend's health.
#[derive(Clone, Debug)]
pub struct Counter {
    rise: u32,
    fall: u32,
    is_up: bool,
    /// Results in a row against the present state.
    against: u32,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It takes sessions again.
    Up,
    /// It takes none any more.
    Down,
}

impl Counter {
    /// Starts as `is_up`; `rise` successes in a row bring it up, `fall` failures take it down (0
    /// counts as 1).
    pub const fn new(rise: u32, fall: u32, is_up: bool) -> Self {
        Self {
            rise,
            fall,
            is_up,
            against: 0,
        }
    }

    /// Takes in a result.
    pub const fn observe(&mut self, ok: bool) -> Option<Transition> {
        if ok == self.is_up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < self.streak(ok) {
            return None;
        }
        self.against = 0;
        self.is_up = ok;
        Some(if ok { Transition::Up } else { Transition::Down })
    }

    /// How many results in a row it takes to get into this state.
    pub const fn streak(&self, up: bool) -> u32 {
        if up { self.rise } else { self.fall }
    }

    /// The present state.
    pub const fn is_up(&self) -> bool {
        self.is_up
    }

    /// Whether the last result agreed with the state.
    pub const fn is_settled(&self) -> bool {
        self.against == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a model that looks at the last results only.
        #[test]
        fn changes_exactly_after_results_in_a_row(
            rise in 1..5u32, fall in 1..5u32, start: bool,
            results in proptest::collection::vec(any::<bool>(), 0..100),
        ) {
            let mut counter = Counter::new(rise, fall, start);
            let (mut state, mut row) = (start, 0);
            for ok in results {
                row = if ok == state { 0 } else { row + 1 };
                let expected = match ok {
                    true if !state && row >= rise => Some(Transition::Up),
                    false if state && row >= fall => Some(Transition::Down),
                    _ => None,
                };
                if expected.is_some() {
                    (state, row) = (ok, 0);
                }
                prop_assert_eq!(counter.observe(ok), expected);
                prop_assert_eq!(counter.is_up(), state);
                prop_assert_eq!(counter.is_settled(), row == 0);
            }
        }
    }
}
