//! What a choice of a backend costs, what its tables cost to build, and what is decided for a chunk:
//! `cargo bench`.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use evenkeel::lb::backend::{BackendState, Counts};
use evenkeel::lb::balance::key::KeyPart;
use evenkeel::lb::balance::pick::{Balancer, Client, Member, Policy, Settings};
use evenkeel::lb::health::outlier;
use evenkeel::lb::rng::Rng;
use evenkeel::lb::time::Tick;
use evenkeel::lb::traffic::phase::{Phase, Rules};
use evenkeel::lb::traffic::relay::{Carriage, Read, Ready, Relay, Side, Write};

fn main() {
    divan::main();
}

fn members(count: usize) -> Vec<Member> {
    let named = (0..count).map(|index| format!("backend-{index}"));
    named
        .map(|name| Member {
            state: Arc::new(BackendState::new("pool", &name, true)),
            weight: 1,
            max_connections: 0,
            backup: false,
        })
        .collect()
}

fn settings(policy: Policy) -> Settings {
    Settings {
        policy,
        hash_key: vec![
            KeyPart::SourceIp,
            KeyPart::SourcePort,
            KeyPart::DestinationIp,
            KeyPart::DestinationPort,
        ],
        load_factor: 0.0,
        fail_open: true,
        panic_threshold: 0.0,
        counts: Counts::Open,
        soft_connections: 0,
        slow_start: Duration::ZERO,
        outlier: outlier::Settings {
            consecutive_failures: 5,
            eject_time: Duration::from_secs(30),
            max_ejected: 0.5,
        },
    }
}

/// One choice; its slot is given back at once.
fn pick(bencher: Bencher<'_, '_>, policy: Policy, count: usize) {
    let balancer = Balancer::new(settings(policy), members(count));
    let destination = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let mut rng = Rng::new(1);
    let mut clients = Rng::new(2);
    bencher.bench_local(|| {
        let port = u16::try_from(clients.below(65_536)).expect("below 65,536");
        let source = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let client = Client::new(source, destination);
        black_box(balancer.pick(&client, &[], Tick::ZERO, &mut rng)).expect("everybody is up")
    });
}

macro_rules! picks {
    ($($name:ident => $policy:ident),* $(,)?) => {
        $(
            #[divan::bench(args = [3, 100, 10_000])]
            fn $name(bencher: Bencher<'_, '_>, count: usize) {
                pick(bencher, Policy::$policy, count);
            }
        )*
    };
}

picks! {
    hash => Hash,
    rendezvous => Rendezvous,
    round_robin => RoundRobin,
    least_connections => LeastConnections,
    least_busy => LeastBusy,
    least_latency => LeastLatency,
    power_of_two => PowerOfTwo,
    random => Random,
    first => First,
}

/// The Maglev table of a pool.
#[divan::bench(args = [10, 100, 1_000, 10_000], sample_count = 10)]
fn build_hash(bencher: Bencher<'_, '_>, count: usize) {
    bencher
        .with_inputs(|| members(count))
        .bench_local_values(|members| Balancer::new(settings(Policy::Hash), members));
}

/// What the relay decides for one chunk that an event announces and that is copied whole.
fn relay_chunk(relay: &mut Relay, side: Side) {
    let news = Ready {
        readable: true,
        ..Ready::default()
    };
    relay.on_ready(side, news);
    black_box(relay.step(side));
    relay.on_read(
        side,
        Read::Bytes {
            count: 200,
            emptied: true,
        },
    );
    relay.on_write(side, Write::Bytes(200));
    black_box(relay.step(side));
    black_box(relay.verdict());
}

fn relay() -> Relay {
    let mut relay = Relay::new(Carriage::Adaptive);
    let room = Ready {
        writable: true,
        ..Ready::default()
    };
    for side in Side::BOTH {
        relay.on_ready(side, room);
    }
    relay
}

/// An exchange: a chunk there and a chunk back.
#[divan::bench]
fn relay_exchange(bencher: Bencher<'_, '_>) {
    let mut relay = relay();
    bencher.bench_local(|| {
        relay_chunk(&mut relay, Side::Client);
        relay_chunk(&mut relay, Side::Backend);
    });
}

/// The same, and what phase it is in, which is busy all the time.
#[divan::bench]
fn relay_exchange_and_phase(bencher: Bencher<'_, '_>) {
    let state = Arc::new(BackendState::new("pool", "a", true));
    let mut lease = state.reserve(0, Counts::Open).expect("no limit");
    let rules = Rules {
        linger: Duration::from_secs(2),
        min_bytes: 0,
    };
    let (mut relay, mut phase, mut now) = (relay(), Phase::Idle, 0);
    bencher.bench_local(|| {
        relay_chunk(&mut relay, Side::Client);
        if phase.on_bytes(200, 0, &rules, Tick::from_ms(now)).is_some() {
            lease.set_busy(true);
        }
        now += 1;
        relay_chunk(&mut relay, Side::Backend);
        let change = phase.on_bytes(0, 200, &rules, Tick::from_ms(now));
        if change.is_some() {
            let meter = state.meters.of_worker(0);
            meter.first_byte.observe(Duration::from_millis(1));
            lease.set_busy(true);
        }
    });
}

/// What a chunk of a stream costs more because of its phase.
#[divan::bench(args = [0, 1])]
fn phase_of_a_stream(bencher: Bencher<'_, '_>, apart_ms: u64) {
    let state = BackendState::new("pool", "a", true);
    let rules = Rules {
        linger: Duration::from_secs(2),
        min_bytes: 0,
    };
    let (mut phase, mut now) = (Phase::Waiting { since: Tick::ZERO }, 0);
    bencher.bench_local(|| {
        now += apart_ms;
        let change = phase.on_bytes(0, black_box(200), &rules, Tick::from_ms(now));
        if change.is_some() {
            let meter = state.meters.of_worker(0);
            meter.gap.observe(Duration::from_millis(apart_ms));
        }
    });
}
