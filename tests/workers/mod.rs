//! What tests of pools share: flags that tasks and tests raise for each other, and processes as `/proc` shows them.
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ndshm::{Each, Pool};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than anything here takes on a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A folder of flags; goes away with its flags.
#[derive(Debug)]
pub(crate) struct Flags {
    dir: tempfile::TempDir,
}

impl Flags {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// What tasks are given: see [`raise`] and [`wait_for`].
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }
}

pub(crate) fn raise(flags: &Path, flag: &str) {
    tell(flags, flag, "");
}

/// Raises a flag with something to read on it.
pub(crate) fn tell(flags: &Path, flag: &str, what: &str) {
    // Renamed into place, so that nobody reads half of it.
    let draft = flags.join(format!(".{flag}.{}", std::process::id()));
    fs::write(&draft, what).unwrap();
    fs::rename(draft, flags.join(flag)).unwrap();
}

pub(crate) fn is_raised(flags: &Path, flag: &str) -> bool {
    flags.join(flag).exists()
}

/// Waits for a flag and gives what is written on it.
#[track_caller]
pub(crate) fn wait_for(flags: &Path, flag: &str) -> String {
    let start = Instant::now();
    loop {
        if let Ok(what) = fs::read_to_string(flags.join(flag)) {
            return what;
        }
        assert!(start.elapsed() < PATIENCE, "nobody raised {flag:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The letter of a process's state; `None` where there is no such process.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Does the process run, or could it go on? A zombie cannot.
pub(crate) fn is_alive(pid: u32) -> bool {
    !matches!(state(pid), None | Some('Z' | 'X'))
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Stops a process and waits until it stands still.
#[track_caller]
pub(crate) fn stop(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    wait_until_stopped(pid);
}

#[track_caller]
pub(crate) fn wait_until_stopped(pid: u32) {
    let start = Instant::now();
    while state(pid) != Some('T') {
        assert!(start.elapsed() < PATIENCE, "process {pid} does not stop");
        thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
pub(crate) fn wait_until_gone(pids: &[u32]) {
    let start = Instant::now();
    while let Some(pid) = pids.iter().find(|&&pid| is_alive(pid)) {
        assert!(start.elapsed() < PATIENCE, "process {pid} goes on living");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Makes calls until the pool has noticed that those workers are gone, and has others in their places.
#[track_caller]
pub(crate) fn wait_until_replaced(pool: &Pool, dead: &[u32]) {
    let start = Instant::now();
    loop {
        pool.for_each((), |(), _| ()).unwrap();
        if !pool.worker_pids().iter().any(|pid| dead.contains(pid)) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "one of {dead:?} was not replaced");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Kills what is left of processes that a test started indirectly, also where the test fails.
#[derive(Debug, Default)]
pub(crate) struct KillAtEnd(pub(crate) Vec<u32>);

impl Drop for KillAtEnd {
    fn drop(&mut self) {
        for &pid in &self.0 {
            if is_alive(pid) {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
        }
    }
}

/// The pool has all its workers, all live, and every chunk of a call is run once.
#[track_caller]
pub(crate) fn assert_whole(pool: &Pool) {
    let pids = pool.worker_pids();
    assert_eq!(pids.len(), pool.workers());
    assert_eq!(pids.iter().collect::<HashSet<_>>().len(), pids.len());
    assert!(pids.iter().all(|&pid| is_alive(pid)), "{pids:?}");
    let items: Vec<u64> = (0..50).collect();
    let doubled = pool.map(Each(&items), |item, chunk| (2 * item, chunk.index())).unwrap();
    assert!(doubled.into_iter().enumerate().all(|(i, result)| result == (2 * i as u64, i)));
    assert_eq!(pool.worker_pids(), pids, "no worker was replaced");
}

/// Processes that were reaped: not even a zombie is left.
#[track_caller]
pub(crate) fn assert_reaped(pids: impl IntoIterator<Item = u32>) {
    for pid in pids {
        assert_eq!(state(pid), None, "process {pid} is left");
    }
}
