//! What an operator has said of a backend: whether it takes new sessions, and with which weight. It
//! holds beside what health and the configuration say, until the operator says otherwise.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

/// Whether a backend may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Admin {
    /// As its health says.
    #[default]
    Ready = 0,
    /// It gets no new sessions, and keeps those that it has.
    Drain = 1,
    /// It gets no new sessions, and loses those that it has.
    Down = 2,
}

/// An operator's orders for one backend. Each is an atomic of its own: no two need to agree.
#[derive(Debug)]
pub struct Orders {
    admin: AtomicU8,
    /// [`NO_WEIGHT`], or a weight.
    weight: AtomicU32,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            admin: AtomicU8::new(Admin::Ready as u8),
            weight: AtomicU32::new(NO_WEIGHT),
        }
    }
}

impl Orders {
    /// Whether the backend may be used.
    #[inline(always)]
    pub fn admin(&self) -> Admin {
        match self.admin.load(Relaxed) {
            0 => Admin::Ready,
            1 => Admin::Drain,
            _ => Admin::Down,
        }
    }

    /// Sets whether it may; true if that is a change.
    pub fn set_admin(&self, admin: Admin) -> bool {
        self.admin.swap(admin as u8, Relaxed) != admin as u8
    }

    /// The weight that holds where the configuration says this one.
    pub fn weight(&self, configured: u16) -> u16 {
        u16::try_from(self.weight.load(Relaxed)).unwrap_or(configured)
    }

    /// Sets the weight that holds whatever the configuration says; `None` = what it says.
    pub fn set_weight(&self, weight: Option<u16>) {
        let weight = weight.map_or(NO_WEIGHT, u32::from);
        self.weight.store(weight, Relaxed);
    }

    /// Whether there are none: nothing is lost if they are forgotten.
    pub fn is_empty(&self) -> bool {
        self.admin() == Admin::Ready && self.weight.load(Relaxed) == NO_WEIGHT
    }
}

/// No weight is so large.
const NO_WEIGHT: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_hold_until_they_are_taken_back() {
        let orders = Orders::default();
        assert!(orders.is_empty());
        assert_eq!((orders.admin(), orders.weight(7)), (Admin::Ready, 7));
        for admin in [Admin::Drain, Admin::Down] {
            assert!(orders.set_admin(admin));
            assert!(!orders.set_admin(admin), "no change");
            assert_eq!(orders.admin(), admin);
        }
        for weight in [0, 1, u16::MAX] {
            orders.set_weight(Some(weight));
            assert_eq!(orders.weight(7), weight);
        }
        assert!(orders.set_admin(Admin::Ready));
        assert!(!orders.is_empty());
        orders.set_weight(None);
        assert!(orders.is_empty());
        assert_eq!(orders.weight(8), 8);
    }
}
