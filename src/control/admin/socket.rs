//! The file of the admin socket: who may open it, and whose it is.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;

use tokio::net::UnixListener;

use crate::config::plan::Global;
use crate::control::socket_file::SocketFile;
use crate::control::sockets::cure;
use crate::sys::privilege;
use crate::sys::socket::listen_unix_as;

/// A socket that is bound; its file goes with it.
#[derive(Debug)]
pub(in crate::control) struct Bound {
    listener: Rc<UnixListener>,
    file: SocketFile,
}

impl Bound {
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn listener(&self) -> Rc<UnixListener> {
        Rc::clone(&self.listener)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.file.remove();
    }
}

/// Binds it. Nobody can connect before the file has its mode and its owner, which is the account that
/// this process is to have: it may have other privileges than its clients yet.
pub(super) fn bind(path: &Path, global: &Global) -> Result<Bound, String> {
    let prepare = |file: &Path| {
        std::fs::set_permissions(file, Permissions::from_mode(MODE))?;
        let (user, group) = (global.user.as_deref(), global.group.as_deref());
        if privilege::is_root() && (user.is_some() || group.is_some()) {
            privilege::look_up(user, group)?.own(file)?;
        }
        Ok(())
    };
    let bound = listen_unix_as(path, prepare).and_then(|listener| {
        let file = SocketFile::at(path)?;
        let listener = Rc::new(UnixListener::from_std(listener)?);
        Ok(Bound { listener, file })
    });
    bound.map_err(|error| format!("{}: {error}; {}", path.display(), cure_of(&error)))
}

fn cure_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process serves it: stop that, or name another path",
        _ => cure(error),
    }
}

/// For its owner alone.
const MODE: u32 = 0o600;
