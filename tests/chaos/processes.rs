//! Processes as `/proc` shows them.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

/// A line of `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    parent: u32,
    pub(crate) state: char,
    pub(crate) started: u64,
}

impl Process {
    pub(crate) fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let words: Vec<_> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
        Some(Self {
            pid,
            state: words[0].parse().ok()?,
            parent: words[1].parse().ok()?,
            started: words[19].parse().ok()?,
        })
    }

    pub(crate) fn is_dead(self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

fn all() -> Vec<Process> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::read).collect()
}

/// All that descend from a process, dead ones that nobody has waited for among them, the oldest first.
pub(crate) fn descendants(of: u32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid);
            found.push(*process);
        }
    }
    found.sort_by_key(|process| (process.started, process.pid));
    found
}

/// Sends a signal to a process that descends from this one, and to no other one that has its number by now.
pub(crate) fn signal(process: Process, signal: Signal) -> bool {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.pid, 0) };
    let Ok(fd @ 0..) = i32::try_from(fd) else { return false };
    // SAFETY: the kernel has just opened it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
    if Process::read(process.pid).is_none_or(|now| now.started != process.started) {
        return false;
    }
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: without `info` it reads no memory.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as i32, info, 0) };
    assert!(sent == 0 || Errno::last() == Errno::ESRCH, "{}", Errno::last());
    sent == 0
}

/// Makes this process the parent of what its children leave behind.
pub(crate) fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
}

/// Waits for orphans that have ended, but for the actors, whom somebody else waits for.
pub(crate) fn reap(own: u32, actors: &[u32]) {
    for process in all() {
        if process.parent == own && process.is_dead() && !actors.contains(&process.pid) {
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(process.pid.cast_signed()), None);
        }
    }
}

/// The abstract sockets that have this in their names.
pub(crate) fn sockets(name: &str) -> Vec<String> {
    let own = format!("{name}{}-", std::process::id());
    let shown = fs::read_to_string("/proc/net/unix").unwrap();
    shown.lines().filter(|line| line.contains(&own)).map(str::to_owned).collect()
}
