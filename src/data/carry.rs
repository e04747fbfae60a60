//! Moving the bytes of one direction, as `lb::traffic::relay` says: the only place that reads from
//! one socket of a session and writes to the other.
//!
//! Everything from the worker's loop down to the system calls of a copy is `inline(always)`, and the
//! calls bypass the C library, for a measured reason: the first return of a function after a system
//! call is predicted wrongly, and on AMD Zen 4 under a kernel with safe returns that makes the kernel
//! slower for a while, as if its own returns were predicted wrongly too. A read and a write of 64
//! bytes then cost a quarter more. What was called after the last system call may return as usual.

use std::io::{self, ErrorKind};

use super::kit::Kit;
use super::pipes::Parked;
use super::stream::Stream;
use crate::lb::traffic::relay::{READ_BYTES_MAX, Read, Relay, Side, Step, Write};

/// The two sockets of one direction and what is parked between them.
pub(super) struct Direction<'a> {
    pub(super) from: Side,
    pub(super) source: &'a Stream,
    pub(super) sink: &'a Stream,
    pub(super) parked: &'a mut Option<Box<Parked>>,
    pub(super) relay: &'a mut Relay,
}

/// What a turn on one direction did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Carried {
    /// Bytes moved.
    pub(super) moved: bool,
    /// The budget ended it, not a lack of work.
    pub(super) cut_short: bool,
}

impl Direction<'_> {
    /// Moves bytes until the direction has to wait or its budget is used up.
    #[inline(always)]
    pub(super) fn carry(&mut self, kit: &mut Kit) -> Carried {
        let mut budget = TURN_BYTES;
        let mut carried = Carried::default();
        loop {
            let step = self.relay.step(self.from);
            if step == Step::Wait {
                return carried;
            }
            if budget == 0 {
                return Carried {
                    cut_short: true,
                    ..carried
                };
            }
            let before = self.relay.received(self.from) + self.relay.sent(self.from);
            match step {
                Step::Copy(limit) => self.copy(limit, kit),
                Step::Splice(limit) => self.splice(limit, kit),
                Step::Flush => self.flush(kit),
                Step::Shut => self.shut(),
                Step::Wait => {}
            }
            let after = self.relay.received(self.from) + self.relay.sent(self.from);
            carried.moved |= after != before;
            let moved = usize::try_from(after - before).unwrap_or(usize::MAX);
            let weight = if matches!(step, Step::Copy(_)) {
                COPY_WEIGHT
            } else {
                1
            };
            budget = budget.saturating_sub(moved.saturating_mul(weight).max(STEP_COST));
        }
    }

    #[inline(always)]
    fn copy(&mut self, limit: usize, kit: &mut Kit) {
        let read = match retry(|| self.source.read(&mut kit.scratch[..limit])) {
            Ok(0) => Read::End,
            Ok(count) => Read::Bytes {
                count,
                emptied: count < limit && self.source.is_emptied_by_short_read(),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => Read::Empty,
            Err(_) => Read::Failed,
        };
        self.relay.on_read(self.from, read);
        let Read::Bytes { count, .. } = read else {
            return;
        };
        let bytes = &kit.scratch[..count];
        let taken = self.write(bytes);
        if taken < count {
            let bytes = Box::from(&bytes[taken..]);
            *self.parked = Some(Box::new(Parked::Bytes { bytes, start: 0 }));
        }
    }

    fn splice(&mut self, limit: usize, kit: &mut Kit) {
        let Ok(Some(pipe)) = kit.pipes.take() else {
            // All pipes are in use, or no descriptor is left for another: copy this time.
            return self.copy(self.relay.copy_limit(self.from), kit);
        };
        match retry(|| pipe.fill(self.source, limit)) {
            Ok(0) => {
                // A splice also ends at an urgent byte, with 0 if a FIN is queued somewhere behind
                // it; a copy reads on.
                kit.pipes.put_back(pipe);
                return self.copy(self.relay.copy_limit(self.from), kit);
            }
            Ok(count) => {
                self.relay.on_read(
                    self.from,
                    Read::Bytes {
                        count,
                        emptied: false,
                    },
                );
                *self.parked = Some(Box::new(Parked::Pipe(pipe)));
                return self.flush(kit);
            }
            Err(error) => self.relay.on_read(self.from, splice_failure(&error)),
        }
        kit.pipes.put_back(pipe);
    }

    fn flush(&mut self, kit: &mut Kit) {
        let Some(mut parked) = self.parked.take() else {
            debug_assert!(false, "the relay counts bytes that are not parked");
            return;
        };
        let count = self.relay.parked(self.from);
        match *parked {
            Parked::Bytes {
                ref bytes,
                ref mut start,
            } => {
                *start += self.write(&bytes[*start..]);
            }
            Parked::Pipe(mut pipe) => {
                self.before_write();
                match retry(|| pipe.empty(self.sink, count)) {
                    Ok(taken) => {
                        self.relay.on_write(self.from, Write::Bytes(taken));
                        // A splice that an error cuts short says nothing of it, and the kernel has
                        // forgotten it: the sink's next read would look like a clean end.
                        if taken < count && self.sink.is_broken() {
                            self.relay.on_write(self.from, Write::Failed);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        self.relay.on_write(self.from, Write::Bytes(0));
                    }
                    Err(error) if is_unsupported(&error) => {
                        self.relay.on_read(self.from, Read::NoSplice);
                        match pipe.take(count) {
                            Ok(bytes) => {
                                *self.parked = Some(Box::new(Parked::Bytes { bytes, start: 0 }));
                                return kit.pipes.put_back(pipe);
                            }
                            Err(_) => self.relay.on_write(self.from, Write::Failed),
                        }
                    }
                    Err(_) => self.relay.on_write(self.from, Write::Failed),
                }
                if self.relay.parked(self.from) == 0 {
                    return kit.pipes.put_back(pipe);
                }
                parked = Box::new(Parked::Pipe(pipe));
            }
        }
        if self.relay.parked(self.from) > 0 {
            *self.parked = Some(parked);
        }
    }

    /// Writes what it can and tells the relay; the bytes taken.
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.before_write();
        let is_last = self.relay.is_last_write(self.from);
        let write = match retry(|| self.sink.write(bytes, is_last)) {
            Ok(count) => Write::Bytes(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Write::Bytes(0),
            Err(_) => Write::Failed,
        };
        self.relay.on_write(self.from, write);
        match write {
            Write::Bytes(count) => count,
            Write::Failed => 0,
        }
    }

    /// Clients' sockets are born with TCP_NODELAY. A backend's gets it with its second write: the
    /// first waits for nothing, since nothing is on the way yet, and many sessions have no other.
    #[inline(always)]
    fn before_write(&self) {
        if self.from == Side::Client && self.relay.is_second_write(self.from) {
            self.sink.hold_nothing_back();
        }
    }

    fn shut(&mut self) {
        // The close that follows the second FIN sends it as well: one system call less.
        let passed = self.relay.is_shut(self.from.other()) || self.sink.shut().is_ok();
        self.relay.on_shut(self.from, passed);
    }
}

/// Bytes one direction may read plus write by splice in one turn of the worker, so that a stream
/// does not make the worker's other sessions wait: about 0.3 ms.
const TURN_BYTES: usize = 2 * READ_BYTES_MAX as usize;

/// A copied byte costs as much as so many spliced ones.
const COPY_WEIGHT: usize = 4;

/// What a step costs of the budget at least, so that small steps end a turn too.
const STEP_COST: usize = 16 * 1024;

#[inline(always)]
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn splice_failure(error: &io::Error) -> Read {
    if error.kind() == ErrorKind::WouldBlock {
        Read::Empty // the pipe was empty, so it is the socket that has nothing
    } else if is_unsupported(error) {
        Read::NoSplice
    } else {
        Read::Failed
    }
}

/// Whether splice cannot be used here at all, although the connection is well.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::ENOMEM)
    )
}
