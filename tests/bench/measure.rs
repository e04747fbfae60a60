//! What a run is judged by: counts, latencies, and the processor time of the proxy under test.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// The proxy's last closes and the kernel's accounting of a running thread lag this far behind the
/// client's last byte.
const SETTLE: Duration = Duration::from_millis(20);

/// The counts of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Units done: exchanges, or bytes for bulk transfers.
    pub(crate) count: u64,
    /// Connections that failed, ended early or carried a wrong byte.
    pub(crate) errors: u64,
    /// What the first of them was.
    pub(crate) first_error: Option<String>,
    /// Of each exchange, or of each bulk transfer.
    pub(crate) latencies: Vec<Duration>,
}

impl Tally {
    /// Counts one failure.
    pub(crate) fn fail(&mut self, what: impl ToString) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| what.to_string());
    }

    /// The latency that this share of the units stayed within, in microseconds, once they are sorted.
    fn percentile_us(&self, percent: usize) -> f64 {
        let index =
            (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies
            .get(index)
            .map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }
}

/// What the kernel's scheduler says of the watched processes, in ns.
#[derive(Clone, Copy, Debug, Default)]
struct Scheduled {
    /// On a core, in user and kernel mode.
    cpu_ns: u64,
    /// Ready to run, but something else had the core: above a few per cent of the time, others
    /// disturb the run.
    waited_ns: u64,
}

/// Time that passed, on the wall and in the watched processes.
#[derive(Debug)]
pub(crate) struct Stopwatch<'a> {
    processes: &'a [u32],
    before: Scheduled,
    started: Instant,
}

impl<'a> Stopwatch<'a> {
    /// Starts to measure; `processes` are the ids whose threads' processor time is taken.
    pub(crate) fn start(processes: &'a [u32]) -> io::Result<Self> {
        Ok(Self {
            processes,
            before: scheduled(processes)?,
            started: Instant::now(),
        })
    }

    /// The result as one line of JSON.
    pub(crate) fn finish(self, mut tally: Tally) -> io::Result<String> {
        let seconds = self.started.elapsed().as_secs_f64();
        thread::sleep(SETTLE);
        let after = scheduled(self.processes)?;
        let cpu_ns = after.cpu_ns.saturating_sub(self.before.cpu_ns);
        let waited_ns = after.waited_ns.saturating_sub(self.before.waited_ns);
        tally.latencies.sort_unstable();
        let mut line = format!(
            "{{\"count\":{},\"seconds\":{seconds:.6},\"per_second\":{:.1},\"p50_us\":{:.1},\"p99_us\":{:.1}",
            tally.count,
            tally.count as f64 / seconds,
            tally.percentile_us(50),
            tally.percentile_us(99),
        );
        if !self.processes.is_empty() && tally.count > 0 {
            let per_unit = cpu_ns as f64 / tally.count as f64;
            write!(
                line,
                ",\"cpu_ns\":{cpu_ns},\"waited_ns\":{waited_ns},\"cpu_ns_per_unit\":{per_unit:.4}"
            )
            .expect("a string takes everything");
        }
        let first_error = tally
            .first_error
            .unwrap_or_default()
            .replace(['"', '\\'], "'");
        write!(
            line,
            ",\"errors\":{},\"first_error\":\"{first_error}\"}}",
            tally.errors
        )
        .expect("a string takes everything");
        Ok(line)
    }
}

/// Sums up all threads of these processes. The first two fields of a thread's schedstat are the
/// times that it ran and that it waited for a core.
fn scheduled(processes: &[u32]) -> io::Result<Scheduled> {
    let mut total = Scheduled::default();
    for process in processes {
        for thread in fs::read_dir(format!("/proc/{process}/task"))? {
            let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue; // the thread ended since the directory was read
            };
            let mut fields = text.split_whitespace().map(str::parse::<u64>);
            let mut next = || fields.next().unwrap_or(Ok(0)).map_err(io::Error::other);
            total.cpu_ns += next()?;
            total.waited_ns += next()?;
        }
    }
    Ok(total)
}
