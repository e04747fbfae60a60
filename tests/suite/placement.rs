//! Which worker a session lives on.

use std::net::TcpStream;

use crate::harness::{Axis, Config, Listening, Proxy, process, until};

/// How many of `clients` each worker serves.
fn per_worker(proxy: &Proxy, clients: &[TcpStream]) -> Vec<Vec<usize>> {
    let front = proxy.front().port();
    let port = |client: &TcpStream| client.local_addr().expect("connected").port();
    let sockets = process::tcp_sockets();
    let inode = |client: &TcpStream| {
        sockets
            .get(&(front, port(client)))
            .map(|socket| socket.inode)
    };
    let inodes: Vec<_> = clients.iter().map(inode).collect();
    let on = |watched: &Vec<u64>| {
        let is_on = |(place, inode): (usize, &Option<u64>)| {
            inode
                .is_some_and(|inode| watched.contains(&inode))
                .then_some(place)
        };
        inodes.iter().enumerate().filter_map(is_on).collect()
    };
    let sets = process::epoll_sets(proxy.id());
    sets.iter()
        .map(on)
        .filter(|places: &Vec<usize>| !places.is_empty())
        .collect()
}

#[test]
fn long_sessions_do_not_pile_up_on_one_worker() {
    const SESSIONS: usize = 60;
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let backend = Listening::start(axis.family);
    let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
    let open = |count: usize| -> (Vec<TcpStream>, Vec<TcpStream>) {
        (0..count).map(|_| backend.pair(proxy.front())).unzip()
    };
    let (clients, servers) = open(SESSIONS);
    let shares = per_worker(&proxy, &clients);
    assert_eq!(
        shares.iter().map(Vec::len).sum::<usize>(),
        SESSIONS,
        "{shares:?}"
    );
    assert_eq!(shares.len(), 2, "both workers have some");

    // All sessions of one worker end, and as many new ones come. The kernel gives half of them to
    // the worker that is still loaded, which must pass most of those on.
    let keep = &shares[0];
    let stays = |place: &usize| keep.contains(place);
    let mut kept: Vec<_> = (0..)
        .zip(clients.into_iter().zip(servers))
        .filter(|(place, _)| stays(place))
        .map(|(_, pair)| pair)
        .collect();
    until("only the sessions of one worker are left", || {
        let left: Vec<_> = kept
            .iter()
            .map(|(client, _)| client.try_clone().unwrap())
            .collect();
        per_worker(&proxy, &left).len() == 1
    });
    let (clients, servers) = open(SESSIONS - kept.len());
    kept.extend(clients.into_iter().zip(servers));
    let all: Vec<_> = kept
        .iter()
        .map(|(client, _)| client.try_clone().unwrap())
        .collect();
    let loads: Vec<_> = per_worker(&proxy, &all).iter().map(Vec::len).collect();
    let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
    assert_eq!(loads.len(), 2, "{loads:?}");
    assert!(*most <= least + least / 4 + 8, "{loads:?}");
    drop((kept, all));
    proxy.finish();
}
