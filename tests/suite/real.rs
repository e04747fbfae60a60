//! Real software on both ends, and how much it costs them.
