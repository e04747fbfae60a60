//! Backends that a file names, which others write.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Asked, Sighting};
use crate::config::plan::Backend;
use crate::config::{self, MAX_TEXT};
use crate::control::aside::aside;
use crate::control::loader::resolve;
use crate::sys::socket::Target;

/// A file, and what it has said.
pub(super) struct File {
    path: PathBuf,
    seen: Option<Seen>,
}

struct Seen {
    stamp: Stamp,
    backends: Vec<(Backend, Target)>,
}

/// What changes with a file, whether it is written or another one takes its place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    length: u64,
    modified: Option<SystemTime>,
}

impl File {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            seen: None,
        }
    }

    /// Reads it if it has changed. Its names are looked up then, too.
    pub(super) async fn look(&mut self, asked: &Asked) -> Result<Sighting, String> {
        let before = self.seen.as_ref().map(|seen| seen.stamp);
        let reading = aside({
            let path = self.path.clone();
            move || read(&path, before)
        });
        let read = match tokio::time::timeout(READ_TIMEOUT, reading).await {
            Ok(read) => read.map_err(|error| error.to_string())??,
            Err(_) => return Err("it cannot be read in time".to_owned()),
        };
        if let Some((stamp, text)) = read {
            let name = self.path.display().to_string();
            let found = config::load_backends(&text, &name, asked.max_connections);
            let found =
                found.map_err(|errors| errors.to_string().trim_end().replace('\n', "; "))?;
            let mut backends = Vec::with_capacity(found.len());
            for backend in found {
                let target = resolve(&backend.address, asked.source).await;
                let target = target.map_err(|error| format!("{}: {error}", backend.name))?;
                backends.push((backend, target));
            }
            self.seen = Some(Seen { stamp, backends });
        }
        let seen = self.seen.as_ref();
        Ok(Sighting {
            backends: seen.map_or_else(Vec::new, |seen| seen.backends.clone()),
            lasts: LOOK_EVERY,
        })
    }
}

/// What it says, unless it is as it was.
fn read(path: &Path, before: Option<Stamp>) -> Result<Option<(Stamp, String)>, String> {
    let failed = |error: std::io::Error| format!("it cannot be read: {error}");
    let metadata = fs::metadata(path).map_err(failed)?;
    let stamp = Stamp {
        inode: (metadata.dev(), metadata.ino()),
        length: metadata.len(),
        modified: metadata.modified().ok(),
    };
    if before == Some(stamp) {
        return Ok(None);
    }
    if stamp.length > MAX_TEXT as u64 {
        return Err(format!("it is longer than {MAX_TEXT} bytes"));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    Ok(Some((stamp, text)))
}

/// A look costs one system call and a thread that lives for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A file that takes longer is on a disk that does not answer.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
