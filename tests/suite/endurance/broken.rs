//! Transfers broken at random points by either side.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use evenkeel::sys::socket::unacknowledged;
use nix::sys::signal::Signal;

use crate::harness::stream::{is_reset, read_on, reset_on_close, uninterrupted};
use crate::harness::{
    Axis, Config, End, Listening, Payload, Proxy, Rng, on_every_axis, read_all, reset, scale, until,
};

#[test]
fn no_broken_transfer_looks_complete() {
    let start = Instant::now();
    let seed = scale::seed();
    let transfers = scale::amount(3_000, 10_000);
    let axes = ["off", "always"].into_iter().flat_map(|splice| {
        [1, 2].map(|workers| Axis {
            splice,
            workers,
            ..Axis::PLAIN
        })
    });
    let axes: Vec<Axis> = axes.collect();
    let tally = Tally::default();
    std::thread::scope(|scope| {
        for (n, axis) in axes.iter().enumerate() {
            let (tally, count) = (&tally, transfers / axes.len() as u64);
            scope.spawn(move || play_all(*axis, seed.wrapping_add(n as u64), count, tally));
        }
    });
    let [whole, by_sender, by_receiver, bytes] = tally.read();
    println!(
        "{by_sender} transfers cut by their sender, {by_receiver} by their receiver, {whole} whole; \
         {bytes} bytes arrived; {:.1} s",
        start.elapsed().as_secs_f64()
    );
    assert!(by_sender > transfers / 4 && by_receiver > transfers / 4 && whole > 0);
}

/// A server that has answered and closed resets a client that sends more. The answer is whole.
#[test]
fn a_fin_before_a_reset_is_passed_on_before_it() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        for from in [From::Client, From::Backend] {
            let (client, server) = backend.pair(proxy.front());
            let (mut sender, mut receiver) = match from {
                From::Client => (client, server),
                From::Backend => (server, client),
            };
            let sent = Payload::new(1).bytes(50_000);
            // The proxy sees all of it at once.
            proxy.signal(Signal::SIGSTOP);
            sender.write_all(&sent).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
            until("everything sent is at the proxy", || {
                unacknowledged(sender.as_fd()).unwrap() == 0
            });
            reset(sender);
            proxy.signal(Signal::SIGCONT);
            let (got, end) = read_all(&mut receiver);
            assert_eq!((got == sent, end), (true, End::Fin), "from {from:?}");
            until("the reset", || receiver.write(&[1]).is_err());
        }
        proxy.finish();
    });
}

/// Transfers on one proxy, some at a time.
fn play_all(axis: Axis, seed: u64, count: u64, tally: &Tally) {
    let backend = Listening::start(axis.family);
    let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
    let front = proxy.front();
    // One pair at a time: so both know that they are each other's ends.
    let backend = Mutex::new(backend);
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let backend = &backend;
            scope.spawn(move || {
                for n in (lane..count).step_by(LANE_STEP) {
                    let script = Script::new(axis, seed ^ (n << 8));
                    let pair = backend.lock().unwrap().pair(front);
                    tally.add(&script, play(&script, pair));
                }
            });
        }
    });
    proxy.finish();
}

/// Transfers at a time on one proxy.
const LANES: u64 = 4;
const LANE_STEP: usize = 4;

/// What happens in one transfer.
#[derive(Clone, Debug)]
struct Script {
    #[expect(dead_code, reason = "printed with a script that fails")]
    axis: Axis,
    seed: u64,
    from: From,
    cut: Cut,
    reading: Reading,
    /// The receiver finishes its own direction before anything is sent.
    half_closed: bool,
    /// Bytes of the whole transfer.
    size: usize,
    /// Bytes after which it is cut, if it is.
    cut_at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Client,
    Backend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// It is not: the control group.
    Never,
    /// The sender resets.
    BySender {
        way: Way,
        /// Its kernel has delivered everything to the proxy before, so nothing may be lost.
        delivered: bool,
    },
    /// The receiver resets.
    ByReceiver {
        way: Way,
        /// The sender has sent everything and finished, and waits.
        finished: bool,
    },
}

/// How a side breaks a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It asks for a reset.
    Reset,
    /// It closes with bytes left unread, of which the kernel makes a reset.
    Unread,
}

/// How the receiver reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Eagerly,
    InSmallPieces,
    /// Not before the sender has sent all that fits on the way, and cut it if it is who cuts.
    Late,
}

impl Script {
    fn new(axis: Axis, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut draw = |share: u64| rng.below(share) == 0;
        let way = if draw(2) { Way::Reset } else { Way::Unread };
        let cut = match (draw(10), draw(2)) {
            (true, _) => Cut::Never,
            (false, true) => Cut::BySender {
                way,
                delivered: draw(2),
            },
            (false, false) => Cut::ByReceiver {
                way,
                finished: draw(3),
            },
        };
        let from = if draw(2) { From::Client } else { From::Backend };
        // Once both directions have finished there is nothing left to break.
        let is_over = matches!(cut, Cut::ByReceiver { finished: true, .. });
        let half_closed = !is_over && draw(3);
        let reading = match rng.below(3) {
            0 => Reading::Eagerly,
            1 => Reading::InSmallPieces,
            _ => Reading::Late,
        };
        let bits = rng.below(23);
        let mut size = rng.size((1 << bits) + 1);
        if reading == Reading::Late
            && cut
                != (Cut::BySender {
                    way,
                    delivered: false,
                })
        {
            size = size.min(FITS_ON_THE_WAY);
        }
        let cut_at = rng.size(size + 1);
        Self {
            axis,
            seed,
            from,
            cut,
            reading,
            half_closed,
            size,
            cut_at,
        }
    }

    /// What the sender sends before it finishes, resets or waits.
    const fn to_send(&self) -> usize {
        match self.cut {
            Cut::BySender { .. } => self.cut_at,
            Cut::Never | Cut::ByReceiver { .. } => self.size,
        }
    }

    const fn leaves_unread(&self) -> bool {
        matches!(
            self.cut,
            Cut::BySender {
                way: Way::Unread,
                ..
            }
        )
    }
}

/// What the sender saw.
struct Sent {
    count: usize,
    end: Option<End>,
}

/// Plays both sides and checks what they saw; the bytes that arrived.
fn play(script: &Script, (client, server): (TcpStream, TcpStream)) -> usize {
    let (sender, receiver) = match script.from {
        From::Client => (client, server),
        From::Backend => (server, client),
    };
    let payload = Payload::new(script.seed).bytes(script.size);
    let (tell, told) = channel();
    let (sent, (arrived, end)) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| send(script, sender, &payload, tell));
        let received = receive(script, receiver, &payload, &told);
        (sending.join().unwrap(), received)
    });
    match script.cut {
        Cut::Never => {
            assert_eq!((arrived, end), (script.size, Some(End::Fin)), "{script:?}");
            assert_eq!(sent.end, Some(End::Fin), "{script:?}");
        }
        Cut::BySender { delivered, .. } => {
            assert_eq!(end, Some(End::Reset), "{arrived} arrived: {script:?}");
            assert!(arrived <= sent.count, "{script:?}");
            if delivered {
                assert_eq!(arrived, script.cut_at, "{script:?}");
            }
        }
        Cut::ByReceiver { .. } => assert_eq!(sent.end, Some(End::Reset), "{script:?}"),
    }
    arrived
}

fn send(script: &Script, mut stream: TcpStream, payload: &[u8], tell: Sender<usize>) -> Sent {
    if script.leaves_unread() {
        assert_eq!(
            uninterrupted(|| stream.peek(&mut [0])).unwrap(),
            1,
            "{script:?}"
        );
    } else if script.half_closed {
        let end = read_on(&mut stream, |_| {});
        if end == End::Reset && matches!(script.cut, Cut::ByReceiver { .. }) {
            // The receiver has finished and reset before its end was passed on.
            let _gone = tell.send(0);
            return Sent {
                count: 0,
                end: Some(end),
            };
        }
        assert_eq!(end, End::Fin, "{script:?}");
    }
    let payload = &payload[..script.to_send()];
    stream
        .set_nonblocking(script.reading == Reading::Late)
        .unwrap();
    let (count, is_broken) = write(&stream, payload, &mut Rng::new(script.seed));
    stream.set_nonblocking(false).unwrap();
    if let Cut::BySender { way, delivered } = script.cut {
        if delivered {
            assert_eq!(count, payload.len(), "{script:?}");
            until("everything sent is at the proxy", || {
                unacknowledged(stream.as_fd()).unwrap() == 0
            });
        }
        cut(stream, way);
        let _gone = tell.send(count);
        return Sent { count, end: None };
    }
    if !is_broken
        && !matches!(
            script.cut,
            Cut::ByReceiver {
                finished: false,
                ..
            }
        )
    {
        // Fails if the receiver was faster, which the read below sees.
        let _broken = stream.shutdown(Shutdown::Write);
    }
    let _gone = tell.send(count);
    let end = if is_broken {
        End::Reset
    } else if !script.half_closed {
        read_on(&mut stream, |_| panic!("nobody sent that: {script:?}"))
    } else if script.cut == Cut::Never {
        End::Fin
    } else {
        until("the reset", || stream.take_error().unwrap().is_some());
        End::Reset
    };
    let end = Some(end);
    Sent { count, end }
}

fn receive(
    script: &Script,
    mut stream: TcpStream,
    payload: &[u8],
    told: &Receiver<usize>,
) -> (usize, Option<End>) {
    if script.leaves_unread() {
        stream.write_all(&payload_of_nobody(script)).unwrap();
    }
    if script.half_closed {
        // Fails if the sender has cut it already, which the reads below see.
        let _broken = stream.shutdown(Shutdown::Write);
    }
    let mut available = script.size;
    if script.reading == Reading::Late {
        available = told.recv().unwrap();
    }
    let piece = match script.reading {
        Reading::InSmallPieces => 1 + script.size / 200,
        Reading::Eagerly | Reading::Late => 64 * 1024,
    };
    let mut arrived = 0;
    let mut check = |bytes: &[u8]| {
        let expected = payload.get(arrived..arrived + bytes.len());
        assert!(
            expected == Some(bytes),
            "not what was sent after {arrived}: {script:?}"
        );
        arrived += bytes.len();
        arrived
    };
    let Cut::ByReceiver { way, .. } = script.cut else {
        let end = read_on(
            &mut Pieces {
                stream: &stream,
                piece,
            },
            |bytes| {
                check(bytes);
            },
        );
        if !script.half_closed && end == End::Fin {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        return (arrived, Some(end));
    };
    let cut_at = script.cut_at.min(available);
    let mut buffer = vec![0; piece];
    let mut left = cut_at;
    while left > 0 {
        let limit = left.min(piece);
        let count = uninterrupted(|| stream.read(&mut buffer[..limit])).unwrap();
        assert_ne!(count, 0, "an end that nobody sent: {script:?}");
        left = cut_at - check(&buffer[..count]);
    }
    let way = if cut_at < available { way } else { Way::Reset };
    if way == Way::Unread {
        assert_eq!(
            uninterrupted(|| stream.peek(&mut [0])).unwrap(),
            1,
            "{script:?}"
        );
    }
    cut(stream, way);
    (arrived, None)
}

/// What a receiver sends that nobody reads.
fn payload_of_nobody(script: &Script) -> Vec<u8> {
    Payload::new(!script.seed).bytes(1 + script.size % 3_000)
}

/// Writes in random pieces until all is taken, nothing fits if the socket does not block, or the
/// connection is broken: the bytes taken, and whether it is.
fn write(mut stream: &TcpStream, bytes: &[u8], rng: &mut Rng) -> (usize, bool) {
    let mut count = 0;
    while count < bytes.len() {
        let limit = (count + 1 + rng.size(128 * 1024)).min(bytes.len());
        match uninterrupted(|| stream.write(&bytes[count..limit])) {
            Ok(taken) => count += taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (count, false),
            Err(error) if is_reset(&error) => return (count, true),
            Err(error) => panic!("neither taken nor broken: {error}"),
        }
    }
    (count, false)
}

fn cut(stream: TcpStream, way: Way) {
    if way == Way::Reset {
        reset_on_close(&stream);
    }
    drop(stream);
}

/// Reads few bytes at a time.
struct Pieces<'a> {
    stream: &'a TcpStream,
    piece: usize,
}

impl std::io::Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let limit = self.piece.min(buffer.len());
        self.stream.read(&mut buffer[..limit])
    }
}

/// Bytes that the kernels and the proxy take although nobody reads.
const FITS_ON_THE_WAY: usize = 128 * 1024;

/// Whole transfers, those cut by their senders and by their receivers, and bytes.
#[derive(Default)]
struct Tally([AtomicU64; 4]);

impl Tally {
    fn add(&self, script: &Script, arrived: usize) {
        let place = match script.cut {
            Cut::Never => 0,
            Cut::BySender { .. } => 1,
            Cut::ByReceiver { .. } => 2,
        };
        self.0[place].fetch_add(1, SeqCst);
        self.0[3].fetch_add(arrived as u64, SeqCst);
    }

    fn read(&self) -> [u64; 4] {
        self.0.each_ref().map(|count| count.load(SeqCst))
    }
}
