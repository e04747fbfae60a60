//! Real DNS: dnsperf asks three dnsmasq through the proxy.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::harness::process::processor_time;
use crate::harness::program::free_address;
use crate::harness::scale::{amount, skip};
use crate::harness::{Axis, Config, Proxy, until};

/// A DNS server with a small zone of its own; ended with it.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    child: Child,
}

impl Server {
    fn start() -> Self {
        Self::start_at(free_address())
    }

    fn start_at(address: SocketAddr) -> Self {
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
        ]);
        command.args([
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
            "--address=/test/192.0.2.1",
        ]);
        command.arg(format!("--listen-address={}", address.ip()));
        command.arg(format!("--port={}", address.port()));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let child = command.spawn().expect("dnsmasq is installed");
        until("the server listens", || TcpStream::connect(address).is_ok());
        Self { address, child }
    }

    /// Ends it as a crash does, and waits until it is gone.
    fn crash(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    fn busy(&self) -> Duration {
        processor_time(self.child.id())
    }

    /// Waits until it has answered many more questions.
    fn wait_served(&self) {
        let before = self.busy();
        until("the server works", || self.busy() > before + TICK);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have crashed on request.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What dnsperf found.
#[derive(Debug)]
struct Found {
    completed: u64,
    /// Not answered: in time, or before dnsperf was told to stop.
    lost: u64,
    right: u64,
    rate: u64,
}

/// A running dnsperf.
#[derive(Debug)]
struct Load(Child);

impl Load {
    /// Never more than [`OUTSTANDING`] questions are open, so that no socket on the way can overflow:
    /// whatever is lost, the proxy has lost or a dead server had.
    fn start(front: SocketAddr, questions: &Path, settings: &[String]) -> Self {
        let mut command = Command::new("dnsperf");
        command.args([
            "-s",
            &front.ip().to_string(),
            "-p",
            &front.port().to_string(),
        ]);
        command.args(["-c", "100", "-T", "1", "-q", &OUTSTANDING.to_string(), "-d"]);
        command.arg(questions).args(settings);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Self(command.spawn().expect("dnsperf is installed"))
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("our child").is_none()
    }

    /// Lets it end now and say what it has found.
    fn stop(self) -> Found {
        let id = i32::try_from(self.0.id()).expect("a process id");
        kill(Pid::from_raw(id), Signal::SIGINT).expect("our child");
        self.end()
    }

    fn end(self) -> Found {
        let output = self.0.wait_with_output().expect("our child");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |after: &str| {
            let (_, rest) = text.split_once(after)?;
            let rest = rest.trim_start();
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            rest[..end].parse::<u64>().ok()
        };
        let found = Found {
            completed: number("Queries completed:").unwrap_or(0),
            lost: number("Queries lost:").unwrap_or(0)
                + number("Queries interrupted:").unwrap_or(0),
            right: number("NOERROR").unwrap_or(0),
            rate: number("Queries per second:").unwrap_or(0),
        };
        assert!(found.completed > 0, "{text}");
        assert_eq!(found.right, found.completed, "{text}");
        println!("{found:?}");
        found
    }
}

#[test]
fn udp_33_one_answer_to_each_question_through_reloads_and_a_crash() {
    dns("udp_33_one_answer", "oneshot");
}

#[test]
fn udp_33_dialogs_through_reloads_and_a_crash() {
    dns("udp_33_dialogs", "dialog");
}

fn dns(case: &str, session: &str) {
    if !is_installed("dnsperf", "-h") || !is_installed("dnsmasq", "--version") {
        return skip(case, "dnsperf and dnsmasq are not both here");
    }
    let mut servers: Vec<Server> = (0..3).map(|_| Server::start()).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let two = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let config = Config::udp(two, &addresses)
        .pool("balance = \"round_robin\"")
        .flows(&format!("session = \"{session}\""))
        .flows("idle_timeout = \"1s\"")
        .health("type = \"tcp\"")
        .health("interval = \"100ms\"")
        .health("down_interval = \"50ms\"")
        .health("rise = 1")
        .health("fall = 1");
    let mut proxy = Proxy::start(&config);
    let questions = proxy.folder().join("questions");
    let names: String = (0..BLOCK).map(|n| format!("host-{n}.test A\n")).collect();
    std::fs::write(&questions, names).unwrap();
    let blocks = |blocks: u64| ["-n".to_owned(), blocks.to_string()];
    let capacity = Load::start(proxy.front(), &questions, &blocks(10)).end();
    assert_eq!(capacity.lost, 0, "at full speed");
    let pace = ["-Q".to_owned(), (capacity.rate / 2).max(1).to_string()];

    // Reloads alone lose nothing.
    let number = amount(30, 1_000);
    let settings = [pace.as_slice(), &blocks(number)].concat();
    let mut load = Load::start(proxy.front(), &questions, &settings);
    servers[0].wait_served();
    for nth in 0..20 {
        let weight = format!("weight = {}", 50 + nth);
        proxy.reload(&config.clone().with(&weight)).unwrap();
    }
    assert!(load.is_running(), "it was over before the reloads were");
    let found = load.end();
    assert_eq!((found.completed, found.lost), (number * BLOCK, 0));

    // A crash loses what that server had, and what was sent before anyone could know.
    proxy.expect("connect failed");
    proxy.expect("is down");
    let settings = [pace.as_slice(), &["-l".to_owned(), "600".to_owned()]].concat();
    let load = Load::start(proxy.front(), &questions, &settings);
    servers[1].wait_served();
    servers[1].crash();
    proxy.log.wait_text("backend \"pool/b\" is down");
    proxy.reload(&config).unwrap();
    servers[0].wait_served();
    let mark = proxy.log.mark();
    servers[1] = Server::start_at(addresses[1]);
    proxy.log.wait(mark, "that it is back", |line| {
        line.contains("backend \"pool/b\" is up").then_some(())
    });
    proxy.reload(&config.with("weight = 50")).unwrap();
    // A dialog stays where it has moved; there is none that is new.
    let working = if session == "oneshot" { 1 } else { 2 };
    servers[working].wait_served();
    let found = load.stop();
    assert!(found.lost <= LOST_AT_MOST, "{found:?}");

    // Once it is known to be down, it costs nothing.
    let mark = proxy.log.mark();
    servers[1].crash();
    proxy.log.wait(mark, "that it is down again", |line| {
        line.contains("backend \"pool/b\" is down").then_some(())
    });
    let found = Load::start(
        proxy.front(),
        &questions,
        &[pace.as_slice(), &blocks(5)].concat(),
    )
    .end();
    assert_eq!((found.completed, found.lost), (5 * BLOCK, 0));
    proxy.finish();
}

fn is_installed(command: &str, argument: &str) -> bool {
    Command::new(command).arg(argument).output().is_ok()
}

const NOBODY: u32 = 65_534;

/// Questions in a block, all different.
const BLOCK: u64 = 1_000;

/// Fewer than the socket of a server holds that is not given processor time for a while.
const OUTSTANDING: u64 = 150;

/// What the server had in its hands and one datagram of each of its clients. A server that was given no
/// processor time has all that is open in its hands; a proxy that went on asking a dead one would come
/// to a stop there, and the others would not go on working.
const LOST_AT_MOST: u64 = OUTSTANDING;

/// The kernel counts processor time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);
