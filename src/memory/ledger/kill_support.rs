//! What tests that kill processes at each of their steps share: the steps' process, and a `/dev/shm` of their own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::PREFIX;
use super::format::{Head, SLOT};

const ROLE: &str = "NDSHM_TEST_STEPS";
/// No test has so many steps.
pub(crate) const MANY: i64 = 1000;

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

pub(crate) fn names_with(prefix: &str) -> BTreeSet<String> {
    let names = fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(prefix)).collect()
}

pub(crate) fn ledgers_of(pid: u32) -> Vec<String> {
    let is_its = |name: &String| {
        let bytes = fs::read(path(name)).unwrap_or_default();
        let head = bytes.get(..SLOT).and_then(|slot| Head::parse(slot.try_into().unwrap()).ok());
        head.is_some_and(|head| head.owner.pid == pid)
    };
    names_with(PREFIX).into_iter().filter(is_its).collect()
}

/// In the process that was started: what it is to do, the prefix of its names, its step and signal.
pub(crate) struct Task {
    pub(crate) role: String,
    pub(crate) prefix: String,
    pub(crate) step: i64,
    pub(crate) signal: Signal,
}

pub(crate) fn task() -> Option<Task> {
    let task = std::env::var(ROLE).ok()?;
    let mut words = task.split(' ').map(str::to_owned);
    let mut next = || words.next().unwrap();
    let (role, prefix, step, signal) = (next(), next(), next(), next());
    Some(Task { role, prefix, step: step.parse().unwrap(), signal: signal.parse().unwrap() })
}

/// Another process, and what it prints.
pub(crate) struct Other {
    pub(crate) child: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
}

impl Other {
    pub(crate) fn start(test: &str, task: &Task) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        command.env(ROLE, format!("{} {} {} {}", task.role, task.prefix, task.step, task.signal));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Waits for its end: what it has printed, and whether it was killed.
    #[track_caller]
    pub(crate) fn end(&mut self) -> (String, bool) {
        let mut printed = String::new();
        self.stdout.read_to_string(&mut printed).unwrap();
        let status = self.child.wait().unwrap();
        let killed = status.signal() == Some(Signal::SIGKILL as i32);
        assert!(killed || status.success(), "{status}: {printed}");
        (printed, killed)
    }

    pub(crate) fn wait_for_line(&mut self, wanted: &str) {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "it ended before it said {wanted}");
        }
    }

    /// True once it has stopped, false when it has ended.
    pub(crate) fn stopped(&self) -> bool {
        let id = Id::Pid(Pid::from_raw(self.child.id().cast_signed()));
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        matches!(waitid(id, flags).unwrap(), WaitStatus::Stopped(..))
    }

    pub(crate) fn go_on(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGCONT).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the test in a process with a `/dev/shm` of its own where this user may mount one, so that no other test sweeps
/// what this one looks at; true in the process that is to go on.
pub(crate) fn alone(test: &str) -> bool {
    const ALONE: &str = "NDSHM_TEST_STEPS_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mount = "mount -t tmpfs tmpfs /dev/shm";
    let unshare = ["-m", "-rm"].into_iter().find(|flags| {
        Command::new("unshare").args([flags, "sh", "-c", mount]).output().is_ok_and(|output| output.status.success())
    });
    let Some(flags) = unshare else {
        println!("skipped: no permission to mount a /dev/shm of one's own");
        return false;
    };
    let mut command = Command::new("unshare");
    command.args([flags, "sh", "-ec", &format!("{mount}; exec \"$@\""), "sh"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ALONE, "1");
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
    false
}

pub(crate) fn prefix(what: &str, step: i64) -> String {
    format!("ndshm-kill-{what}-{}-{step}-", std::process::id())
}
