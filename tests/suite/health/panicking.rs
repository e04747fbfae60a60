//! So few backends are well that all are used.

use std::io;
use std::io::Write as _;
use std::net::Ipv4Addr;

use super::quick;
use crate::harness::{Axis, Config, Proxy, Served, Tagged, until};

#[test]
fn hlt_14_below_the_threshold_all_are_used_until_clearly_more_are_well() {
    let mut pool = Probed::start(4);
    let config = pool.config().pool("panic_threshold = 0.5");
    let mut proxy = Proxy::start(&config);
    proxy.expect("is down");
    proxy.expect("pool \"pool\": panic: only 25 % of it is well");
    pool.kill(0, &proxy);
    pool.kill(1, &proxy);
    let shares = pool.tagged.shares(proxy.front(), 8);
    assert_eq!(shares[..2], [0, 0], "half of it is not less than half");
    pool.kill(2, &proxy);
    wait_for("pool \"pool\": panic: only 25 % of it is well", &proxy);
    assert_eq!(pool.tagged.shares(proxy.front(), 8), [2; 4]);

    // Nor does a reload end it, or tell of it again.
    proxy.reload(&config.pool("retries = 1")).unwrap();
    assert_eq!(pool.tagged.shares(proxy.front(), 8), [2; 4]);

    pool.revive(2, &proxy);
    assert_eq!(
        pool.tagged.shares(proxy.front(), 8),
        [2; 4],
        "half of it is not more than half"
    );
    pool.revive(1, &proxy);
    wait_for("pool \"pool\": panic is over: 75 % of it is well", &proxy);
    let shares = pool.tagged.shares(proxy.front(), 9);
    assert_eq!(shares, [0, 3, 3, 3]);
    assert_eq!(proxy.log.count("panic"), 2);
    proxy.finish();
}

#[test]
fn hlt_14_without_a_threshold_the_last_one_serves_alone() {
    let mut pool = Probed::start(3);
    let mut proxy = Proxy::start(&pool.config());
    proxy.expect("is down");
    pool.kill(0, &proxy);
    pool.kill(1, &proxy);
    assert_eq!(pool.tagged.shares(proxy.front(), 6), [0, 0, 6]);
    assert_eq!(proxy.log.count("panic"), 0);
    proxy.finish();
}

/// Backends that serve whatever their probes, which ask another port of each, come to know.
struct Probed {
    tagged: Tagged,
    probed: Vec<Served>,
}

impl Probed {
    fn start(count: u8) -> Self {
        let address = |n| Ipv4Addr::new(127, 0, 0, 1 + n);
        let tagged = (0..count).map(|n| {
            Served::start((address(n), 0).into(), move |mut stream| {
                stream.write_all(&[b'a' + n])?;
                io::copy(&mut stream, &mut io::sink()).map(drop)
            })
        });
        let tagged = Tagged {
            backends: tagged.collect(),
        };
        let first = Served::echo_at((address(0), 0).into());
        let port = first.address.port();
        let others = (1..count).map(|n| Served::echo_at((address(n), port).into()));
        let probed = std::iter::once(first).chain(others).collect();
        Self { tagged, probed }
    }

    fn config(&self) -> Config {
        quick(Config::of(Axis::PLAIN, &self.tagged.addresses()))
            .health(&format!("port = {}", self.probed[0].address.port()))
            .pool("balance = \"round_robin\"")
    }

    fn kill(&mut self, nth: u8, proxy: &Proxy) {
        self.probed[usize::from(nth)].kill();
        wait(&format!("{}\" is down", char::from(b'a' + nth)), proxy);
    }

    fn revive(&mut self, nth: u8, proxy: &Proxy) {
        self.probed[usize::from(nth)].revive();
        wait(&format!("{}\" is up", char::from(b'a' + nth)), proxy);
    }
}

fn wait(what: &str, proxy: &Proxy) {
    proxy.log.wait_text(&format!("backend \"pool/{what}"));
}

/// It is noticed when somebody comes.
fn wait_for(line: &str, proxy: &Proxy) {
    until(line, || {
        Tagged::ask(proxy.front());
        proxy.log.has(line)
    });
}
