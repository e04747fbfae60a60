//! What a file that says next to nothing stands for.

use super::*;
use crate::lb::backend::Counts;
use crate::lb::traffic::phase;

const DEFAULT_OUTLIER: outlier::Settings = outlier::Settings {
    consecutive_failures: 5,
    eject_time: Duration::from_secs(30),
    max_ejected: 0.5,
};

const DEFAULT_PHASE: phase::Rules = phase::Rules {
    linger: Duration::from_secs(2),
    min_bytes: 0,
};

fn five_tuple() -> Vec<KeyPart> {
    vec![
        KeyPart::SourceIp,
        KeyPart::SourcePort,
        KeyPart::DestinationIp,
        KeyPart::DestinationPort,
    ]
}

fn default_http() -> HttpAddress {
    HttpAddress {
        address: "127.0.0.1:9910".parse().unwrap(),
        is_default: true,
    }
}

const NO_LIFETIME: phase::Lifetime = phase::Lifetime {
    most: Duration::ZERO,
    jitter: Duration::ZERO,
};

const DEFAULT_DISCOVER: Discover = Discover {
    origins: Vec::new(),
    keeps_last: true,
    max_connections: 0,
};

fn default_queue() -> Queue {
    Queue {
        limits: queue::Limits {
            all: 1024,
            per_source: 0,
            is_fair: false,
        },
        timeout: Duration::from_secs(120),
        abort_on_close: true,
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let seconds = Duration::from_secs;
    let expected = Plan {
        global: default_global(),
        listeners: vec![Arc::new(default_listener())],
        pools: vec![Arc::new(Pool {
            name: "p".to_owned(),
            balance: Settings {
                policy: Policy::Hash,
                hash_key: five_tuple(),
                load_factor: 0.0,
                fail_open: true,
                panic_threshold: 0.0,
                counts: Counts::Open,
                soft_connections: 0,
                slow_start: Duration::ZERO,
                outlier: DEFAULT_OUTLIER,
            },
            connect_timeout: seconds(2),
            retries: 2,
            idle_timeout: seconds(3600),
            half_close_timeout: seconds(300),
            phase: DEFAULT_PHASE,
            lifetime: NO_LIFETIME,
            on_down: OnDown::Keep,
            refuse: Refuse::Reset,
            queue: default_queue(),
            sticky: None,
            send_proxy: SendProxy::Off,
            source: Source::Any,
            discover: DEFAULT_DISCOVER,
            health: Health::Probed(Probe {
                kind: ProbeKind::Tcp,
                interval: seconds(2),
                fast_interval: Duration::from_millis(500),
                down_interval: seconds(5),
                timeout: seconds(1),
                rise: 2,
                fall: 3,
                address: None,
                port: 0,
                initial_up: true,
                progress_is_alive: true,
            }),
            udp: default_flows(),
            backends: vec![default_backend()],
        })],
    };
    assert_eq!(load(MINIMAL, "f"), Ok(expected));
}

fn default_flows() -> Udp {
    Udp {
        rules: Rules {
            idle: Duration::from_secs(30),
            answers: Answers::Any,
            requests: 0,
            amplification: 0,
        },
        max_flows: 65_536,
        new_flows_per_second: 0,
        quic_server_id_length: 0,
    }
}

fn default_backend() -> Backend {
    Backend {
        name: "10.0.0.1:2".to_owned(),
        address: Address::Ip(address("10.0.0.1:2")),
        weight: 100,
        max_connections: 0,
        backup: false,
        server_id: None,
    }
}

fn default_global() -> Global {
    Global {
        access_log: None,
        admin_socket: AdminSocket::Default,
        http: Some(default_http()),
        workers: None,
        max_connections: None,
        drain_timeout: Duration::from_secs(300),
        user: None,
        group: None,
        splice: Splice::Auto,
        exec_probes: false,
        sandbox: Sandbox::Auto,
    }
}

fn default_listener() -> Listener {
    Listener {
        name: "a".to_owned(),
        bind: vec![Bind::Tcp(address("127.0.0.1:1"))],
        pool: "p".to_owned(),
        max_connections: 0,
        per_source: Limits::default(),
        allow: Vec::new(),
        deny: Vec::new(),
        accept_proxy: None,
        trusted: Vec::new(),
        preread: Preread {
            timeout: Duration::from_secs(3),
            size: 16 << 10,
        },
        routes: Vec::new(),
    }
}
