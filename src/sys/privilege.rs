//! Giving up privileges, for good.

use std::io;
use std::path::Path;

use nix::unistd::{
    Gid, Group, Uid, User, chown, getegid, geteuid, getgid, getuid, setgid, setgroups, setuid,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_keep_capabilities, set_no_new_privs,
};

/// An account to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    user: Uid,
    group: Gid,
}

/// What is kept of root's privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Connecting from addresses of others, in this thread and those that it starts from now on.
    Transparency,
}

impl Keep {
    /// CAP_NET_ADMIN, or CAP_NET_RAW where there is no other: containers often have it.
    fn capability(self) -> io::Result<CapabilitySet> {
        let held = match self {
            Self::Nothing => CapabilitySet::empty(),
            Self::Transparency => capabilities(None)?.permitted,
        };
        let candidates = [CapabilitySet::NET_ADMIN, CapabilitySet::NET_RAW];
        let kept = candidates.into_iter().find(|one| held.contains(*one));
        Ok(kept.unwrap_or_else(CapabilitySet::empty))
    }
}

impl Account {
    /// Gives it a file.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        Ok(chown(path, Some(self.user), Some(self.group))?)
    }
}

/// Whether the process runs as root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Looks up a user and a group by name; without a group it is the user's own. The error names the
/// one that is missing.
pub fn look_up(user: Option<&str>, group: Option<&str>) -> io::Result<Account> {
    let missing = |what: &str, name: &str| io::Error::other(format!("no {what} \"{name}\""));
    let own = match user {
        Some(name) => {
            let found = User::from_name(name)?.ok_or_else(|| missing("user", name))?;
            (found.uid, found.gid)
        }
        None => (getuid(), getgid()),
    };
    let group = match group {
        Some(name) => {
            Group::from_name(name)?
                .ok_or_else(|| missing("group", name))?
                .gid
        }
        None => own.1,
    };
    Ok(Account { user: own.0, group })
}

/// Gives up what somebody who is not root was given beyond what is kept and the right to bind ports
/// below 1024, which a reload may need: in the calling thread and those that it starts. Programs that
/// are run get nothing of it. Whom a service manager forbids even that keeps what it gave.
pub fn shed(keep: Keep) {
    let give_up = || -> io::Result<()> {
        clear_ambient_capability_set()?;
        give_up_all_but(keep.capability()? | CapabilitySet::NET_BIND_SERVICE)
    };
    drop(give_up());
}

/// Gives up what is left, in the calling thread, likewise.
pub fn shed_all() {
    drop(give_up_all_but(CapabilitySet::empty()));
}

/// Gives up what the calling thread has beside `kept`, if it has anything.
fn give_up_all_but(kept: CapabilitySet) -> io::Result<()> {
    let held = capabilities(None)?.permitted;
    if kept.contains(held) {
        return Ok(());
    }
    keep_only(held & kept)
}

fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Becomes `account` in every thread: supplementary groups go first, then the group, then the user,
/// and then there must be no way back. Whoever is this account already and not root has nothing to
/// give up, and under a service manager maybe not even the right to ask.
///
/// What is kept is kept in the calling thread alone: the other threads, which have not asked for it,
/// lose everything.
pub fn become_account(account: Account, keep: Keep) -> io::Result<()> {
    let now = (getuid(), geteuid(), getgid(), getegid());
    if !is_root() && now == (account.user, account.user, account.group, account.group) {
        shed(keep);
        return Ok(());
    }
    if is_root() {
        setgroups(&[])?;
    }
    setgid(account.group)?;
    if account.user.is_root() {
        return Ok(setuid(account.user)?);
    }
    let kept = keep.capability()?;
    set_keep_capabilities(!kept.is_empty())?;
    setuid(account.user)?;
    set_keep_capabilities(false)?;
    if !kept.is_empty() {
        keep_only(kept)?;
    }
    if setuid(Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("root privileges could be taken back"));
    }
    Ok(())
}

/// Forbids this thread and those it starts to gain privileges by executing a file.
pub fn forbid_new() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_account_is_named() {
        let error = look_up(Some("nobody-of-that-name"), None).unwrap_err();
        assert!(error.to_string().contains("nobody-of-that-name"));
        let error = look_up(None, Some("no-such-group")).unwrap_err();
        assert!(error.to_string().contains("no-such-group"));
    }
}
