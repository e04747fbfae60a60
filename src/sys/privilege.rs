//! Giving up privileges, for good.
#![expect(unsafe_code, reason = "one prctl that no wrapper offers")]

use std::io;

use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgid, getuid, setgid, setgroups, setuid,
};

/// An account to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    user: Uid,
    group: Gid,
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

/// Becomes `account` in every thread: supplementary groups go first, then the group, then the user,
/// and then there must be no way back. Whoever is this account already and not root has nothing to
/// give up, and under a service manager maybe not even the right to ask.
pub fn become_account(account: Account) -> io::Result<()> {
    let now = (getuid(), geteuid(), getgid(), getegid());
    if !is_root() && now == (account.user, account.user, account.group, account.group) {
        return Ok(());
    }
    if is_root() {
        setgroups(&[])?;
    }
    setgid(account.group)?;
    setuid(account.user)?;
    if !account.user.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(io::Error::other("root privileges could be taken back"));
    }
    Ok(())
}

/// Forbids this thread and those it starts to gain privileges by executing a file.
pub fn forbid_new() -> io::Result<()> {
    // SAFETY: PR_SET_NO_NEW_PRIVS reads its four arguments as numbers and touches no memory.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
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
