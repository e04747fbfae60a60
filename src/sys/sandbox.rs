//! What the kernel keeps this process from, for good: opening files (Landlock) and making system calls
//! (seccomp). Both are inherited by the threads that are started from then on.
#![expect(
    unsafe_code,
    reason = "a filter that is to be logged must be installed by hand"
)]

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, LandlockStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, path_beneath_rules,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// The files and directories that stay in reach, with all below them. What does not exist is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// To read.
    pub read: Vec<PathBuf>,
    /// To write to and to make files in.
    pub write: Vec<PathBuf>,
    /// To make sockets in, and to remove what is there.
    pub sockets: Vec<PathBuf>,
}

/// Forbids the calling thread to open any other files, and to execute any. Returns the version of
/// Landlock's interface that is in use; `None` where the kernel has none.
pub fn confine_files(files: &Files) -> io::Result<Option<u32>> {
    restrict(files).map_err(io::Error::other)
}

fn restrict(files: &Files) -> Result<Option<u32>, RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::WriteFile | AccessFs::MakeReg;
    let sockets = AccessFs::MakeSock | AccessFs::RemoveFile;
    let rules = |paths: &[PathBuf], access: BitFlags<AccessFs>| {
        path_beneath_rules(paths.to_owned(), access)
    };
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()?
        .add_rules(rules(&files.read, read))?
        .add_rules(rules(&files.write, write))?
        .add_rules(rules(&files.sockets, sockets))?
        .restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => None,
        (_, LandlockStatus::Available { effective_abi, .. }) => Some(effective_abi as u32),
        _ => None,
    })
}

/// The newest interface whose rights are asked for; older kernels keep those that they know.
const NEWEST: ABI = ABI::V5;

/// Lets all threads make the calls of `CALLS` only; any other fails with EPERM, and the kernel logs
/// it. Returns how many are allowed.
pub fn confine_calls() -> io::Result<usize> {
    let calls = CALLS.iter().chain(OLD_CALLS);
    let rules: BTreeMap<i64, _> = calls.map(|call| (*call, Vec::new())).collect();
    let count = rules.len();
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, arch);
    let filter = filter.map_err(io::Error::other)?;
    install(&BpfProgram::try_from(filter).map_err(io::Error::other)?)?;
    Ok(count)
}

/// Installs a filter in all threads.
fn install(program: &BpfProgram) -> io::Result<()> {
    /// `struct sock_fprog` of linux/filter.h.
    #[repr(C)]
    struct Program {
        len: libc::c_ushort,
        filter: *const seccompiler::sock_filter,
    }
    let program = Program {
        len: program.len().try_into().map_err(io::Error::other)?,
        filter: program.as_ptr(),
    };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_LOG;
    // SAFETY: the kernel copies the program, which lives until the call returns, and checks it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    match result {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!(
            "thread {thread} has a filter of its own"
        ))),
    }
}

/// What a process that serves calls, as it is known from its sources, and what the C library's and Rust's
/// fall back to. None of them starts a program, becomes another user, mounts, traces, loads
/// or reads another process.
#[rustfmt::skip]
const CALLS: &[i64] = &[
    // Sockets.
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_bind, libc::SYS_connect, libc::SYS_getpeername,
    libc::SYS_getsockname, libc::SYS_getsockopt, libc::SYS_listen, libc::SYS_recvfrom,
    libc::SYS_recvmmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_sendmsg, libc::SYS_sendto,
    libc::SYS_setsockopt, libc::SYS_shutdown, libc::SYS_socket, libc::SYS_socketpair,
    // Descriptors.
    libc::SYS_close, libc::SYS_dup, libc::SYS_dup3, libc::SYS_epoll_create1, libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_fcntl,
    libc::SYS_ioctl, libc::SYS_pipe2, libc::SYS_ppoll, libc::SYS_pread64, libc::SYS_read,
    libc::SYS_readv, libc::SYS_splice, libc::SYS_write, libc::SYS_writev,
    // Files.
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown,
    libc::SYS_fchownat, libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_getcwd,
    libc::SYS_getdents64, libc::SYS_lseek, libc::SYS_newfstatat, libc::SYS_openat,
    libc::SYS_readlinkat, libc::SYS_renameat2, libc::SYS_statfs, libc::SYS_statx, libc::SYS_umask,
    libc::SYS_unlinkat,
    // Memory and threads.
    libc::SYS_brk, libc::SYS_clone, libc::SYS_clone3, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_futex, libc::SYS_madvise, libc::SYS_membarrier, libc::SYS_mmap, libc::SYS_mprotect,
    libc::SYS_mremap, libc::SYS_munmap, libc::SYS_prctl, libc::SYS_rseq, libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield, libc::SYS_set_robust_list, libc::SYS_set_tid_address,
    // Signals, among them those by which a process ends itself.
    libc::SYS_restart_syscall, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn, libc::SYS_sigaltstack, libc::SYS_tgkill,
    // Time, randomness, and who this is. Capabilities can only be given up.
    libc::SYS_capget, libc::SYS_capset, libc::SYS_clock_getres, libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep, libc::SYS_getegid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getrandom, libc::SYS_getrusage, libc::SYS_gettid,
    libc::SYS_getuid, libc::SYS_nanosleep, libc::SYS_prlimit64, libc::SYS_sysinfo, libc::SYS_uname,
];

/// The same by the names that only this architecture has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD_CALLS: &[i64] = &[
    libc::SYS_access, libc::SYS_chmod, libc::SYS_chown, libc::SYS_epoll_wait, libc::SYS_lstat,
    libc::SYS_open, libc::SYS_poll, libc::SYS_readlink, libc::SYS_rename, libc::SYS_stat,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[i64] = &[libc::SYS_renameat];
