//! Backends whose probes pass and fail in turn.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::harness::process::resident;
use crate::harness::scale::amount;
use crate::harness::wait::within;
use crate::harness::{Axis, Config, Family, Proxy, Served};

/// A backend of which every other probe passes.
struct Flapping {
    served: Served,
    probes: Arc<AtomicU64>,
}

impl Flapping {
    fn start() -> Self {
        let probes = Arc::<AtomicU64>::default();
        let served = Served::start(Family::V4.any(), {
            let probes = Arc::clone(&probes);
            move |mut stream| {
                let is_wrong = probes.fetch_add(1, SeqCst) % 2 == 0;
                stream.write_all(if is_wrong { b"bad!" } else { b"good" })
            }
        });
        Self { served, probes }
    }

    fn config(&self) -> Config {
        Config::of(Axis::PLAIN, &[self.served.address])
            .health("type = \"send_expect\"")
            .health("expect_bytes = \"good\"")
            .health("fast_interval = \"1ms\"")
            .health("down_interval = \"1ms\"")
    }

    #[track_caller]
    fn wait(&self, probes: u64) {
        let all = within(Duration::from_secs(amount(60, 600)), || {
            self.probes.load(SeqCst) >= probes
        });
        assert!(all, "{} probes of {probes}", self.probes.load(SeqCst));
    }
}

#[test]
fn hlt_08_results_that_alternate_change_no_state() {
    let flapping = Flapping::start();
    let config = flapping
        .config()
        .health("interval = \"10s\"") // for the time-out, which is no longer
        .health("timeout = \"10s\"")
        .health("initial = \"down\"")
        .health("rise = 2");
    let proxy = Proxy::start(&config);
    flapping.wait(100);
    let before = resident(proxy.id());
    flapping.wait(amount(1_000, 200_000));
    let after = resident(proxy.id());
    assert!(
        after < before + GROWTH_MAX,
        "{before} bytes resident, {after} after more probes"
    );
    assert!(!proxy.log.has("backend \"pool/a\" is "), "it stays down");
    proxy.finish();
}

#[test]
fn hlt_08_a_backend_that_is_up_stays_up_while_it_flaps() {
    let flapping = Flapping::start();
    let config = flapping
        .config()
        .health("interval = \"200ms\"")
        .health("fall = 5");
    let proxy = Proxy::start(&config);
    flapping.wait(20);
    assert!(!proxy.log.has("backend \"pool/a\" is "), "it stays up");
    proxy.finish();
}

#[test]
fn hlt_08_the_log_of_a_backend_that_flaps_undamped_is_bounded() {
    let flapping = Flapping::start();
    let config = flapping
        .config()
        .health("interval = \"10ms\"")
        .health("rise = 1")
        .health("fall = 1");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down");
    flapping.wait(200);
    let told = proxy.log.count("backend \"pool/a\" is ");
    assert!(told >= 10, "only {told} lines: nothing was put to the test");
    // Twenty a minute; this may take a little more than one.
    assert!(told <= 40, "{told} lines");
    proxy.finish();
}

/// What an allocator may keep in bytes, whatever the program does.
const GROWTH_MAX: u64 = 4 * 1024 * 1024;
