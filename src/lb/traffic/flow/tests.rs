//! Rules one by one, then a simulation on virtual time against a model that looks at everything.

use std::collections::BTreeMap;
use std::hash::BuildHasherDefault;

use super::*;
use crate::lb::rng::Rng;

type Hasher = BuildHasherDefault<std::hash::DefaultHasher>;

fn table() -> Table<u32, Hasher> {
    Table::new(Hasher::default())
}

fn route(client: u16) -> Route {
    let client = SocketAddr::from(([192, 0, 2, 1], client));
    Route::new(1, client, IpAddr::from([198, 51, 100, 1]))
}

fn rules(answers: Answers) -> Rules {
    Rules {
        idle: Duration::from_secs(30),
        answers,
        requests: 0,
        amplification: 0,
    }
}

fn datagrams(count: u32) -> Amount {
    Amount {
        count,
        bytes: u64::from(count) * 10,
    }
}

fn at(seconds: u64) -> Tick {
    Tick::from_ms(seconds * 1_000)
}

#[test]
fn a_route_is_what_it_was_made_of() {
    for (client, local) in [
        ("192.0.2.1:5", "198.51.100.1"),
        ("[2001:db8::1]:5", "2001:db8::2"),
    ] {
        let (client, local): (SocketAddr, IpAddr) =
            (client.parse().unwrap(), local.parse().unwrap());
        let route = Route::new(7, client, local);
        assert_eq!(
            (route.client(), route.local(), route.listener()),
            (client, local, 7)
        );
    }
    let mapped: SocketAddr = "[::ffff:192.0.2.1]:5".parse().unwrap();
    let plain: SocketAddr = "192.0.2.1:5".parse().unwrap();
    let local = IpAddr::from([0, 0, 0, 0]);
    assert_eq!(Route::new(1, mapped, local), Route::new(1, plain, local));
    assert_ne!(Route::new(1, plain, local), Route::new(2, plain, local));
    assert_eq!(size_of::<Route>(), 44);
}

#[test]
fn an_unanswered_flow_ends_early_and_its_client_cannot_keep_it() {
    let mut table = table();
    assert_eq!(
        table.on_client(at(0), &route(1), datagrams(1)),
        Verdict::New
    );
    let key = table.insert(at(0), route(1), rules(Answers::Any), datagrams(1), 0);
    assert_eq!(
        table.on_client(at(4), &route(1), datagrams(1)),
        Verdict::Known(key)
    );
    assert_eq!(table.due(key), Some(at(5)));
    assert_eq!(table.on_backend(at(4), key, 1), After::Keep);
    assert_eq!(table.due(key), Some(at(34)));
}

#[test]
fn a_silent_backend_loses_the_flow_however_much_the_client_sends() {
    let mut table = table();
    let key = table.insert(at(0), route(1), rules(Answers::Any), datagrams(1), 0);
    table.on_backend(at(1), key, 1);
    for second in 2..61 {
        table.on_client(at(second), &route(1), datagrams(1));
        assert_eq!(table.on_deadline(at(second), key), After::Keep);
    }
    assert_eq!(table.due(key), Some(at(61)));
    assert_eq!(table.on_deadline(at(61), key), After::Close);
}

#[test]
fn one_way_flows_live_by_what_the_client_sends() {
    let mut table = table();
    let key = table.insert(at(0), route(1), rules(Answers::None), datagrams(1), 0);
    for second in (0..600).step_by(29) {
        table.on_client(at(second), &route(1), datagrams(1));
        assert_eq!(table.due(key), Some(at(second + 30)));
    }
}

#[test]
fn a_flow_is_over_with_the_last_answer_to_the_last_request() {
    let mut table = table();
    let key = table.insert(at(0), route(1), rules(Answers::Each(3)), datagrams(1), 0);
    table.on_client(at(0), &route(1), datagrams(4));
    for answer in 1..15 {
        assert_eq!(
            table.on_backend(at(1), key, 1),
            After::Keep,
            "answer {answer}"
        );
    }
    assert_eq!(table.on_backend(at(1), key, 1), After::Close);
}

#[test]
fn after_its_requests_a_flow_waits_for_answers_and_the_client_begins_another() {
    let mut table = table();
    let limited = Rules {
        requests: 2,
        ..rules(Answers::Each(1))
    };
    let first = table.insert(at(0), route(1), limited, datagrams(1), 0);
    assert_eq!(
        table.on_client(at(0), &route(1), datagrams(1)),
        Verdict::Known(first)
    );
    assert_eq!(
        table.on_client(at(0), &route(1), datagrams(1)),
        Verdict::New
    );
    let second = table.insert(at(0), route(1), limited, datagrams(1), 0);
    assert_eq!(table.on_backend(at(1), first, 1), After::Keep);
    assert_eq!(table.on_backend(at(1), first, 1), After::Close);
    table.remove(first);
    assert_eq!(
        table.on_client(at(1), &route(1), datagrams(1)),
        Verdict::Known(second)
    );
}

#[test]
fn a_client_is_answered_a_multiple_of_what_it_has_sent() {
    let mut table = table();
    let limited = Rules {
        amplification: 3,
        ..rules(Answers::Any)
    };
    let key = table.insert(at(0), route(1), limited, datagrams(1), 0);
    let mut takes = |bytes| table.get_mut(key).unwrap().takes(bytes);
    assert_eq!((takes(31), takes(29), takes(2)), (false, true, false));
    assert_eq!((takes(1), takes(1), takes(0)), (true, false, true));
    table.on_client(at(1), &route(1), datagrams(2));
    let other = Rules {
        amplification: 1_000,
        ..limited
    };
    let flow = table.get_mut(key).unwrap();
    flow.restart(at(1), other);
    assert!(flow.takes(60) && !flow.takes(1));
    table.on_client(at(2), &route(1), datagrams(1));
    let flow = table.get_mut(key).unwrap();
    assert!(
        flow.takes(30) && !flow.takes(1),
        "its own limit, not another"
    );
}

#[test]
fn without_a_limit_everything_is_answered_and_no_amount_is_too_large_to_count() {
    let huge = Amount {
        count: u32::MAX,
        bytes: u64::MAX,
    };
    for amplification in [0, u32::MAX] {
        let mut table = table();
        let rules = Rules {
            amplification,
            ..rules(Answers::Any)
        };
        let key = table.insert(at(0), route(1), rules, huge, 0);
        table.on_client(at(0), &route(1), huge);
        let flow = table.get_mut(key).unwrap();
        assert!(flow.takes(u64::MAX));
        assert_eq!(flow.takes(1), amplification == 0);
    }
}

/// What the model knows of a flow.
#[derive(Debug)]
struct Modelled {
    rules: Rules,
    began: u64,
    client: u64,
    answers: Vec<u64>,
    requests: u32,
    /// Bytes of the client, and of answers that it got.
    sent: u64,
    answered: u64,
}

impl Modelled {
    /// The same rules as [`Flow::due`], from the whole history.
    fn due_ms(&self) -> u64 {
        let idle = u64::try_from(self.rules.idle.as_millis()).unwrap();
        let last_answer = self.answers.last().copied();
        match (self.rules.answers, last_answer) {
            (Answers::None, answer) => self.client.max(answer.unwrap_or(0)) + idle,
            (_, None) => self.began + idle.min(5_000),
            (_, Some(answer)) => (self.client.max(answer) + idle).min(answer + 2 * idle),
        }
    }
}

struct World {
    table: Table<u32, Hasher>,
    model: BTreeMap<FlowKey, Modelled>,
    /// The flow that takes the next datagram of each client.
    current: BTreeMap<u16, FlowKey>,
    now: u64,
    opened: u64,
    closed: u64,
}

impl World {
    fn step(&mut self, rng: &mut Rng) {
        let client = u16::try_from(rng.below(40)).unwrap();
        match rng.below(100) {
            0..45 => self.client_sends(client, rng),
            45..73 => self.backend_sends(rng),
            73..75 => self.moves(rng),
            75..95 => self.time_passes(rng.below(4_000)),
            95..98 => self.time_passes(rng.below(100_000)),
            _ => self.abort(rng),
        }
        self.check();
    }

    fn client_sends(&mut self, client: u16, rng: &mut Rng) {
        let amount = Amount {
            count: 1 + u32::try_from(rng.below(3)).unwrap(),
            bytes: rng.below(500),
        };
        let now = Tick::from_ms(self.now);
        let expected = self.current.get(&client).copied().filter(|key| {
            let flow = &self.model[key];
            flow.rules.requests == 0 || flow.requests < flow.rules.requests
        });
        match (self.table.on_client(now, &route(client), amount), expected) {
            (Verdict::Known(key), Some(same)) if key == same => {
                let flow = self.model.get_mut(&key).unwrap();
                flow.client = self.now;
                flow.requests += amount.count;
                flow.sent += amount.bytes;
            }
            (Verdict::New, None) => self.begin(client, amount, rng),
            other => panic!("client {client}: {other:?}"),
        }
    }

    fn any_rules(rng: &mut Rng) -> Rules {
        let answers = match rng.below(3) {
            0 => Answers::None,
            1 => Answers::Any,
            _ => Answers::Each(1 + u32::try_from(rng.below(2)).unwrap()),
        };
        Rules {
            idle: Duration::from_millis(500 + rng.below(60_000)),
            answers,
            requests: u32::try_from(rng.below(3)).unwrap() * 2,
            amplification: u32::try_from(rng.below(4)).unwrap(),
        }
    }

    fn begin(&mut self, client: u16, first: Amount, rng: &mut Rng) {
        let rules = Self::any_rules(rng);
        let now = Tick::from_ms(self.now);
        let key = self.table.insert(now, route(client), rules, first, 0);
        let (began, client_at) = (self.now, self.now);
        let flow = Modelled {
            rules,
            began,
            client: client_at,
            answers: Vec::new(),
            requests: first.count,
            sent: first.bytes,
            answered: 0,
        };
        assert!(
            self.model.insert(key, flow).is_none(),
            "a key was used twice"
        );
        self.current.insert(client, key);
        self.opened += 1;
    }

    fn backend_sends(&mut self, rng: &mut Rng) {
        let Some(key) = self.any(rng) else { return };
        let bytes = rng.below(700);
        let takes = self.table.get_mut(key).unwrap().takes(bytes);
        let flow = self.model.get_mut(&key).unwrap();
        let limit = u64::from(flow.rules.amplification);
        let fits = limit == 0 || flow.answered + bytes <= limit * flow.sent;
        assert_eq!(takes, fits, "{bytes} bytes: {flow:?}");
        flow.answered += if takes { bytes } else { 0 };
        let after = self.table.on_backend(Tick::from_ms(self.now), key, 1);
        let flow = self.model.get_mut(&key).unwrap();
        flow.answers.push(self.now);
        let over = match flow.rules.answers {
            Answers::Each(number) => flow.answers.len() >= (flow.requests * number) as usize,
            Answers::None | Answers::Any => false,
        };
        assert_eq!(after == After::Close, over, "{flow:?}");
        if over {
            self.close(key);
        }
    }

    fn moves(&mut self, rng: &mut Rng) {
        let Some(key) = self.any(rng) else { return };
        let rules = Self::any_rules(rng);
        let now = Tick::from_ms(self.now);
        self.table.get_mut(key).unwrap().restart(now, rules);
        let flow = self.model.get_mut(&key).unwrap();
        let amplification = flow.rules.amplification;
        flow.rules = Rules {
            amplification,
            ..rules
        };
        (flow.began, flow.client) = (self.now, self.now);
        flow.answers.clear();
    }

    fn time_passes(&mut self, ms: u64) {
        self.now += ms;
        let now = Tick::from_ms(self.now);
        let keys: Vec<FlowKey> = self.model.keys().copied().collect();
        for key in keys {
            let over = self.model[&key].due_ms() <= self.now;
            assert_eq!(self.table.on_deadline(now, key) == After::Close, over);
            if over {
                self.close(key);
            }
        }
    }

    fn abort(&mut self, rng: &mut Rng) {
        if let Some(key) = self.any(rng) {
            self.close(key);
        }
    }

    fn any(&self, rng: &mut Rng) -> Option<FlowKey> {
        let nth = usize::try_from(rng.below(self.model.len() as u64)).unwrap();
        self.model.keys().nth(nth).copied()
    }

    fn close(&mut self, key: FlowKey) {
        assert!(self.table.remove(key).is_some());
        assert!(self.table.remove(key).is_none(), "removed twice");
        self.model.remove(&key);
        self.current.retain(|_, current| *current != key);
        self.closed += 1;
    }

    fn check(&self) {
        assert_eq!(self.table.len(), self.model.len());
        assert_eq!(self.opened - self.closed, self.table.len() as u64);
        assert!(self.table.index.len() <= self.table.len());
        for (key, flow) in &self.model {
            assert_eq!(
                self.table.due(*key),
                Some(Tick::from_ms(flow.due_ms())),
                "{flow:?}"
            );
        }
    }
}

#[test]
fn a_simulation_agrees_with_the_model() {
    simulate(256);
}

#[test]
#[ignore = "takes a quarter of a minute; run with --ignored"]
fn a_long_simulation_agrees_with_the_model() {
    simulate(16_384);
}

/// So many seeds × 3,000 steps; a failure names its seed.
fn simulate(seeds: u64) {
    for seed in 0..seeds {
        let mut rng = Rng::new(seed);
        let mut world = World {
            table: table(),
            model: BTreeMap::new(),
            current: BTreeMap::new(),
            now: 0,
            opened: 0,
            closed: 0,
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..3_000 {
                world.step(&mut rng);
            }
            world.time_passes(1_000_000);
            assert!(
                world.table.is_empty() && world.table.index.is_empty(),
                "something is left"
            );
        }));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
