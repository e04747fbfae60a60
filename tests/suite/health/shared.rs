//! Backends that are probed together, because their checks are the same.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use crate::harness::wait::within;
use crate::harness::{Axis, Config, DEADLINE, Family, Proxy, Served};

/// A backend whose answers to its first probes are known. One of them waits until it may go.
struct Counted {
    served: Served,
    probes: Arc<AtomicU64>,
    may_go: Arc<AtomicBool>,
}

/// These probes fail.
const WRONG: [u64; 6] = [0, 1, 2, 5, 6, 7];

/// The last of them waits.
const HELD: u64 = 7;

impl Counted {
    fn start() -> Self {
        let (probes, may_go) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let served = Served::start(Family::V4.any(), {
            let (probes, may_go) = (Arc::clone(&probes), Arc::clone(&may_go));
            move |mut stream| {
                let number = probes.fetch_add(1, SeqCst);
                if number == HELD {
                    within(DEADLINE, || may_go.load(SeqCst));
                }
                let is_wrong = WRONG.contains(&number);
                stream.write_all(if is_wrong { b"bad!" } else { b"good" })
            }
        });
        Self {
            served,
            probes,
            may_go,
        }
    }
}

/// A pool of one backend and the same probes as the first.
fn beside(name: &str, address: SocketAddr, settings: &str) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n\
         [pool.{name}.health]\ntype = \"send_expect\"\nexpect_bytes = \"good\"\n\
         interval = \"1s\"\nfast_interval = \"20ms\"\ndown_interval = \"20ms\"\n{settings}\n\
         [[pool.{name}.backend]]\nname = \"x\"\naddress = \"{address}\""
    )
}

#[test]
fn hlt_19_backends_with_the_same_check_are_probed_once() {
    let counted = Counted::start();
    let address = counted.served.address;
    let config = Config::of(Axis::PLAIN, &[address])
        .health("type = \"send_expect\"")
        .health("expect_bytes = \"good\"")
        .health("interval = \"1s\"")
        .health("fast_interval = \"20ms\"")
        .health("down_interval = \"20ms\"");
    let mut proxy = Proxy::start(&config.clone().more(&beside("other", address, "")));
    proxy.expect("is down: another answer than the expected one");
    let wait = |mark: usize, text: &str| {
        proxy
            .log
            .wait(mark, text, |line| line.contains(text).then_some(()));
    };
    // Three failures, of which each has to have all, and two successes.
    for text in ["is down", "is up"] {
        for name in ["pool/a", "other/x"] {
            wait(0, &format!("backend \"{name}\" {text}"));
        }
    }

    // One leaves in the middle of a third failure; the other has that one too, and goes on.
    let mark = proxy.log.mark();
    assert!(within(DEADLINE, || counted.probes.load(SeqCst) > HELD));
    proxy.reload(&config).unwrap();
    counted.may_go.store(true, SeqCst);
    wait(mark, "backend \"pool/a\" is down");
    wait(mark, "backend \"pool/a\" is up");
    let of_other = |line: &str| {
        let is_state = line.contains("is down") || line.contains("is up");
        (line.contains("other/x") && is_state).then_some(())
    };
    assert_eq!(proxy.log.find(mark, of_other), None);
    proxy.finish();
}

#[test]
fn hlt_19_another_check_of_the_same_backend_is_made_by_itself() {
    let wrong = Served::start(Family::V4.any(), |mut stream| stream.write_all(b"bad!"));
    let config = Config::of(Axis::PLAIN, &[wrong.address])
        .health("type = \"send_expect\"")
        .health("expect_bytes = \"bad!\"")
        .health("interval = \"1s\"")
        .health("initial = \"down\"")
        .more(&beside("other", wrong.address, "fall = 2"));
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"other/x\" is down: another answer than the expected one");
    proxy.log.wait_text("backend \"pool/a\" is up");
    proxy.log.wait_text("backend \"other/x\" is down");
    proxy.finish();
}
