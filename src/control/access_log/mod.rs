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

use crossbeam::channel::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, after, bounded, never, unbounded,
};

use crate::config::plan::{AccessLog as Plan, LogFormat, Output};
use crate::control::aside::aside;
use crate::data::mailbox::{AccessLog, Record};
use crate::lb::log_rate::{Admit, LogRate};
use crate::lb::time::Tick;

/// The writer in force, and those before it that have not ended yet.
#[derive(Debug, Default)]
pub(super) struct Writers {
    current: Option<Writer>,
    retired: Vec<Retired>,
    /// Lines that those lost which have ended.
    lost_before: u64,
}

/// What a new plan asks for.
#[derive(Debug)]
pub(super) enum Next {
    /// The one in force goes on.
    Same,
    /// This one instead.
    Other(Option<Writer>),
}

/// A writer at work.
#[derive(Debug)]
pub(super) struct Writer {
    plan: Plan,
    log: AccessLog,
    reopen: Sender<()>,
    retired: Retired,
}

/// What is known of a writer that ends: it does so when no worker knows it any more and everything is
/// written.
#[derive(Debug)]
struct Retired {
    records: Receiver<Record>,
    lost: Arc<AtomicU64>,
    ended: Receiver<()>,
}

impl Writers {
    /// Opens what `plan` asks for, unless that is open already. `epoch` is what ticks count from.
    pub(super) async fn next(
        &mut self,
        plan: Option<&Plan>,
        epoch: Instant,
    ) -> Result<Next, String> {
        if self.current.as_ref().map(|writer| &writer.plan) == plan {
            return Ok(Next::Same);
        }
        let Some(plan) = plan else {
            return Ok(Next::Other(None));
        };
        self.forget_ended();
        if self.retired.len() >= RETIRED_MAX {
            return Err("global.access_log: nobody takes the lines of those before".to_owned());
        }
        let failed = |error| format!("global.access_log: cannot open {}: {error}", plan.output);
        let output = plan.output.clone();
        // A file system may hang: probes go on meanwhile, and requests wait no longer than this.
        let opening = aside(move || open(&output));
        let sink = match tokio::time::timeout(OPEN_MAX, opening).await {
            Ok(Ok(opened)) => opened.map_err(failed)?,
            Ok(Err(error)) => return Err(failed(error)),
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        let writer = Writer::start(plan.clone(), sink, epoch).map_err(failed)?;
        Ok(Next::Other(Some(writer)))
    }

    /// The way to the one that is to be in force.
    pub(super) fn log(&self, next: &Next) -> Option<AccessLog> {
        let writer = match next {
            Next::Same => self.current.as_ref(),
            Next::Other(writer) => writer.as_ref(),
        };
        writer.map(|writer| writer.log.clone())
    }

    /// Takes what [`Writers::next`] gave.
    pub(super) fn put_in_force(&mut self, next: Next) {
        if let Next::Other(writer) = next {
            let before = std::mem::replace(&mut self.current, writer);
            self.retired.extend(before.map(|writer| writer.retired));
        }
    }

    /// Lines lost since the start.
    pub(super) fn lost(&self) -> u64 {
        let current = self.current.iter().map(|writer| &writer.retired);
        let lost = self.retired.iter().chain(current);
        let now: u64 = lost.map(|writer| writer.lost.load(Relaxed)).sum();
        self.lost_before + now
    }

    fn forget_ended(&mut self) {
        let lost_before = &mut self.lost_before;
        self.retired.retain(|writer| {
            let has_ended = writer.has_ended();
            if has_ended {
                *lost_before += writer.lost.load(Relaxed);
            }
            !has_ended
        });
    }

    /// Opens the file anew: the one that is open may have another name by now.
    pub(super) fn reopen(&self) {
        match &self.current {
            // A writer that has ended has said why.
            Some(writer) => drop(writer.reopen.send(())),
            None => log::debug!("SIGUSR1: there is no access log"),
        }
    }

    /// Waits until what has been sent is written; not for long, if nobody takes it. No worker may be
    /// left.
    pub(super) fn finish(&mut self) {
        self.put_in_force(Next::Other(None));
        let until = Instant::now() + FINISH_MAX;
        let late = self
            .retired
            .drain(..)
            .filter(|writer| writer.ended.recv_deadline(until) == Err(RecvTimeoutError::Timeout));
        let left: Vec<u64> = late.map(|writer| writer.left()).collect();
        if !left.is_empty() {
            let lost: u64 = left.iter().sum();
            log::warn!("access log: nobody takes its lines, at least {lost} are lost");
        }
    }
}

impl Writer {
    fn start(plan: Plan, sink: File, epoch: Instant) -> io::Result<Self> {
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
            told: 0,
            errors: LogRate::new(1, TELL_EVERY),
            losses: LogRate::new(1, TELL_EVERY),
        };
        let retired = Retired {
            records: records.clone(),
            lost,
            ended,
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
            reopen,
            retired,
        })
    }
}

impl Retired {
    fn has_ended(&self) -> bool {
        self.ended.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Lines that are lost if it is not waited for.
    fn left(&self) -> u64 {
        self.lost.load(Relaxed) + self.records.len() as u64
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
    /// How many of those the log has been told of.
    told: u64,
    errors: LogRate,
    losses: LogRate,
}

impl Pen {
    fn write_all(&mut self, records: &Receiver<Record>, mut reopen: Receiver<()>) {
        loop {
            let is_told = self.lost.load(Relaxed) == self.told;
            let tell = if is_told { never() } else { after(TELL_EVERY) };
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
                recv(tell) -> _ => self.tell_lost(),
            }
        }
        self.tell_lost();
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
            let ends = self.text.iter().filter(|&&byte| byte == b'\n').count();
            // The one in front ends a line that was lost before.
            let lost = ends - usize::from(self.text.first() == Some(&b'\n'));
            self.lost.fetch_add(lost as u64, Relaxed);
            if self.errors.admit(self.tick(now)) != Admit::Drop {
                log::error!("access log: cannot write to {}: {error}", self.output);
            }
        }
        self.text.clear();
        if self.lost.load(Relaxed) > self.told && self.losses.admit(self.tick(now)) != Admit::Drop {
            self.tell_lost();
        }
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

    fn tell_lost(&mut self) {
        let lost = self.lost.load(Relaxed);
        if lost > self.told {
            log::warn!("access log: {} lines lost", lost - self.told);
            self.told = lost;
        }
    }

    fn tick(&self, now: Instant) -> Tick {
        Tick::ZERO.after(now.saturating_duration_since(self.epoch))
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

/// How long a file may take to be opened: a file system may hang.
const OPEN_MAX: Duration = Duration::from_secs(2);

/// Writers that are to end and cannot, because nobody takes what they have.
const RETIRED_MAX: usize = 4;

/// How long the end of the process waits for the last lines.
const FINISH_MAX: Duration = Duration::from_secs(1);
