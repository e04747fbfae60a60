//! The proxy's standard error, line by line.

use std::fmt::Display;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::wait::{DEADLINE, within};

/// Everything logged so far.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    /// Collects the lines of `source` until it ends.
    pub fn collect(source: impl Read + Send + 'static) -> (Self, JoinHandle<()>) {
        let log = Self::default();
        let copy = log.clone();
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(source).lines() {
                let Ok(line) = line else { return };
                copy.0.lock().expect("not poisoned").push(line);
            }
        });
        (log, thread)
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().expect("not poisoned").clone()
    }

    /// A place in the log, to look only at what comes after it.
    pub fn mark(&self) -> usize {
        self.0.lock().expect("not poisoned").len()
    }

    /// The first line from `mark` on for which `find` has an answer.
    pub fn find<T>(&self, mark: usize, find: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let lines = self.0.lock().expect("not poisoned");
        lines[mark..].iter().map(String::as_str).find_map(find)
    }

    /// Whether any line holds this text.
    pub fn has(&self, text: &str) -> bool {
        self.count(text) > 0
    }

    /// How many lines hold this text.
    pub fn count(&self, text: &str) -> usize {
        let lines = self.0.lock().expect("not poisoned");
        lines.iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for a line from `mark` on; fails with the whole log if none comes.
    #[track_caller]
    pub fn wait<T>(&self, mark: usize, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.wait_for(DEADLINE, mark, what, find)
    }

    /// The same with a bound of its own.
    #[track_caller]
    pub fn wait_for<T>(
        &self,
        time: Duration,
        mark: usize,
        what: &str,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let mut found = None;
        within(time, || {
            found = self.find(mark, &mut find);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("no line {what} in the log:\n{}", self.lines().join("\n")))
    }

    /// Waits for a line that holds this text, anywhere.
    #[track_caller]
    pub fn wait_text(&self, text: &str) {
        self.wait(0, text, |line| line.contains(text).then_some(()));
    }

    /// Waits until these backends of the pool are down, each for its reason.
    #[track_caller]
    pub fn wait_down<N: Display, R: Display>(&self, why: impl IntoIterator<Item = (N, R)>) {
        for (name, reason) in why {
            self.wait_text(&format!("backend \"pool/{name}\" is down: {reason}"));
        }
    }
}
