//! A worker's pipes and what a direction has parked.
//!
//! A direction holds a pipe or a buffer only while bytes are in it, so an idle session holds
//! neither. Pipes are not shared between workers.

use std::io;

use crate::sys::splice::Pipe;

/// Pipes a worker keeps at most. Slow readers of streams can hold them all, and then others copy;
/// far below the 1,024 after which an unprivileged user gets pipes of 8 KiB.
pub const PIPES_PER_WORKER: u32 = 64;

/// Bytes received from one socket and not yet taken by the other.
#[derive(Debug)]
pub(super) enum Parked {
    /// In memory; those before `start` are gone.
    Bytes { bytes: Box<[u8]>, start: usize },
    /// In a pipe.
    Pipe(Pipe),
}

/// The empty pipes of a worker.
#[derive(Debug)]
pub(super) struct Pipes {
    empty: Vec<Pipe>,
    made: u32,
    limit: u32,
}

impl Pipes {
    /// None yet, and never more than `limit`.
    pub(super) const fn new(limit: u32) -> Self {
        Self {
            empty: Vec::new(),
            made: 0,
            limit,
        }
    }

    /// An empty pipe, if the worker may have one more and the process can have one.
    pub(super) fn take(&mut self) -> io::Result<Option<Pipe>> {
        if let Some(pipe) = self.empty.pop() {
            return Ok(Some(pipe));
        }
        if self.made >= self.limit {
            return Ok(None);
        }
        let pipe = Pipe::new()?;
        self.made += 1;
        Ok(Some(pipe))
    }

    /// Takes back a pipe that is empty.
    pub(super) fn put_back(&mut self, pipe: Pipe) {
        self.empty.push(pipe);
    }

    /// Closes a pipe that may hold bytes nobody wants any more.
    pub(super) fn discard(&mut self, pipe: Pipe) {
        drop(pipe);
        self.made -= 1;
    }

    /// Releases what a session had parked when it ended.
    pub(super) fn release(&mut self, parked: Option<Box<Parked>>) {
        if let Some(Parked::Pipe(pipe)) = parked.map(|parked| *parked) {
            self.discard(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_bounded_and_used_again() {
        let mut pipes = Pipes::new(PIPES_PER_WORKER);
        let mut held: Vec<_> = (0..PIPES_PER_WORKER)
            .map(|_| pipes.take().unwrap().expect("within the bound"))
            .collect();
        assert!(pipes.take().unwrap().is_none());
        pipes.put_back(held.pop().unwrap());
        pipes.discard(held.pop().unwrap());
        assert!(pipes.take().unwrap().is_some());
        assert!(pipes.take().unwrap().is_some());
        assert!(pipes.take().unwrap().is_none());
    }
}
