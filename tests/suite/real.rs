//! Real software on both ends, which notices a lost, wrong or late byte itself.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

use crate::harness::program::{
    Printed, Program, Software, free_address, hand_over, run, unprivileged,
};
use crate::harness::proxy::Folder;
use crate::harness::{Axis, Config, Payload, Proxy, connect, scale, until};

/// For a program that has much to do.
const LONG: Duration = Duration::from_secs(300);

#[test]
fn nginx_downloads_are_whole() {
    let Some(software) = Software::find("nginx_downloads_are_whole", &["nginx"]) else {
        return;
    };
    let folder = Folder::new();
    let size = scale::amount(64, 1024) * 1024 * 1024;
    let digest = write_file(&folder.path().join("file"), size);
    let servers: Vec<_> = (0..3).map(|n| nginx(&software, &folder, n)).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|(address, _)| *address).collect();
    for splice in ["auto", "off", "always"] {
        let start = Instant::now();
        let axis = Axis {
            splice,
            workers: 2,
            ..Axis::PLAIN
        };
        let proxy = Proxy::start(&Config::of(axis, &addresses).pool("balance = \"round_robin\""));
        let front = proxy.front();
        let downloads: Vec<_> = (0..DOWNLOADS)
            .map(|_| std::thread::spawn(move || download(front)))
            .collect();
        for download in downloads {
            assert_eq!(download.join().unwrap(), (size, digest));
        }
        let totals = proxy.finish();
        let mut bytes = 0;
        for name in ["a", "b", "c"] {
            let sessions = totals.backend(name, "sessions");
            assert!(
                sessions.abs_diff(DOWNLOADS / 3) <= 1,
                "{sessions} on {name}"
            );
            bytes += totals.backend(name, "bytes to client");
        }
        assert!(
            bytes > size * DOWNLOADS,
            "{bytes}: the file and its headers"
        );
        println!(
            "splice {splice}: {DOWNLOADS} downloads of {size} bytes, all equal, in {:.1} s",
            start.elapsed().as_secs_f64()
        );
    }
}

/// Downloads at a time.
const DOWNLOADS: u64 = 64;

/// Writes `size` bytes that look random; their digest.
fn write_file(path: &Path, size: u64) -> [u8; 32] {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let mut digest = Sha256::new();
    let mut piece = vec![0; 1024 * 1024];
    for position in (0..size).step_by(piece.len()) {
        Payload::new(64).fill(position, &mut piece);
        file.write_all(&piece).unwrap();
        digest.update(&piece);
    }
    file.flush().unwrap();
    digest.finalize().into()
}

/// Serves what is in `folder`; a single process, so that its end is the end of all of it.
fn nginx(software: &Software, folder: &Folder, number: u32) -> (SocketAddr, Program) {
    let address = free_address();
    let own = folder.path().join(format!("nginx-{number}"));
    std::fs::create_dir(&own).unwrap();
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        write!(temporary, "{kind}_temp_path {}/{kind}; ", own.display()).unwrap();
    }
    let text = format!(
        "daemon off; master_process off; pid {own}/pid;
        events {{ worker_connections 1024; }}
        http {{
            {temporary} access_log off; sendfile on;
            server {{ listen {address}; root {root}; }}
        }}",
        own = own.display(),
        root = folder.path().display()
    );
    std::fs::write(own.join("nginx.conf"), text).unwrap();
    hand_over(&own);
    let mut command = software.command("nginx");
    command.args(["-e", "stderr", "-p"]).arg(&own);
    command.arg("-c").arg(own.join("nginx.conf"));
    let program = Program::start(unprivileged(command), Signal::SIGTERM);
    until("nginx listens", || TcpStream::connect(address).is_ok());
    (address, program)
}

/// Downloads the file: its size and digest.
fn download(front: SocketAddr) -> (u64, [u8; 32]) {
    let mut stream = connect(front);
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(b"GET /file HTTP/1.0\r\n\r\n").unwrap();
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    while line != "\r\n" {
        line.clear();
        assert_ne!(
            reader.read_line(&mut line).unwrap(),
            0,
            "the end of the headers"
        );
    }
    let mut digest = Sha256::new();
    let mut size = 0;
    loop {
        let piece = reader.fill_buf().unwrap();
        if piece.is_empty() {
            return (size, digest.finalize().into());
        }
        digest.update(piece);
        let count = piece.len();
        size += count as u64;
        reader.consume(count);
    }
}

#[test]
fn redis_serves_a_benchmark_a_monitor_and_a_subscriber() {
    let case = "redis_serves_a_benchmark_a_monitor_and_a_subscriber";
    let Some(software) = Software::find(case, &["redis-server", "redis-benchmark"]) else {
        return;
    };
    let folder = Folder::new();
    hand_over(folder.path());
    let (address, _redis) = redis(&software, &folder);
    let proxy = Proxy::start(&Config::of(
        Axis {
            workers: 2,
            ..Axis::PLAIN
        },
        &[address],
    ));
    let front = proxy.front();

    let mut monitor = Redis::connect(front);
    assert_eq!(monitor.ask("MONITOR"), "+OK");
    let monitor = std::thread::spawn(move || monitor.watch());
    let mut subscriber = Redis::connect(front);
    assert_eq!(subscriber.ask("SUBSCRIBE news"), "*3");
    let is_over = AtomicBool::new(false);
    let requests = scale::amount(20_000, 1_000_000);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(front, &is_over));
        benchmark(&software, &folder, front, requests);
        is_over.store(true, SeqCst);
        let published = publisher.join().unwrap();
        subscriber.expect_news(published);
        println!("{requests} requests of each kind, {published} messages published");
    });

    let mut last = Redis::connect(front);
    for command in COMMANDS {
        let calls = last.calls_of(command);
        assert!(calls >= requests, "{calls} of {command}");
    }
    assert_eq!(last.ask("SHUTDOWN NOSAVE"), "", "it ends without an answer");
    let seen = monitor.join().unwrap();
    for command in COMMANDS {
        let count = seen.iter().filter(|name| *name == command).count() as u64;
        assert!(count >= requests, "the monitor saw {count} of {command}");
    }
    drop((last, subscriber));
    proxy.finish();
}

/// What redis-benchmark is told to do.
const COMMANDS: [&str; 4] = ["SET", "GET", "INCR", "LPUSH"];

fn redis(software: &Software, folder: &Folder) -> (SocketAddr, Program) {
    let address = free_address();
    let mut command = software.command("redis-server");
    command.args(["--bind", &address.ip().to_string()]);
    command.args(["--port", &address.port().to_string()]);
    command.args(["--save", "", "--appendonly", "no", "--dir"]);
    command.arg(folder.path());
    let program = Program::start(unprivileged(command), Signal::SIGTERM);
    until("redis listens", || TcpStream::connect(address).is_ok());
    (address, program)
}

fn benchmark(software: &Software, folder: &Folder, front: SocketAddr, requests: u64) {
    let mut command = software.command("redis-benchmark");
    command.args(["-h", &front.ip().to_string()]);
    command.args(["-p", &front.port().to_string()]);
    command.args(["-n", &requests.to_string(), "-c", "50", "-P", "4", "-q"]);
    command.args(["-t", &COMMANDS.join(",").to_lowercase()]);
    let printed = run(command, folder, LONG);
    let text = printed.text().replace('\r', "\n") + &printed.error;
    assert!(!text.contains("rror"), "{text}");
    let results = text
        .lines()
        .filter(|line| line.contains("requests per second"));
    assert_eq!(results.count(), COMMANDS.len(), "{text}");
}

/// Publishes numbers until `is_over`; how many.
fn publish(front: SocketAddr, is_over: &AtomicBool) -> u64 {
    let mut redis = Redis::connect(front);
    let mut number = 0;
    while !is_over.load(SeqCst) {
        number += 1;
        let receivers = redis.ask(&format!("PUBLISH news {number}"));
        assert_eq!(receivers, ":1");
    }
    number
}

/// One connection that speaks the inline form of Redis's protocol.
struct Redis(BufReader<TcpStream>);

impl Redis {
    fn connect(front: SocketAddr) -> Self {
        let stream = connect(front);
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self(BufReader::new(stream))
    }

    /// The first line of the answer.
    fn ask(&mut self, command: &str) -> String {
        let line = format!("{command}\r\n");
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The names of all commands that a monitor sees, to the end.
    fn watch(mut self) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                return names;
            }
            let name = line.split('"').nth(1).unwrap_or_else(|| panic!("{line}"));
            names.push(name.to_uppercase());
        }
    }

    /// The numbers from 1 to `last` as messages, and nothing else, after a subscription.
    fn expect_news(&mut self, last: u64) {
        for rest in ["$9", "subscribe", "$4", "news", ":1"] {
            assert_eq!(self.line(), rest);
        }
        for number in 1..=last {
            let number = number.to_string();
            let length = format!("${}", number.len());
            for part in ["*3", "$7", "message", "$4", "news", &length, &number] {
                assert_eq!(self.line(), part);
            }
        }
    }

    /// How often the server was given a command.
    fn calls_of(&mut self, command: &str) -> u64 {
        let length = self.ask("INFO commandstats");
        let length: usize = length.trim_start_matches('$').parse().unwrap();
        let mut text = vec![0; length + 2];
        self.0.read_exact(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let start = format!("cmdstat_{}:calls=", command.to_lowercase());
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        let calls = line.and_then(|line| line.split(',').next());
        calls
            .unwrap_or_else(|| panic!("no {start} in {text}"))
            .parse()
            .unwrap()
    }
}

#[test]
fn postgres_transactions_and_copies_are_whole() {
    let case = "postgres_transactions_and_copies_are_whole";
    let names = ["initdb", "postgres", "pgbench", "psql"];
    let Some(software) = Software::find(case, &names) else {
        return;
    };
    let folder = Folder::new();
    hand_over(folder.path());
    let (address, _postgres) = postgres(&software, &folder);
    let proxy = Proxy::start(&Config::of(
        Axis {
            workers: 2,
            ..Axis::PLAIN
        },
        &[address],
    ));
    let database = Database {
        software: &software,
        folder: &folder,
        front: proxy.front(),
    };

    database.run("pgbench", &["--initialize", "--quiet"]);
    let each = scale::amount(500, 12_500).to_string();
    let load = [
        "--client=8",
        "--jobs=2",
        "--no-vacuum",
        "--transactions",
        &each,
    ];
    let printed = database.run("pgbench", &load);
    let all = 8 * each.parse::<u64>().unwrap();
    let processed = format!("transactions actually processed: {all}/{all}\n");
    assert!(printed.text().contains(&processed), "{printed:?}");
    assert!(
        printed.text().contains("failed transactions: 0 "),
        "{printed:?}"
    );

    let rows = scale::amount(100_000, 2_000_000);
    database.query(&format!(
        "CREATE TABLE source AS SELECT i, repeat((i * {FACTOR} % {MODULUS})::text, i::int % 8) AS text
         FROM generate_series(1::bigint, {rows}) AS i"
    ));
    let copied = database.run(
        "psql",
        &["--command", "COPY (TABLE source ORDER BY i) TO STDOUT"],
    );
    let bytes = std::fs::read(&copied.output).unwrap();
    assert!(bytes == table(rows), "the copied table is another one");
    database.query("CREATE TABLE target (LIKE source)");
    let mut back = database.command("psql", &["--command", "COPY target FROM STDIN"]);
    back.stdin(File::open(&copied.output).unwrap());
    run(back, &folder, LONG);
    let digest = |name: &str| {
        database.query(&format!(
            "SELECT count(*), md5(string_agg(i || text, ',' ORDER BY i)) FROM {name}"
        ))
    };
    let (source, target) = (digest("source"), digest("target"));
    assert!(source.starts_with(&format!("{rows}|")), "{source}");
    assert_eq!(source, target);
    println!(
        "{all} transactions, {} bytes copied out and back",
        bytes.len()
    );
    proxy.finish();
}

fn postgres(software: &Software, folder: &Folder) -> (SocketAddr, Program) {
    let data = folder.path().join("data");
    let mut command = software.command("initdb");
    command.args([
        "--username=postgres",
        "--auth=trust",
        "--no-locale",
        "--encoding=UTF8",
    ]);
    command.args(["--no-sync", "--pgdata"]).arg(&data);
    run(unprivileged(command), folder, LONG);
    let address = free_address();
    let mut command = software.command("postgres");
    command.arg("-D").arg(&data);
    command.args(["-p", &address.port().to_string(), "-c"]);
    command.arg(format!("listen_addresses={}", address.ip()));
    command.args(["-c", "unix_socket_directories=", "-c", "fsync=off"]);
    // It stops at once, and all processes of it.
    let program = Program::start(unprivileged(command), Signal::SIGQUIT);
    program
        .log
        .wait_text("database system is ready to accept connections");
    (address, program)
}

/// The table that the database was told to make, as a copy of it must look.
fn table(rows: u64) -> Vec<u8> {
    let mut text = String::new();
    for i in 1..=rows {
        let word = (i * FACTOR % MODULUS).to_string();
        let times = usize::try_from(i % 8).expect("below 8");
        writeln!(text, "{i}\t{}", word.repeat(times)).unwrap();
    }
    text.into_bytes()
}

/// Make numbers that look random.
const FACTOR: u64 = 2_654_435_761;
const MODULUS: u64 = 4_294_967_296;

/// The database behind the proxy.
struct Database<'a> {
    software: &'a Software,
    folder: &'a Folder,
    front: SocketAddr,
}

impl Database<'_> {
    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.software.command(program);
        command.args(["--host", &self.front.ip().to_string()]);
        command.args(["--port", &self.front.port().to_string()]);
        command.arg("--username=postgres").args(arguments);
        command.arg("postgres");
        command.env("PSQLRC", "/dev/null").env("LC_ALL", "C");
        command
    }

    #[track_caller]
    fn run(&self, program: &str, arguments: &[&str]) -> Printed {
        run(self.command(program, arguments), self.folder, LONG)
    }

    /// What psql prints for a statement.
    #[track_caller]
    fn query(&self, statement: &str) -> String {
        let arguments = [
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--command",
            statement,
        ];
        self.run("psql", &arguments).text()
    }
}
