//! What a choice of a backend costs, and what its tables cost to build: `cargo bench`.

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
