//! The proxy under test: the real binary with a file of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Config;
use super::log::Log;
use super::process::{self, Descriptors};
use super::wait::{DEADLINE, until, within};

/// The binary.
pub const NAME: &str = env!("CARGO_BIN_EXE_evenkeel");

/// A running proxy. A case ends with [`Proxy::finish`].
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    pub log: Log,
    collector: Option<JoinHandle<()>>,
    folder: Folder,
    expected: Vec<String>,
    baseline: Descriptors,
    resident_max: u64,
}

/// What a proxy counted, as it says at its end.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    pub listeners: HashMap<String, HashMap<String, u64>>,
    pub backends: HashMap<String, HashMap<String, u64>>,
    /// The queues in which somebody has waited.
    pub queues: HashMap<String, HashMap<String, u64>>,
}

impl Proxy {
    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(config: &Config) -> Self {
        Self::start_with(config, |command| command)
    }

    /// The same, with a command that `change` has changed: its environment, its standard input and
    /// output, or what it runs before the proxy.
    #[track_caller]
    pub fn start_with(config: &Config, change: impl FnOnce(Command) -> Command) -> Self {
        let folder = Folder::new();
        std::fs::write(folder.config(), folder.fill(config)).expect("a writable folder");
        let mut command = Command::new(NAME);
        command.arg("run").arg("-c").arg(folder.config());
        command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self::start_command(change(command), folder)
    }

    /// Runs any command that becomes a proxy, and waits until it serves.
    #[track_caller]
    pub fn start_command(command: Command, folder: Folder) -> Self {
        let mut proxy = Self::launch(command, folder);
        assert!(
            proxy.is_alive(),
            "it ended:\n{}",
            proxy.log.lines().join("\n")
        );
        proxy.rebase();
        proxy
    }

    /// The same, for one that may end instead.
    #[track_caller]
    pub fn launch(mut command: Command, folder: Folder) -> Self {
        command.stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary was built");
        let (log, collector) = Log::collect(child.stderr.take().expect("piped"));
        let mut proxy = Self {
            child,
            log,
            collector: Some(collector),
            folder,
            expected: vec!["running as root".to_owned()],
            baseline: Descriptors::default(),
            resident_max: RESIDENT_MAX,
        };
        until("the proxy serves or has ended", || {
            proxy.log.has("serving: generation 1 in force") || !proxy.is_alive()
        });
        proxy
    }

    /// Takes the descriptors open now as those a quiet proxy has.
    pub fn rebase(&mut self) {
        self.baseline = process::descriptors(self.id());
    }

    /// Expects warnings and errors that hold this text; all others fail the case.
    pub fn expect(&mut self, text: &str) {
        self.expected.push(text.to_owned());
    }

    /// Allows more resident memory than [`RESIDENT_MAX`] at the end, in bytes.
    pub const fn allow_resident(&mut self, bytes: u64) {
        self.resident_max = bytes;
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where the file of this proxy is, and whatever else a case puts there.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// The address of the listener "front".
    #[track_caller]
    pub fn front(&self) -> SocketAddr {
        self.address("front")
    }

    /// The address that a listener has been bound to last.
    #[track_caller]
    pub fn address(&self, listener: &str) -> SocketAddr {
        let addresses = self.addresses(listener);
        *addresses
            .last()
            .unwrap_or_else(|| panic!("no address of {listener:?} in the log"))
    }

    /// All TCP addresses that a listener has been bound to, in the order of the log.
    pub fn addresses(&self, listener: &str) -> Vec<SocketAddr> {
        let start = format!("listener \"{listener}\" listening on ");
        let lines = self.log.lines();
        let addresses = lines.iter().filter_map(|line| {
            let (_, address) = line.split_once(&start)?;
            address.trim_end_matches("/udp").parse().ok()
        });
        addresses.collect()
    }

    /// Writes the file anew, at once and whole, as an editor or a deployment does.
    pub fn write(&self, text: &[u8]) {
        let temporary = self.folder.0.join("new.toml");
        std::fs::write(&temporary, text).expect("a writable folder");
        std::fs::rename(&temporary, self.folder.config()).expect("a writable folder");
    }

    /// Puts a configuration in force, or says why not.
    #[track_caller]
    pub fn reload(&self, config: &Config) -> Result<String, String> {
        self.write(self.folder.fill(config).as_bytes());
        self.reload_file()
    }

    /// Reloads whatever the file holds: the line of the log with the outcome, and for a failure all
    /// lines of it.
    #[track_caller]
    pub fn reload_file(&self) -> Result<String, String> {
        let mark = self.log.mark();
        self.signal(Signal::SIGHUP);
        self.log.wait(mark, "on a reload", |line| {
            if line.contains("reload: generation") {
                Some(Ok(line.to_owned()))
            } else if line.contains("reload failed") {
                Some(Err(line.to_owned()))
            } else {
                None
            }
        })
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("our child");
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, time: Duration) -> ExitStatus {
        let mut status = None;
        let ended = within(time, || {
            status = self.child.try_wait().expect("our child");
            status.is_some()
        });
        assert!(
            ended,
            "it still runs after {time:?}:\n{}",
            self.log.lines().join("\n")
        );
        if let Some(collector) = self.collector.take() {
            collector.join().expect("a log without an end");
        }
        status.expect("it has ended")
    }

    /// Descriptors that are open but for pipes. A session has two, a client that waits for one has one.
    pub fn open_descriptors(&self) -> usize {
        process::descriptors(self.id()).others
    }

    /// Waits until so many are.
    #[track_caller]
    pub fn wait_open(&self, count: usize) {
        let mut now = 0;
        let is_so = within(DEADLINE, || {
            now = self.open_descriptors();
            now == count
        });
        assert!(is_so, "{now} descriptors are open, not {count}");
    }

    /// Waits until every session is gone: the descriptors are what they were.
    #[track_caller]
    pub fn wait_quiet(&self) {
        let mut now = Descriptors::default();
        let quiet = within(DEADLINE, || {
            now = process::descriptors(self.id());
            now.others <= self.baseline.others
        });
        assert!(
            quiet,
            "{now:?} are open, {:?} at the start:\n{}",
            self.baseline,
            process::descriptor_list(self.id()).join("\n")
        );
    }

    /// Looks at the whole process, stops it and returns what it counted. Fails unless it is alive,
    /// its descriptors and memory are back, it ends by itself with every gauge at 0, and the log
    /// holds no warning that the case did not expect.
    #[track_caller]
    pub fn finish(mut self) -> Totals {
        assert!(
            self.is_alive(),
            "it has ended:\n{}",
            self.log.lines().join("\n")
        );
        self.wait_quiet();
        let pipes = process::descriptors(self.id()).pipes;
        assert!(pipes <= PIPE_ENDS_MAX, "{pipes} ends of pipes");
        let resident = process::resident(self.id());
        assert!(resident <= self.resident_max, "{resident} bytes resident");
        self.signal(Signal::SIGTERM);
        let status = self.wait_exit(DEADLINE);
        assert!(
            status.success(),
            "{status}:\n{}",
            self.log.lines().join("\n")
        );
        let totals = self.check_end();
        for (name, counts) in totals.listeners.iter().chain(&totals.backends) {
            assert_eq!(counts["open"], 0, "{name} has sessions left");
            let busy = counts.get("busy").copied().unwrap_or(0); // listeners have no such count
            assert_eq!(busy, 0, "{name} has busy sessions left");
        }
        for (name, counts) in &totals.queues {
            assert_eq!(counts["waiting"], 0, "{name} has clients left");
        }
        totals
    }

    /// Checks the log of a proxy that has ended and returns what it counted.
    #[track_caller]
    pub fn check_end(&self) -> Totals {
        let lines = self.log.lines();
        let is_bad = |line: &&String| {
            let level = line.split_whitespace().nth(1);
            matches!(level, Some("WARN" | "ERROR"))
                && !self
                    .expected
                    .iter()
                    .any(|text| line.contains(text.as_str()))
        };
        let bad: Vec<&String> = lines.iter().filter(is_bad).collect();
        assert!(bad.is_empty(), "unexpected in the log: {bad:#?}");
        self.check_no_panic();
        Totals::read(&lines)
    }

    /// Fails if a thread has panicked.
    #[track_caller]
    pub fn check_no_panic(&self) {
        let lines = self.log.lines();
        assert!(
            !lines.iter().any(|line| line.contains("panicked")),
            "{}",
            lines.join("\n")
        );
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.is_alive() {
            self.child.kill().expect("our child");
            self.child.wait().expect("our child");
        }
        if std::thread::panicking() {
            let lines = self.log.lines();
            let from = lines.len().saturating_sub(LINES_SHOWN);
            eprintln!("log of the proxy:\n{}", lines[from..].join("\n"));
        }
    }
}

impl Totals {
    fn read(lines: &[String]) -> Self {
        let mut totals = Self::default();
        for line in lines {
            let kinds = [
                (" listener \"", &mut totals.listeners),
                (" backend \"", &mut totals.backends),
                (" queue of pool \"", &mut totals.queues),
            ];
            for (start, map) in kinds {
                if let Some((name, counts)) = line
                    .split_once(start)
                    .and_then(|(_, rest)| rest.split_once("\": "))
                    && (counts.contains("open ") || counts.contains("waiting "))
                {
                    // One that went and came back counts on.
                    map.entry(name.to_owned())
                        .or_default()
                        .extend(numbers(counts));
                }
            }
        }
        totals
    }

    /// A count of all listeners.
    pub fn listeners(&self, what: &str) -> u64 {
        self.listeners.values().map(|counts| counts[what]).sum()
    }

    /// A count of all backends.
    pub fn backends(&self, what: &str) -> u64 {
        self.backends.values().map(|counts| counts[what]).sum()
    }

    /// A count of the listener "front".
    #[track_caller]
    pub fn front(&self, what: &str) -> u64 {
        self.listeners["front"][what]
    }

    /// A count of the queue of the pool "pool".
    #[track_caller]
    pub fn queue(&self, what: &str) -> u64 {
        let counts = self.queues.get("pool");
        counts
            .and_then(|counts| counts.get(what))
            .copied()
            .unwrap_or(0)
    }

    /// A count of a backend of the pool "pool".
    #[track_caller]
    pub fn backend(&self, name: &str, what: &str) -> u64 {
        self.backends[&format!("pool/{name}")][what]
    }
}

/// "accepted 3, refused 0" as a map.
fn numbers(text: &str) -> HashMap<String, u64> {
    let pairs = text.split(", ").filter_map(|pair| {
        let (what, number) = pair.rsplit_once(' ')?;
        Some((what.to_owned(), number.parse().ok()?))
    });
    pairs.collect()
}

/// A folder for one proxy, removed with it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!("evenkeel-suite-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a writable folder for temporary files");
        Self(path)
    }

    /// The configuration file in it.
    pub fn config(&self) -> PathBuf {
        self.0.join("evenkeel.toml")
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The text of a configuration, with this folder where it says @FOLDER@.
    pub fn fill(&self, config: &Config) -> String {
        let folder = self.0.display().to_string();
        config.text().replace("@FOLDER@", &folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Resident memory of a proxy after a case at most: ten times what it has at its start.
pub const RESIDENT_MAX: u64 = 64 * 1024 * 1024;

/// Ends of pipes at most: 64 pipes for each of two workers, and those of standard streams and signals.
const PIPE_ENDS_MAX: usize = 2 * 2 * 64 + 8;

/// Lines of the log shown for a case that fails.
const LINES_SHOWN: usize = 60;
