//! Listening sockets that the service manager has bound.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use nix::sys::signal::Signal;
use socket2::SockRef;

use super::{TWO_WORKERS, after, ping};
use crate::harness::backend::listen;
use crate::harness::proxy::Folder;
use crate::harness::stream::bounded;
use crate::harness::{
    Config, DEADLINE, EVENKEEL, Listening, Proxy, Served, connect, process, scale,
};

/// The command with these sockets as the descriptors 3 and 4, said to be for `whom`.
fn hand_over(command: &Command, whom: &str, first: OwnedFd, second: Option<OwnedFd>) -> Command {
    let count = 1 + usize::from(second.is_some());
    let fourth = if second.is_some() { "4<&1" } else { "" };
    let mut command = after(
        &format!(
            "exec 3<&0 {fourth} 0</dev/null 1>/dev/null; \
             export LISTEN_PID={whom} LISTEN_FDS={count}"
        ),
        command,
    );
    command.stdin(first);
    if let Some(second) = second {
        command.stdout(second);
    }
    command
}

#[test]
fn inherited_sockets_serve_and_outlive_reload_and_stop() {
    let backend = Served::echo(TWO_WORKERS.family);
    let folder = Folder::new();
    let path = folder.path().join("socket");
    let tcp = listen(TWO_WORKERS.family.any());
    let unix = UnixListener::bind(&path).unwrap();
    let address = tcp.local_addr().unwrap();
    let without = Config::of(TWO_WORKERS, &[backend.address]);
    let with = without.clone().listener(&format!(
        "bind = [\"{address}\", \"unix:{}\"]",
        path.display()
    ));
    let sockets = process::listening_inodes(address);
    assert_eq!(sockets.len(), 1);
    // They come before anybody serves them.
    let mut early = connect(address);
    let mut early_unix = UnixStream::connect(&path).unwrap();
    let (first, second) = (tcp.try_clone().unwrap(), unix.try_clone().unwrap());
    let mut proxy = Proxy::start_with(&with, |command| {
        hand_over(&command, "$$", first.into(), Some(second.into()))
    });
    let all_serve = || {
        for _ in 0..8 {
            ping(&mut connect(address));
            ping(&mut UnixStream::connect(&path).unwrap());
        }
        assert_eq!(process::listening_inodes(address), sockets);
    };
    ping(&mut early);
    ping(&mut early_unix);
    all_serve();
    proxy.reload(&with).unwrap();
    all_serve();
    // A listener that goes leaves its clients to wait until it comes back.
    proxy.reload(&without).unwrap();
    ping(&mut early);
    let (mut late, mut late_unix) = (connect(address), UnixStream::connect(&path).unwrap());
    proxy.reload(&with).unwrap();
    ping(&mut late);
    ping(&mut late_unix);
    all_serve();
    drop((early, early_unix, late, late_unix));
    proxy.signal(Signal::SIGTERM);
    assert!(proxy.wait_exit(DEADLINE).success());
    proxy.check_end();
    assert!(path.exists(), "it is not ours to remove");
    assert_eq!(process::listening_inodes(address), sockets);
    // The next process takes over where this one has ended.
    let mut between = connect(address);
    let proxy = Proxy::start_with(&with, |command| {
        hand_over(&command, "$$", tcp.into(), Some(unix.into()))
    });
    ping(&mut between);
    drop(between);
    proxy.finish();
}

#[test]
fn sessions_of_an_inherited_socket_are_like_all_others() {
    let backend = Listening::start(TWO_WORKERS.family);
    let tcp = listen(TWO_WORKERS.family.any());
    let address = tcp.local_addr().unwrap();
    let config =
        Config::of(TWO_WORKERS, &[backend.address]).listener(&format!("bind = \"{address}\""));
    let proxy = Proxy::start_with(&config, |command| {
        hand_over(&command, "$$", tcp.into(), None)
    });
    let mut client = connect(address);
    let mut server = backend.accept();
    client.write_all(b"before ").unwrap();
    // An urgent byte is a byte like the others.
    SockRef::from(&client).send_out_of_band(b"!").unwrap();
    client.write_all(b" after").unwrap();
    let mut got = [0; 14];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"before ! after");
    // The proxy's end probes a client that is silent.
    let ends = (address.port(), client.local_addr().unwrap().port());
    let entry = process::tcp_sockets()[&ends];
    assert_eq!(entry.timer, 2, "a keep-alive timer: {entry:?}");
    drop((client, server));
    proxy.finish();
}

#[test]
fn a_port_below_1024_is_served_without_privileges() {
    if !nix::unistd::geteuid().is_root() {
        return scale::skip("a_port_below_1024", "only root can bind it for the proxy");
    }
    let Some(tcp) = (512..1024)
        .rev()
        .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
    else {
        return scale::skip("a_port_below_1024", "all of them are taken");
    };
    let backend = Served::echo(TWO_WORKERS.family);
    let address = tcp.local_addr().unwrap();
    let without = Config::of(TWO_WORKERS, &[backend.address]).global("user = \"nobody\"");
    let with = without
        .clone()
        .also_listening("low", &format!("\"{address}\""));
    let proxy = Proxy::start_with(&with, |command| hand_over(&command, "$$", tcp.into(), None));
    ping(&mut connect(address));
    proxy.reload(&without).unwrap();
    proxy.reload(&with).unwrap();
    ping(&mut connect(address));
    proxy.finish();
}

#[test]
fn what_is_handed_over_wrongly_is_refused_by_name() {
    let folder = Folder::new();
    let config = Config::new(TWO_WORKERS).backend("127.0.0.1:1");
    fs::write(folder.config(), config.text()).unwrap();
    let unused = listen(TWO_WORKERS.family.any());
    let address = unused.local_addr().unwrap();
    let session = TcpStream::connect(address).unwrap();
    let file = fs::File::open("/dev/null").unwrap();
    for (what, socket) in [
        (
            format!("inherited socket {address}: no listener binds it"),
            OwnedFd::from(unused.try_clone().unwrap()),
        ),
        (
            "inherited descriptor 3 is not a listening stream socket".to_owned(),
            OwnedFd::from(session),
        ),
        (
            "inherited descriptor 3 is not a socket".to_owned(),
            OwnedFd::from(file),
        ),
    ] {
        let mut command = Command::new(EVENKEEL);
        command.arg("run").arg("-c").arg(folder.config());
        let output = hand_over(&command, "$$", socket, None).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains(&what), "{what}:\n{log}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let backend = Served::echo(TWO_WORKERS.family);
    let tcp = listen(TWO_WORKERS.family.any());
    let address = tcp.local_addr().unwrap();
    let proxy = Proxy::start_with(&Config::of(TWO_WORKERS, &[backend.address]), |command| {
        hand_over(&command, "1", tcp.try_clone().unwrap().into(), None)
    });
    ping(&mut connect(proxy.front()));
    let mut client = connect(address);
    let (server, _) = tcp.accept().unwrap();
    bounded(server).write_all(b"still ours").unwrap();
    client.read_exact(&mut [0; 10]).unwrap();
    proxy.finish();
}
