//! Names, waiting, and a `/dev/shm` of one's own.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Set in a process whose `/dev/shm` is small.
const SMALL_SHM: &str = "NDSHM_TEST_SMALL_SHM";

/// Asks until the condition holds; false when it still does not after that time.
#[must_use]
pub(crate) fn wait_until(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= within {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A name for a block that no other test has, in this run or another.
pub(crate) fn unique_name(label: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Ids of processes come back, and an earlier run that was killed may have left its names.
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_millis());
    format!("ndshm-test-{label}-{}-{count}-{now:x}", std::process::id())
}

/// Names that must be gone from `/dev/shm` when the test is over: fails it otherwise, and removes them either way.
#[derive(Debug)]
#[must_use]
pub(crate) struct BlocksLeft {
    names: Vec<String>,
}

impl BlocksLeft {
    pub(crate) fn watch<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self { names: names.into_iter().map(Into::into).collect() }
    }

    /// Those that are still there.
    pub(crate) fn left(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).filter(|name| fs::symlink_metadata(path(name)).is_ok()).collect()
    }

    #[track_caller]
    pub(crate) fn assert_gone(&self) {
        assert_eq!(self.left(), [""; 0], "blocks left in /dev/shm");
    }

    /// For what a killed process leaves to the kernel or to another process.
    #[track_caller]
    pub(crate) fn assert_gone_within(&self, time: Duration) {
        let _ = wait_until(time, || self.left().is_empty());
        self.assert_gone();
    }
}

impl Drop for BlocksLeft {
    fn drop(&mut self) {
        let left: Vec<String> = self.left().into_iter().map(str::to_owned).collect();
        for name in &left {
            let _ = fs::remove_file(path(name));
        }
        assert!(left.is_empty() || thread::panicking(), "blocks left in /dev/shm: {left:?}");
    }
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/dev/shm").join(name)
}

/// A command that runs the program with a `/dev/shm` of its own, empty and of so many megabytes.
pub(crate) fn small_shm_command<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = S>,
    megabytes: usize,
) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        // A user namespace gives an ordinary user the right to mount, where the machine allows one.
        command.arg("--map-root-user");
    }
    let script = format!("mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec \"$@\"");
    command.args(["--mount", "sh", "-c", &script, "sh"]).arg(program).args(args);
    command.env(SMALL_SHM, "1");
    command
}

/// Runs `body` in another process whose `/dev/shm` has so many megabytes.
///
/// That process is this test program once more with just the test `test`, the caller, given by its path in the file.
/// Where the machine allows no mount the test is skipped, except in CI, where that is a failure.
#[track_caller]
pub(crate) fn in_small_shm(test: &str, megabytes: usize, body: impl FnOnce()) {
    if std::env::var_os(SMALL_SHM).is_some() {
        return body();
    }
    let can_mount = small_shm_command("true", [""; 0], megabytes).stderr(Stdio::null()).status();
    if !can_mount.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none(), "no mount namespaces: the tests with a small /dev/shm cannot run");
        println!("no mount namespaces: the tests with a small /dev/shm were skipped");
        return;
    }
    let program = std::env::current_exe().expect("a test program has a path");
    let output =
        small_shm_command(program, ["--exact", test, "--nocapture"], megabytes).output().expect("unshare starts");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "failed with a small /dev/shm:\n{stdout}\n{stderr}");
    // A name that is spelled wrong would run no test, and succeed.
    assert!(stdout.contains("running 1 test"), "no test is called {test:?}:\n{stdout}");
}
