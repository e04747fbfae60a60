//! Long runs: many connections over reloads, transfers broken at random, system calls counted.

mod broken;
mod system_calls;
