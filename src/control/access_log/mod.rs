//! The access log: a thread of its own writes a line for each record that workers send, because a
//! disk or a pipe may take nothing for long. Whoever has nothing to write to loses lines, never time.

mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, Sender, bounded, never, unbounded};

use crate::config::plan::{AccessLog as Plan, LogFormat, Output};
use crate::data::mailbox::{AccessLog, Record};
use crate::lb::time::Tick;

/// A writer at work. It ends when this and all ways to it are gone and everything is written.
#[derive(Debug)]
pub(super) struct Writer {
    plan: Plan,
    log: AccessLog,
    lost: Arc<AtomicU64>,
    reopen: Sender<()>,
    ended: Receiver<()>,
}

impl Writer {
    /// Opens what `plan` names and starts to write there. `epoch` is what ticks count from.
    pub(super) fn start(plan: Plan, epoch: Instant) -> io::Result<Self> {
        let sink = open(&plan.output)?;
        let (log, records, lost) = AccessLog::new();
        let (reopen, orders) = unbounded();
        let (end, ended) = bounded(1);
        let mut pen = Pen {
            output: plan.output.clone(),
            format: plan.format,
            sink,
            epoch,
            text: Vec::new(),
            is_torn: false,
            lost: Arc::clone(&lost),
            told: Told::default(),
        };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                pen.write_all(&records, orders);
                drop(end);
            })?;
        Ok(Self {
            plan,
            log,
            lost,
            reopen,
            ended,
        })
    }

    /// Whether it does what `plan` asks for.
    pub(super) fn is_of(&self, plan: &Plan) -> bool {
        self.plan == *plan
    }

    /// The way to it.
    pub(super) fn log(&self) -> AccessLog {
        self.log.clone()
    }

    /// Opens its file anew: the one that it has may have another name by now.
    pub(super) fn reopen(&self) {
        // A writer that has ended has said why.
        let _ended = self.reopen.send(());
    }

    /// Waits until what has been sent is written; not for long, if nobody takes it. No worker may be
    /// left.
    pub(super) fn finish(self) {
        let Self {
            log, lost, ended, ..
        } = self;
        let waiting = log.waiting();
        drop(log);
        if ended.recv_timeout(FINISH_MAX) == Err(crossbeam::channel::RecvTimeoutError::Timeout) {
            let lost = lost.load(Relaxed) + waiting as u64;
            log::warn!("access log: nobody takes its lines; at least {lost} are lost");
        }
    }
}

/// What the thread owns.
struct Pen {
    output: Output,
    format: LogFormat,
    sink: File,
    epoch: Instant,
    /// Lines that are not written yet.
    text: Vec<u8>,
    /// A line has been written in part.
    is_torn: bool,
    lost: Arc<AtomicU64>,
    told: Told,
}

/// What the log has been told of lines that are lost.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    lost: u64,
}

impl Pen {
    fn write_all(&mut self, records: &Receiver<Record>, mut reopen: Receiver<()>) {
        loop {
            crossbeam::select! {
                recv(reopen) -> order => match order {
                    Ok(()) => self.reopen(),
                    Err(_) => reopen = never(),
                },
                recv(records) -> record => match record {
                    Ok(record) => {
                        let more = records.try_iter().take(BATCH - 1);
                        self.write(std::iter::once(record).chain(more));
                    }
                    Err(_) => break,
                },
            }
        }
        self.tell_lost(Duration::ZERO);
    }

    fn write(&mut self, records: impl Iterator<Item = Record>) {
        let (wall, now) = (SystemTime::now(), Instant::now());
        for record in records {
            let ended = self.epoch + record.ended.since(Tick::ZERO);
            let ago = now.saturating_duration_since(ended);
            let time = wall.checked_sub(ago).unwrap_or(wall);
            line::append(&mut self.text, self.format, time, &record);
        }
        if self.is_torn {
            self.text.insert(0, b'\n');
        }
        if let Err(error) = self.flush() {
            let lost = self.text.iter().filter(|&&byte| byte == b'\n').count();
            self.lost.fetch_add(lost as u64, Relaxed);
            let line = format_args!("access log: cannot write to {}: {error}", self.output);
            if self.told.is_time(TELL_EVERY) {
                log::error!("{line}");
            }
        }
        self.text.clear();
        self.tell_lost(TELL_EVERY);
    }

    /// Writes what there is; after an error, what is left of it.
    fn flush(&mut self) -> io::Result<()> {
        while !self.text.is_empty() {
            match self.sink.write(&self.text) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.is_torn = self.text[count - 1] != b'\n';
                    self.text.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn reopen(&mut self) {
        match open(&self.output) {
            Ok(sink) => {
                self.sink = sink;
                self.is_torn = false;
                log::info!("access log: {} opened anew", self.output);
            }
            Err(error) => log::error!("access log: cannot open {} anew: {error}", self.output),
        }
    }

    fn tell_lost(&mut self, every: Duration) {
        let lost = self.lost.load(Relaxed);
        if lost > self.told.lost && self.told.is_time(every) {
            log::warn!("access log: {} lines lost", lost - self.told.lost);
            self.told.lost = lost;
        }
    }
}

impl Told {
    /// Whether the last time is so long ago; then now is the last time.
    fn is_time(&mut self, every: Duration) -> bool {
        let is_time = self.at.is_none_or(|at| at.elapsed() >= every);
        if is_time {
            self.at = Some(Instant::now());
        }
        is_time
    }
}

/// A file is readable for its group, which collects logs, and for nobody else: it says who came when.
/// A named pipe that nobody reads is an error, not something to wait for.
fn open(output: &Output) -> io::Result<File> {
    match output {
        Output::Stdout => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
        Output::File(path) => {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o640);
            options.custom_flags(libc::O_NONBLOCK).open(path)
        }
    }
}

/// Records made lines of before they are written.
const BATCH: usize = 256;

/// How often the log is told that lines are lost.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How long the end of the process waits for the last lines.
const FINISH_MAX: Duration = Duration::from_secs(1);
