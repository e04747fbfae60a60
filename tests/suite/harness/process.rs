//! What the kernel knows of a process.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Open descriptors of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    /// All but pipes.
    pub others: usize,
    /// Ends of pipes.
    pub pipes: usize,
}

/// The open descriptors of process `id`.
pub fn descriptors(id: u32) -> Descriptors {
    let mut found = Descriptors::default();
    let entries = fs::read_dir(format!("/proc/{id}/fd")).expect("a running process");
    for entry in entries.flatten() {
        // A descriptor that was closed in the meantime is none.
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        if target.to_string_lossy().starts_with("pipe:") {
            found.pipes += 1;
        } else {
            found.others += 1;
        }
    }
    found
}

/// The hard limit on descriptors of process `id`.
pub fn hard_descriptors(id: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{id}/limits")).expect("a running process");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1));
    hard.expect("soft and hard").to_owned()
}

/// What each descriptor of process `id` is.
pub fn descriptor_list(id: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{id}/fd")).expect("a running process");
    let target = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        Some(format!(
            "{} -> {}",
            entry.file_name().to_string_lossy(),
            target.display()
        ))
    };
    entries.flatten().filter_map(target).collect()
}

/// Resident memory of process `id`, in bytes.
pub fn resident(id: u32) -> u64 {
    status_kib(id, "VmRSS:") * 1024
}

/// Memory of process `id` that is its own, in bytes.
pub fn private_dirty(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).expect("a running process");
    kib(&text, "Private_Dirty:") * 1024
}

/// A line of /proc/ID/status.
pub fn status(id: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{id}/status")).expect("a running process");
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_else(|| panic!("no {key} in\n{text}"))
        .trim()
        .to_owned()
}

/// Whether every thread of process `id` stands still after a SIGSTOP.
pub fn is_stopped(id: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).expect("a running process");
    threads.flatten().all(|thread| {
        let text = fs::read_to_string(thread.path().join("status"));
        text.is_ok_and(|text| text.contains("State:\tT"))
    })
}

/// Processor time that process `id` has used.
pub fn processor_time(id: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).expect("a running process");
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .expect("a line")
        .split_whitespace()
        .collect();
    let ticks = |place: usize| fields[place].parse::<u64>().expect("a number");
    Duration::from_millis((ticks(11) + ticks(12)) * 10) // 100 ticks a second on Linux
}

/// The listening sockets of this machine on `address`, by inode. Others may have its port elsewhere.
pub fn listening_inodes(address: SocketAddr) -> Vec<u64> {
    // The kernel shows an address as words in the order of this machine's bytes.
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.chunks(4).map(|word| {
        let word = u32::from_ne_bytes(word.try_into().expect("4 bytes"));
        format!("{word:08X}")
    });
    let local = format!("{}:{:04X}", words.collect::<String>(), address.port());
    let mut inodes = Vec::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = fs::read_to_string(table).expect("a table of sockets");
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == "0A" && fields[1] == local {
                inodes.push(fields[9].parse().expect("an inode"));
            }
        }
    }
    inodes.sort_unstable();
    inodes
}

fn status_kib(id: u32, key: &str) -> u64 {
    let value = status(id, key);
    value
        .trim_end_matches(" kB")
        .parse()
        .expect("a number of kB")
}

fn kib(text: &str, key: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .expect("the key");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number of kB")
}

/// What the kernel's table says of a TCP socket.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// 0 = none, 1 = retransmission, 2 = keep-alive, 4 = probing a closed window.
    pub timer: u8,
    pub inode: u64,
}

/// Every TCP socket in the network of the calling thread, by its port and the other end's.
pub fn tcp_sockets() -> HashMap<(u16, u16), Entry> {
    let mut found = HashMap::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = fs::read_to_string(table).expect("a table of sockets");
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = |field: &str| {
                let (_, port) = field.rsplit_once(':').expect("an address and a port");
                u16::from_str_radix(port, 16).expect("a port")
            };
            let entry = Entry {
                timer: fields[5][..2].parse().expect("a number"),
                inode: fields[9].parse().expect("an inode"),
            };
            found.insert((port(fields[1]), port(fields[2])), entry);
        }
    }
    found
}

/// For each epoll of process `id`, the inodes of what it watches.
pub fn epoll_sets(id: u32) -> Vec<Vec<u64>> {
    let link = |fd: &str| fs::read_link(format!("/proc/{id}/fd/{fd}")).ok();
    let entries = fs::read_dir(format!("/proc/{id}/fdinfo")).expect("a running process");
    let watched = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        let targets = text.lines().filter_map(|line| line.strip_prefix("tfd:"));
        let inodes = targets.filter_map(|rest| {
            let target = link(rest.split_whitespace().next()?)?;
            let name = target.to_string_lossy().into_owned();
            name.strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        });
        Some(inodes.collect::<Vec<u64>>())
    };
    entries
        .flatten()
        .filter_map(watched)
        .filter(|set| !set.is_empty())
        .collect()
}
