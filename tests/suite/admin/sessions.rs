//! Who is open, against the real process.

use std::io::{Read as _, Write as _};
use std::net::UdpSocket;

use serde_json::Value;

use super::{TWO_WORKERS, ping};
use crate::harness::{Config, DEADLINE, Listening, Proxy, Served, connect, reset, until};

fn list(answer: &Value) -> &Vec<Value> {
    answer["sessions"].as_array().expect("a list")
}

#[test]
fn sessions_are_told_one_by_one_as_they_are() {
    let backend = Listening::start(TWO_WORKERS.family);
    let proxy = Proxy::start(&Config::of(TWO_WORKERS, &[backend.address]).admin());
    let mut client = connect(proxy.front());
    let mut served = backend.accept();
    let session = |state: &str| {
        let mut found = Value::Null;
        until(state, || {
            found = list(&proxy.json("sessions"))[0].clone();
            found["state"] == state
        });
        found
    };
    session("opening");
    client.write_all(b"question").unwrap();
    served.read_exact(&mut [0; 8]).unwrap();
    let waiting = session("waiting");
    assert_eq!(waiting["client"], client.local_addr().unwrap().to_string());
    assert_eq!(
        (&waiting["listener"], &waiting["pool"]),
        (&"front".into(), &"pool".into())
    );
    assert_eq!(
        (&waiting["backend"], &waiting["bytes_to_backend"]),
        (&"a".into(), &8.into())
    );
    assert!(waiting["age_s"].as_f64().unwrap() < DEADLINE.as_secs_f64());
    served.write_all(b"the answer").unwrap();
    client.read_exact(&mut [0; 10]).unwrap();
    let answered = list(&proxy.json("sessions"))[0].clone();
    assert_eq!(answered["bytes_to_client"], 10, "{answered}");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    session("ending");
    drop((client, served));
    until("no session", || list(&proxy.json("sessions")).is_empty());
    proxy.finish();
}

#[test]
fn the_oldest_are_told_and_the_others_counted() {
    let backends = [0, 1].map(|_| Served::echo(TWO_WORKERS.family));
    let config = Config::of(TWO_WORKERS, &backends.each_ref().map(|it| it.address)).admin();
    let proxy = Proxy::start(&config.pool("balance = \"round_robin\""));
    let mut clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = connect(proxy.front());
            ping(&mut client);
            client
        })
        .collect();
    let answer = proxy.json("sessions --limit 3");
    assert_eq!((&answer["count"], list(&answer).len()), (&10.into(), 3));
    let ages = list(&answer).iter().map(|it| it["age_s"].as_f64().unwrap());
    assert!(
        ages.collect::<Vec<_>>().is_sorted_by(|a, b| a >= b),
        "{answer}"
    );
    let text = proxy.told("sessions --limit 3");
    assert!(
        text.ends_with("and 7 younger ones; --limit says how many are shown\n"),
        "{text}"
    );
    let answer = proxy.json("sessions --pool pool --backend b");
    assert_eq!(answer["count"], 5);
    assert!(
        list(&answer).iter().all(|it| it["backend"] == "b"),
        "{answer}"
    );
    assert_eq!(proxy.json("sessions --pool other")["count"], 0);
    assert_eq!(proxy.client("sessions --limit 1000000").code, Some(1));
    clients.drain(..).for_each(reset);
    proxy.finish();
}

#[test]
fn who_waits_and_flows_are_told_too() {
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]).admin();
    let proxy = Proxy::start(&config.pool("max_connections = 1"));
    let mut first = connect(proxy.front());
    ping(&mut first);
    let second = connect(proxy.front());
    until("somebody waits", || {
        proxy.status()["connections"]["waiting"] == 1
    });
    let answer = proxy.json("sessions");
    let arriving = list(&answer)
        .iter()
        .find(|it| it["state"] == "arriving")
        .unwrap();
    assert_eq!(arriving["backend"], Value::Null);
    assert_eq!(arriving["client"], second.local_addr().unwrap().to_string());
    reset(second);
    reset(first);
    proxy.finish();

    let backend = UdpSocket::bind(TWO_WORKERS.family.any()).unwrap();
    let address = backend.local_addr().unwrap();
    let proxy = Proxy::start(
        &Config::udp(TWO_WORKERS, &[address])
            .flows("idle_timeout = \"5s\"")
            .admin(),
    );
    let client = UdpSocket::bind(TWO_WORKERS.family.any()).unwrap();
    client.send_to(b"hello", proxy.front()).unwrap();
    backend.recv_from(&mut [0; 8]).unwrap();
    let answer = proxy.json("sessions");
    let flow = &list(&answer)[0];
    assert_eq!(
        (&flow["state"], &flow["backend"]),
        (&"flow".into(), &"a".into())
    );
    assert_eq!(flow["client"], client.local_addr().unwrap().to_string());
    proxy.finish();
}
