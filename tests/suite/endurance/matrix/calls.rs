//! What may fail, and how.

/// A system call and the errors that a kernel may answer it with while the program is right. An
/// `EAGAIN` where something is ready is none: who waits for edges would wait for ever, and no kernel
/// says so.
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) errors: &'static [&'static str],
}

const fn call(name: &'static str, errors: &'static [&'static str]) -> Call {
    Call { name, errors }
}

pub(super) const CALLS: &[Call] = &[
    call("epoll_create1", &["EMFILE", "ENFILE", "ENOMEM"]),
    call("epoll_ctl", &["ENOMEM", "ENOSPC"]),
    call("epoll_wait", &["EINTR"]),
    call("eventfd2", &["EMFILE", "ENFILE", "ENOMEM"]),
    call(
        "socket",
        &[
            "EMFILE",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
            "EACCES",
            "EAFNOSUPPORT",
        ],
    ),
    call("bind", &["EADDRINUSE", "EACCES", "EADDRNOTAVAIL", "ENOMEM"]),
    call("listen", &["EADDRINUSE", "ENOBUFS"]),
    call(
        "accept4",
        &[
            "EINTR",
            "ECONNABORTED",
            "EMFILE",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
            "EPERM",
            "EPROTO",
            "ENETDOWN",
            "EHOSTUNREACH",
        ],
    ),
    call(
        "connect",
        &[
            "EAGAIN",
            "EADDRNOTAVAIL",
            "EADDRINUSE",
            "ECONNREFUSED",
            "ENETUNREACH",
            "EHOSTUNREACH",
            "ETIMEDOUT",
            "EACCES",
            "EPERM",
            "ENOBUFS",
            "ENOMEM",
        ],
    ),
    call("getsockname", &["ENOBUFS", "ENOMEM"]),
    call("getpeername", &["ENOTCONN", "ENOBUFS"]),
    call("getsockopt", &["ENOBUFS", "ENOMEM", "ENOPROTOOPT"]),
    call(
        "setsockopt",
        &["ENOBUFS", "ENOMEM", "EPERM", "ENOPROTOOPT", "EINVAL"],
    ),
    call("shutdown", &["ENOTCONN", "ENOBUFS"]),
    call(
        "recvfrom",
        &["EINTR", "ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOMEM"],
    ),
    call("recvmsg", &["EINTR", "ECONNREFUSED", "ENOMEM"]),
    call(
        "recvmmsg",
        &["EINTR", "ECONNREFUSED", "EHOSTUNREACH", "ENOMEM"],
    ),
    call(
        "sendto",
        &[
            "EINTR",
            "EPIPE",
            "ECONNRESET",
            "ETIMEDOUT",
            "EHOSTUNREACH",
            "ENOBUFS",
            "ENOMEM",
        ],
    ),
    call(
        "sendmsg",
        &[
            "EINTR",
            "EPERM",
            "ECONNREFUSED",
            "ENETUNREACH",
            "EMSGSIZE",
            "EINVAL",
            "ENOBUFS",
            "ENOMEM",
        ],
    ),
    call(
        "sendmmsg",
        &[
            "EINTR",
            "EPERM",
            "ECONNREFUSED",
            "ENETUNREACH",
            "EMSGSIZE",
            "ENOBUFS",
            "ENOMEM",
        ],
    ),
    call("pipe2", &["EMFILE", "ENFILE", "ENOMEM"]),
    call(
        "splice",
        &["EINTR", "EINVAL", "ENOMEM", "ECONNRESET", "EPIPE"],
    ),
    call("openat", &["EINTR", "ENOENT", "EACCES", "EMFILE", "EIO"]),
    call("read", &["EINTR", "EIO", "ECONNRESET"]),
    call("pread64", &["EINTR", "EIO"]),
    call("write", &["EINTR", "EIO", "ENOSPC", "EPIPE"]),
    call("writev", &["EINTR", "EIO", "ENOSPC", "EPIPE"]),
    call("fcntl", &["EMFILE"]),
    call("ioctl", &["ENOMEM", "ENOTTY"]),
    call("poll", &["EINTR", "ENOMEM"]),
    call("statx", &["ENOENT", "EACCES", "EIO"]),
    call("fstat", &["ENOMEM", "EIO"]),
    call("newfstatat", &["ENOENT", "EACCES", "EIO"]),
    call("lseek", &["EINVAL"]),
    call("getcwd", &["ENOENT"]),
    call("readlink", &["ENOENT", "EACCES"]),
    call("access", &["ENOENT", "EACCES"]),
    call("sched_getaffinity", &["EINVAL"]),
    call("prlimit64", &["EPERM"]),
    call("clone3", &["EAGAIN", "ENOMEM"]),
];

/// What else the program calls, and why it cannot fail there.
pub(super) const LEFT_OUT: &[(&str, &str)] = &[
    (
        "mmap munmap mprotect mremap brk madvise",
        "memory that is not there ends the process, by the design of Rust's allocator",
    ),
    (
        "futex",
        "fails for wrong arguments alone; the C library ends the process then",
    ),
    (
        "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack",
        "fail for wrong arguments alone",
    ),
    (
        "close",
        "closes in any case, which one that fails by injection does not",
    ),
    (
        "socketpair",
        "tokio panics where it gets none; that there are some is looked at before",
    ),
    (
        "arch_prctl set_tid_address set_robust_list rseq execve exit exit_group gettid getpid prctl",
        "of the C library at the start and the end of a process or thread; cannot fail",
    ),
    (
        "getuid geteuid getgid getegid getrandom sched_yield clock_nanosleep restart_syscall uname",
        "cannot fail",
    ),
];
