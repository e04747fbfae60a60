//! One TCP session's bytes: two directions, a type written once and used twice.
//!
//! The relay decides, its caller moves the bytes. The caller reports readiness with
//! [`Relay::on_ready`], asks [`Relay::step`] what to do for one direction, does it, reports the
//! outcome with [`Relay::on_read`], [`Relay::on_write`] or [`Relay::on_shut`], and asks
//! [`Relay::verdict`] whether the session as a whole goes on. Payload never enters.
//!
//! What must stay true:
//! - in each direction, bytes received = bytes sent + bytes parked;
//! - a FIN is passed on only after the last byte before it;
//! - a socket whose error has been reported never counts as finished again: after it the kernel
//!   answers further reads with 0, which would make a broken transfer look complete;
//! - bytes, and a FIN, that arrived before a reset are delivered before the reset is passed on.

/// The two ends of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Backend,
}

impl Side {
    /// Both, in a fixed order.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Backend];

    /// The opposite end.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Backend,
            Self::Backend => Self::Client,
        }
    }
}

/// What an event says about one socket. Edge-triggered: a flag is news, its absence is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// There is something to read: bytes, a FIN or an error.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The end of the stream is queued behind what can be read.
    pub ending: bool,
    /// The connection is broken.
    pub failed: bool,
    /// An urgent byte is queued: a read may stop short of it without having emptied the socket.
    pub urgent: bool,
}

/// What to do next for one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read at most this many bytes into memory, then write them.
    Copy(usize),
    /// Splice at most this many bytes into a pipe, then out of it.
    Splice(usize),
    /// Write what is parked.
    Flush,
    /// Everything has been written and the source has finished: pass the FIN on.
    Shut,
    /// Nothing until the next event.
    Wait,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Bytes came.
    Bytes {
        /// At least one.
        count: usize,
        /// The socket is known to be empty now. A copy that came short says so; a splice does
        /// not, because it also ends when the pipe has no slot left.
        emptied: bool,
    },
    /// Nothing now.
    Empty,
    /// The source has finished.
    End,
    /// The source's connection is broken.
    Failed,
    /// The kernel cannot splice from this socket.
    NoSplice,
}

/// What a write achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// This many bytes of those parked were taken; 0 when there was no room.
    Bytes(usize),
    /// The sink's connection is broken.
    Failed,
}

/// What becomes of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Run,
    /// Both sides have finished and know it of each other: close both, cleanly.
    Close,
    /// The other side is broken and everything it sent has been written to this one: reset this
    /// one as soon as the kernel has delivered it.
    Reset(Side),
    /// Both sides are broken: drop them.
    Drop,
}

/// How a session may move its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// By copy, and by splice while a direction streams.
    Adaptive,
    /// By splice from the first byte.
    Splice,
    /// By copy.
    Copy,
}

/// One session's state.
#[derive(Debug)]
pub struct Relay {
    client_to_backend: Direction,
    backend_to_client: Direction,
    client: Connection,
    backend: Connection,
}

impl Relay {
    /// A session whose sockets have reported nothing yet.
    pub const fn new(carriage: Carriage) -> Self {
        Self {
            client_to_backend: Direction::new(carriage),
            backend_to_client: Direction::new(carriage),
            client: Connection::Sound,
            backend: Connection::Sound,
        }
    }

    /// Takes in what an event says about `side`'s socket.
    pub fn on_ready(&mut self, side: Side, ready: Ready) {
        let direction = self.direction_mut(side);
        direction.readable |= ready.readable | ready.ending | ready.failed;
        direction.read_on |= ready.failed | ready.urgent;
        direction.ending |= ready.ending;
        if ready.urgent {
            direction.carriage = Carriage::Copy;
            direction.streak = 0;
        }
        self.direction_mut(side.other()).writable |= ready.writable;
        if ready.failed {
            self.break_off(side, Connection::Failing);
        }
    }

    /// `count` bytes of ours are parked before all that `side` will send, and count as received.
    pub fn begin_with(&mut self, side: Side, count: usize) {
        let direction = self.direction_mut(side);
        debug_assert!(direction.received == 0, "something came before");
        direction.received = count as u64;
        direction.parked = u32::try_from(count).expect("a header is short");
    }

    /// What to do next with the bytes that come from `side`.
    pub fn step(&self, side: Side) -> Step {
        self.direction(side).step()
    }

    /// Takes in the outcome of a read from `side`.
    pub fn on_read(&mut self, side: Side, read: Read) {
        let connection = self.connection(side);
        self.direction_mut(side).on_read(read, connection);
        if read == Read::Failed {
            self.break_off(side, Connection::Broken);
        }
    }

    /// Takes in the outcome of a write of bytes that came from `side`.
    pub fn on_write(&mut self, side: Side, write: Write) {
        match write {
            Write::Bytes(count) => self.direction_mut(side).on_written(count),
            Write::Failed => self.break_off(side.other(), Connection::Broken),
        }
    }

    /// The FIN that came from `side` has been passed on (`false`: the sink was broken already).
    pub fn on_shut(&mut self, side: Side, passed: bool) {
        if passed {
            self.direction_mut(side).sink = Sink::Shut;
        } else {
            self.break_off(side.other(), Connection::Failing);
        }
    }

    /// Whether `side` has finished and only its FIN is left to pass on, so that the bytes being
    /// written are the last.
    pub const fn is_last_write(&self, side: Side) -> bool {
        matches!(self.direction(side).source, Source::Finished)
    }

    /// Whether the next write of bytes that came from `side` is the second one.
    pub const fn is_second_write(&self, side: Side) -> bool {
        self.direction(side).writes == 1
    }

    /// Whether the FIN that came from `side` has been passed on.
    pub const fn is_shut(&self, side: Side) -> bool {
        matches!(self.direction(side).sink, Sink::Shut)
    }

    /// Bytes to read from `side` at most when there is no pipe free and a splice must be a copy.
    pub fn copy_limit(&self, side: Side) -> usize {
        self.direction(side).copy_limit()
    }

    /// What becomes of the session as it stands.
    pub fn verdict(&self) -> Verdict {
        if Side::BOTH.iter().all(|&side| self.is_broken(side)) {
            return Verdict::Drop;
        }
        for side in Side::BOTH {
            if self.is_broken(side) {
                return if self.direction(side).is_delivered() {
                    Verdict::Reset(side.other())
                } else {
                    Verdict::Run
                };
            }
        }
        if self.is_shut(Side::Client) && self.is_shut(Side::Backend) {
            Verdict::Close
        } else {
            Verdict::Run
        }
    }

    /// Whether one side has finished or broken, so that the shorter time-out applies.
    pub fn is_half_closed(&self) -> bool {
        let mut sides = Side::BOTH.into_iter();
        sides.any(|side| self.is_broken(side) || self.is_finished(side))
    }

    /// Whether `side` has finished: its FIN has been read.
    pub const fn is_finished(&self, side: Side) -> bool {
        !matches!(self.direction(side).source, Source::Open)
    }

    /// Bytes received from `side`.
    pub const fn received(&self, side: Side) -> u64 {
        self.direction(side).received
    }

    /// Bytes received from `side` and not yet written to the other.
    pub const fn parked(&self, side: Side) -> usize {
        self.direction(side).parked as usize
    }

    /// Bytes received from `side` and written to the other.
    pub const fn sent(&self, side: Side) -> u64 {
        let direction = self.direction(side);
        direction.received - direction.parked as u64
    }

    /// Whether anything but waiting is left to do for either direction.
    pub fn is_ready(&self) -> bool {
        Side::BOTH.iter().any(|&side| self.step(side) != Step::Wait)
    }

    /// The connection of `side` is broken: nothing more can be written to it, and it must be read
    /// to its end, because bytes may be queued before the reset.
    fn break_off(&mut self, side: Side, how: Connection) {
        let connection = match side {
            Side::Client => &mut self.client,
            Side::Backend => &mut self.backend,
        };
        *connection = how.max(*connection);
        self.direction_mut(side.other()).sink = Sink::Broken;
        let direction = self.direction_mut(side);
        direction.readable = true;
        direction.read_on = true;
    }

    /// Whether the connection of `side` is.
    pub fn is_broken(&self, side: Side) -> bool {
        self.connection(side) != Connection::Sound
    }

    const fn connection(&self, side: Side) -> Connection {
        match side {
            Side::Client => self.client,
            Side::Backend => self.backend,
        }
    }

    const fn direction(&self, side: Side) -> &Direction {
        match side {
            Side::Client => &self.client_to_backend,
            Side::Backend => &self.backend_to_client,
        }
    }

    const fn direction_mut(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Client => &mut self.client_to_backend,
            Side::Backend => &mut self.backend_to_client,
        }
    }
}

/// How one side's connection is, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Connection {
    /// As far as we know.
    Sound,
    /// Broken, but no call has been given the error yet. A read that finds the end of the stream
    /// all the same has found a FIN that came before the reset.
    Failing,
    /// Broken, and the error was reported: reads find an end whether there was a FIN or not.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// More may come.
    Open,
    /// It has sent a FIN.
    Finished,
    /// It was reset; everything before the reset has been read.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    /// It takes bytes.
    Open,
    /// The FIN has been passed on.
    Shut,
    /// Its connection is broken; parked bytes will never arrive.
    Broken,
}

/// Bytes on their way from one socket, the source, to the other, the sink.
#[derive(Debug)]
struct Direction {
    received: u64,
    parked: u32,
    /// Bytes the next read may bring: few for a sink that takes few, so that few are parked.
    limit: u32,
    /// Bytes in large reads without a small one between them, saturating.
    streak: u32,
    source: Source,
    sink: Sink,
    /// Writes that took bytes, saturating.
    writes: u8,
    carriage: Carriage,
    readable: bool,
    writable: bool,
    /// A short read does not mean that the source is empty: an error or an urgent byte is queued.
    read_on: bool,
    /// The source's FIN is queued, so an empty source has finished.
    ending: bool,
}

impl Direction {
    const fn new(carriage: Carriage) -> Self {
        Self {
            received: 0,
            parked: 0,
            limit: READ_BYTES_MAX,
            streak: 0,
            source: Source::Open,
            sink: Sink::Open,
            writes: 0,
            carriage,
            readable: false,
            writable: false,
            read_on: false,
            ending: false,
        }
    }

    fn step(&self) -> Step {
        if !matches!(self.sink, Sink::Open) {
            return Step::Wait;
        }
        if self.parked > 0 {
            return if self.writable {
                Step::Flush
            } else {
                Step::Wait
            };
        }
        match self.source {
            Source::Open if self.readable && self.writable => {
                if self.is_streaming() {
                    Step::Splice(self.splice_limit())
                } else {
                    Step::Copy(self.copy_limit())
                }
            }
            Source::Finished => Step::Shut,
            Source::Open | Source::Broken => Step::Wait,
        }
    }

    fn copy_limit(&self) -> usize {
        self.limit.min(COPY_BYTES_MAX) as usize
    }

    fn splice_limit(&self) -> usize {
        self.limit.max(COPY_BYTES_MAX) as usize
    }

    const fn is_streaming(&self) -> bool {
        match self.carriage {
            Carriage::Adaptive => self.streak >= STREAM_BYTES,
            Carriage::Splice => true,
            Carriage::Copy => false,
        }
    }

    fn on_read(&mut self, read: Read, connection: Connection) {
        match read {
            Read::Bytes { count, emptied } => {
                let bytes = u32::try_from(count).expect("a read is bounded by its step");
                self.received += u64::from(bytes);
                self.parked += bytes;
                // What comes into an emptied socket is a new event: this saves the read that
                // would only say that it is empty.
                self.readable = !emptied || self.read_on;
                if emptied && self.ending && !self.read_on {
                    self.source = Source::Finished;
                }
                self.streak = if bytes >= LARGE_READ_BYTES {
                    self.streak.saturating_add(bytes)
                } else {
                    0
                };
            }
            Read::Empty => self.readable = false,
            Read::End => {
                self.readable = false;
                self.source = if connection == Connection::Broken {
                    Source::Broken
                } else {
                    Source::Finished
                };
            }
            Read::Failed => {
                self.readable = false;
                self.source = Source::Broken;
            }
            Read::NoSplice => self.carriage = Carriage::Copy,
        }
    }

    fn on_written(&mut self, count: usize) {
        let bytes = u32::try_from(count).expect("a write is bounded by what is parked");
        debug_assert!(bytes <= self.parked, "more written than parked");
        self.parked -= bytes;
        self.writes = self.writes.saturating_add(u8::from(bytes > 0));
        if self.parked > 0 {
            self.writable = false;
            self.limit = bytes.clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        } else if bytes >= self.limit {
            self.limit = (self.limit * 2).min(READ_BYTES_MAX);
        }
    }

    /// Whether everything a broken source has sent has been passed on, or never can be.
    const fn is_delivered(&self) -> bool {
        match self.sink {
            Sink::Open => matches!(self.source, Source::Broken) && self.parked == 0,
            Sink::Shut | Sink::Broken => true,
        }
    }
}

/// Bytes read in one copy at most: what fits the second-level cache beside everything else, and the
/// most a direction parks when it copies.
pub const COPY_BYTES_MAX: u32 = 64 * 1024;

/// Bytes in one read when the sink takes few: below this, system calls cost more than the memory
/// saves.
const READ_BYTES_MIN: u32 = 16 * 1024;

/// Bytes in a pipe at most. A pipe is bounded by slots, not bytes, so this is the back-pressure.
/// Large, because each splice wakes the other end once: a quarter of it costs twice the time.
pub const READ_BYTES_MAX: u32 = 1024 * 1024;

/// Copy costs less than splice below this size of a read, and as much at it.
const LARGE_READ_BYTES: u32 = 16 * 1024;

/// Bytes in a row of large reads after which a direction streams, and splice is cheaper.
const STREAM_BYTES: u32 = 3 * COPY_BYTES_MAX;

const _: () = assert!(READ_BYTES_MIN <= COPY_BYTES_MAX && COPY_BYTES_MAX <= READ_BYTES_MAX);

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// What a socket has queued for its reader.
    #[derive(Clone, Debug, PartialEq)]
    enum Queued {
        Bytes(usize),
        Fin,
        Reset,
    }

    /// A socket as the kernel would show it: edges, short writes, and 0 after a reported error.
    #[derive(Debug, Default)]
    struct Fake {
        queue: VecDeque<Queued>,
        room: usize,
        reset: bool,
        error_reported: bool,
        got: usize,
        got_fin: bool,
        news: Ready,
    }

    impl Fake {
        fn send(&mut self, count: usize) {
            if self.is_ended() {
                return;
            }
            self.news.readable = true;
            if let Some(Queued::Bytes(queued)) = self.queue.back_mut() {
                *queued += count;
            } else {
                self.queue.push_back(Queued::Bytes(count));
            }
        }

        fn finish(&mut self) {
            if !self.is_ended() {
                self.queue.push_back(Queued::Fin);
                self.news.readable = true;
                self.news.ending = true;
            }
        }

        fn reset(&mut self) {
            if !self.reset {
                self.reset = true;
                self.queue.push_back(Queued::Reset);
                self.news = Ready {
                    readable: true,
                    writable: true,
                    ending: true,
                    failed: true,
                    urgent: false,
                };
            }
        }

        fn is_ended(&self) -> bool {
            self.reset || self.queue.contains(&Queued::Fin)
        }

        fn make_room(&mut self, count: usize) {
            self.room += count;
            self.news.writable = true;
        }

        fn read(&mut self, asked: usize) -> Read {
            match self.queue.front_mut() {
                None => Read::Empty,
                Some(Queued::Bytes(count)) => {
                    let taken = asked.min(*count);
                    *count -= taken;
                    if *count == 0 {
                        self.queue.pop_front();
                    }
                    Read::Bytes {
                        count: taken,
                        emptied: taken < asked,
                    }
                }
                Some(Queued::Fin) => Read::End,
                Some(Queued::Reset) if self.error_reported => Read::End,
                Some(Queued::Reset) => {
                    self.error_reported = true;
                    Read::Failed
                }
            }
        }

        fn write(&mut self, count: usize) -> Write {
            if self.reset {
                self.error_reported = true;
                return Write::Failed;
            }
            let taken = count.min(self.room);
            self.room -= taken;
            self.got += taken;
            Write::Bytes(taken)
        }
    }

    #[derive(Debug)]
    struct World {
        relay: Relay,
        client: Fake,
        backend: Fake,
    }

    impl World {
        fn new(carriage: Carriage) -> Self {
            let mut world = Self {
                relay: Relay::new(carriage),
                client: Fake::default(),
                backend: Fake::default(),
            };
            world.client.make_room(100_000);
            world.backend.make_room(100_000);
            world
        }

        fn fake(&mut self, side: Side) -> &mut Fake {
            match side {
                Side::Client => &mut self.client,
                Side::Backend => &mut self.backend,
            }
        }

        /// Delivers news and steps until both directions wait; false if that never happens.
        fn settle(&mut self) -> bool {
            for side in Side::BOTH {
                let news = std::mem::take(&mut self.fake(side).news);
                self.relay.on_ready(side, news);
            }
            for _ in 0..10_000 {
                if !self.relay.is_ready() {
                    return true;
                }
                for side in Side::BOTH {
                    self.one_step(side);
                    self.check(side);
                }
            }
            false
        }

        fn one_step(&mut self, side: Side) {
            match self.relay.step(side) {
                Step::Copy(limit) | Step::Splice(limit) => {
                    let read = self.fake(side).read(limit);
                    self.relay.on_read(side, read);
                }
                Step::Flush => {
                    let parked = self.relay.parked(side);
                    let write = self.fake(side.other()).write(parked);
                    self.relay.on_write(side, write);
                }
                Step::Shut => {
                    let sink = self.fake(side.other());
                    let passed = !sink.reset;
                    sink.got_fin |= passed;
                    self.relay.on_shut(side, passed);
                }
                Step::Wait => {}
            }
        }

        fn check(&mut self, side: Side) {
            let relay = &self.relay;
            assert_eq!(
                relay.received(side),
                relay.sent(side) + relay.parked(side) as u64
            );
            assert!(relay.parked(side) <= READ_BYTES_MAX as usize);
            let sent = relay.sent(side);
            assert_eq!(sent, self.fake(side.other()).got as u64);
        }
    }

    #[test]
    fn a_fin_follows_the_last_byte_and_the_other_way_stays_open() {
        let mut world = World::new(Carriage::Adaptive);
        world.client.send(150_000);
        world.client.finish();
        assert!(world.settle());
        assert_eq!(world.backend.got, 100_000);
        assert!(!world.backend.got_fin, "no FIN while bytes are parked");
        world.backend.make_room(50_000);
        assert!(world.settle());
        assert!(world.backend.got_fin);
        assert_eq!(world.relay.verdict(), Verdict::Run);
        assert!(world.relay.is_half_closed());
        world.backend.send(10);
        world.backend.finish();
        assert!(world.settle());
        assert_eq!(world.client.got, 10);
        assert_eq!(world.relay.verdict(), Verdict::Close);
    }

    #[test]
    fn bytes_before_a_reset_arrive_before_it() {
        let mut world = World::new(Carriage::Adaptive);
        world.backend.send(100_500);
        world.backend.reset();
        assert!(world.settle());
        assert_eq!(world.client.got, 100_000);
        assert_eq!(
            world.relay.verdict(),
            Verdict::Run,
            "500 bytes still wait for room"
        );
        world.client.make_room(500);
        assert!(world.settle());
        assert_eq!(world.client.got, 100_500);
        assert!(!world.client.got_fin);
        assert_eq!(world.relay.verdict(), Verdict::Reset(Side::Client));
    }

    #[test]
    fn a_fin_before_a_reset_arrives_before_it() {
        let mut world = World::new(Carriage::Adaptive);
        world.backend.send(300);
        world.backend.finish();
        world.backend.reset();
        assert!(world.settle());
        assert_eq!(world.client.got, 300);
        assert!(world.client.got_fin);
        assert_eq!(world.relay.verdict(), Verdict::Reset(Side::Client));
    }

    #[test]
    fn an_end_of_file_after_a_reported_error_is_not_a_fin() {
        let mut world = World::new(Carriage::Adaptive);
        assert!(world.settle());
        world.backend.send(300);
        world.backend.reset();
        world.backend.news = Ready::default(); // the write below is first to learn of the reset
        world.client.send(1);
        assert!(world.settle());
        assert_eq!(world.client.got, 300, "what arrived before the reset");
        assert!(!world.client.got_fin);
        assert_eq!(world.relay.verdict(), Verdict::Reset(Side::Client));
    }

    #[test]
    fn both_sides_reset_is_a_drop() {
        let mut world = World::new(Carriage::Copy);
        world.backend.reset();
        world.client.reset();
        assert!(world.settle());
        assert_eq!(world.relay.verdict(), Verdict::Drop);
    }

    #[test]
    fn a_stream_is_spliced_and_a_trickle_is_copied_again() {
        let mut world = World::new(Carriage::Adaptive);
        world.client.make_room(10_000_000);
        for _ in 0..4 {
            world.backend.send(64 * 1024);
            assert!(world.settle());
        }
        assert!(world.relay.backend_to_client.is_streaming());
        assert!(!world.relay.client_to_backend.is_streaming());
        world.backend.send(100);
        assert!(world.settle());
        assert!(!world.relay.backend_to_client.is_streaming());
    }

    #[test]
    fn a_sink_that_takes_little_is_offered_little() {
        let mut world = World::new(Carriage::Copy);
        world.backend.send(1_000_000);
        assert!(world.settle());
        for _ in 0..40 {
            world.client.make_room(1_000);
            assert!(world.settle());
        }
        assert!(world.relay.parked(Side::Backend) <= READ_BYTES_MIN as usize);
    }

    #[derive(Clone, Debug)]
    enum Action {
        Send(Side, usize),
        Finish(Side),
        Reset(Side),
        MakeRoom(Side, usize),
    }

    fn side() -> impl Strategy<Value = Side> {
        prop_oneof![Just(Side::Client), Just(Side::Backend)]
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            6 => (side(), 1..200_000usize).prop_map(|(side, n)| Action::Send(side, n)),
            6 => (side(), 1..300_000usize).prop_map(|(side, n)| Action::MakeRoom(side, n)),
            1 => side().prop_map(Action::Finish),
            1 => side().prop_map(Action::Reset),
        ]
    }

    proptest! {
        /// Whatever happens: it settles, every byte is accounted for, nobody sees a FIN that was
        /// not sent or that overtook a byte, and a reset is passed on once all room is made.
        #[test]
        fn no_broken_transfer_looks_complete(
            actions in proptest::collection::vec(action(), 1..40),
            carriage in prop_oneof![
                Just(Carriage::Adaptive), Just(Carriage::Copy), Just(Carriage::Splice)
            ],
        ) {
            let mut world = World::new(carriage);
            let mut sent = [0usize; 2];
            let mut finished = [false; 2];
            for action in actions {
                match action {
                    Action::Send(side, count) => {
                        if !world.fake(side).is_ended() {
                            sent[side as usize] += count;
                        }
                        world.fake(side).send(count);
                    }
                    Action::Finish(side) => {
                        finished[side as usize] |= !world.fake(side).is_ended();
                        world.fake(side).finish();
                    }
                    Action::Reset(side) => world.fake(side).reset(),
                    Action::MakeRoom(side, count) => world.fake(side).make_room(count),
                }
                prop_assert!(world.settle(), "a busy loop");
            }
            for side in Side::BOTH {
                world.fake(side).make_room(100_000_000);
            }
            prop_assert!(world.settle(), "a busy loop");
            for side in Side::BOTH {
                let other = side.other();
                let sink = world.fake(other);
                let (got, got_fin, sink_reset) = (sink.got, sink.got_fin, sink.reset);
                prop_assert!(got <= sent[side as usize]);
                if got_fin {
                    prop_assert!(finished[side as usize], "a FIN was invented");
                    prop_assert_eq!(got, sent[side as usize], "a FIN overtook bytes");
                }
                if !sink_reset {
                    prop_assert_eq!(got, sent[side as usize], "bytes are missing");
                }
            }
            let expected = match (world.client.reset, world.backend.reset) {
                (true, true) => Verdict::Drop,
                (true, false) => Verdict::Reset(Side::Backend),
                (false, true) => Verdict::Reset(Side::Client),
                (false, false) if finished == [true; 2] => Verdict::Close,
                (false, false) => Verdict::Run,
            };
            prop_assert_eq!(world.relay.verdict(), expected);
        }
    }
}
