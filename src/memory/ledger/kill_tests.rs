//! A process is killed or stopped at each step of create, keep, drop, unlink and sweep: what it leaves is found by the
//! next sweep, and nothing that lives is removed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::format::{Head, SLOT};
use super::step::tests::{arm, disarm};
use super::{PREFIX, prune};
use crate::{ErrorKind, SharedMemory};

const ROLE: &str = "NDSHM_TEST_STEPS";
/// No test has so many steps.
const MANY: i64 = 1000;

fn path(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

fn names_with(prefix: &str) -> BTreeSet<String> {
    let names = fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn ledgers_of(pid: u32) -> Vec<String> {
    let is_its = |name: &String| {
        let bytes = fs::read(path(name)).unwrap_or_default();
        let head = bytes.get(..SLOT).and_then(|slot| Head::parse(slot.try_into().unwrap()).ok());
        head.is_some_and(|head| head.owner.pid == pid)
    };
    names_with(PREFIX).into_iter().filter(is_its).collect()
}

/// In the process that was started: what it is to do, the prefix of its names, its step and signal.
struct Task {
    role: String,
    prefix: String,
    step: i64,
    signal: Signal,
}

fn task() -> Option<Task> {
    let task = std::env::var(ROLE).ok()?;
    let mut words = task.split(' ').map(str::to_owned);
    let mut next = || words.next().unwrap();
    let (role, prefix, step, signal) = (next(), next(), next(), next());
    Some(Task { role, prefix, step: step.parse().unwrap(), signal: signal.parse().unwrap() })
}

/// Another process, and what it prints.
struct Other {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Other {
    fn start(test: &str, task: &Task) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("memory::ledger::kill_tests::{test}"), "--nocapture", "--test-threads=1"]);
        command.env(ROLE, format!("{} {} {} {}", task.role, task.prefix, task.step, task.signal));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Waits for its end: what it has printed, and whether it was killed.
    #[track_caller]
    fn end(&mut self) -> (String, bool) {
        let mut printed = String::new();
        self.stdout.read_to_string(&mut printed).unwrap();
        let status = self.child.wait().unwrap();
        let killed = status.signal() == Some(Signal::SIGKILL as i32);
        assert!(killed || status.success(), "{status}: {printed}");
        (printed, killed)
    }

    fn wait_for_line(&mut self, wanted: &str) {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "it ended before it said {wanted}");
        }
    }

    /// True once it has stopped, false when it has ended.
    fn stopped(&self) -> bool {
        let id = Id::Pid(Pid::from_raw(self.child.id().cast_signed()));
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        matches!(waitid(id, flags).unwrap(), WaitStatus::Stopped(..))
    }

    fn go_on(&self) {
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
fn alone(test: &str) -> bool {
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
    command.args(["--exact", &format!("memory::ledger::kill_tests::{test}"), "--nocapture"]).env(ALONE, "1");
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && shown.contains("1 passed"), "{shown}");
    false
}

fn prefix(what: &str, step: i64) -> String {
    format!("ndshm-kill-{what}-{}-{step}-", std::process::id())
}

/// Everything that an owner does. It looks after each call whether its blocks are there, as nobody else removes them.
fn lead_a_life(prefix: &str) {
    let create = |n: &str| SharedMemory::create_named(&format!("{prefix}{n}"), 100).unwrap();
    let there = |blocks: &[&SharedMemory]| {
        for block in blocks {
            let name = block.name().unwrap();
            assert!(path(name).exists(), "{name} was removed");
        }
    };
    let first = create("first");
    let mut second = create("second");
    let mut kept = create("kept");
    there(&[&first, &second, &kept]);
    println!("keeping");
    kept.keep();
    println!("kept");
    drop(first);
    there(&[&second, &kept]);
    second.unlink().unwrap();
    drop(second);
    // The ledger was gone with the last entry.
    let third = create("third");
    there(&[&third, &kept]);
    for name in ledgers_of(std::process::id()) {
        fs::rename(path(&name), path(&format!("{PREFIX}{prefix}moved"))).unwrap();
    }
    let fourth = create("fourth");
    there(&[&third, &fourth, &kept]);
    drop(third);
    there(&[&fourth, &kept]);
    let mut alone = fourth;
    alone.keep();
    alone.unlink().unwrap();
}

#[test]
fn an_owner_that_is_killed_anywhere_leaves_what_the_next_sweep_finds() {
    let test = "an_owner_that_is_killed_anywhere_leaves_what_the_next_sweep_finds";
    if let Some(task) = task() {
        super::sweep_once();
        arm(task.step, task.signal);
        lead_a_life(&task.prefix);
        assert!(disarm(), "it should have been killed");
        return;
    }
    if !alone(test) {
        return;
    }
    let living = SharedMemory::create(10).unwrap();
    for step in 0..MANY {
        let prefix = prefix("owner", step);
        fs::write(path(&format!("{prefix}foreign")), "").unwrap();
        let task = Task { role: "owner".to_owned(), prefix: prefix.clone(), step, signal: Signal::SIGKILL };
        let mut owner = Other::start(test, &task);
        let (printed, killed) = owner.end();
        let pruned = prune().unwrap();
        let mut left = names_with(&prefix);
        assert!(left.remove(&format!("{prefix}foreign")), "step {step}");
        let kept = left.remove(&format!("{prefix}kept"));
        assert!(kept || !printed.contains("kept"), "step {step}: a kept block was removed");
        assert!(!kept || printed.contains("keeping"), "step {step}: a block was left");
        // A name that the owner has not kept, but was told that it has: `alone` at the end of its life.
        left.remove(&format!("{prefix}fourth"));
        assert!(left.is_empty(), "step {step}: {left:?} was left; {pruned:?}");
        assert_eq!(ledgers_of(owner.child.id()), [""; 0], "step {step}");
        assert!(!path(&format!("{PREFIX}{prefix}moved")).exists(), "step {step}");
        assert!(path(living.name().unwrap()).exists(), "step {step}");
        for name in names_with(&prefix) {
            fs::remove_file(path(&name)).unwrap();
        }
        if !killed {
            assert!(step > 40, "only {step} steps");
            return;
        }
    }
    panic!("it never came to its end");
}

#[test]
fn an_owner_that_is_stopped_anywhere_loses_nothing_to_a_sweep() {
    let test = "an_owner_that_is_stopped_anywhere_loses_nothing_to_a_sweep";
    if let Some(task) = task() {
        super::sweep_once();
        arm(task.step, task.signal);
        lead_a_life(&task.prefix);
        return;
    }
    if !alone(test) {
        return;
    }
    for step in 0..MANY {
        let prefix = prefix("stopped", step);
        let task = Task { role: "owner".to_owned(), prefix: prefix.clone(), step, signal: Signal::SIGSTOP };
        let mut owner = Other::start(test, &task);
        let stopped = owner.stopped();
        let before = names_with(&prefix);
        let pruned = prune().unwrap();
        assert!(pruned.blocks().iter().all(|block| !block.name().starts_with(&prefix)), "step {step}: {pruned:?}");
        if stopped {
            assert_eq!(names_with(&prefix), before, "step {step}");
        }
        owner.go_on();
        assert!(!owner.end().1);
        assert_eq!(names_with(&prefix), [format!("{prefix}kept")].into(), "step {step}");
        fs::remove_file(path(&format!("{prefix}kept"))).unwrap();
        if !stopped {
            return;
        }
    }
    panic!("it never came to its end");
}

/// Starts an owner of two blocks and kills it.
fn leave_two(test: &str, prefix: &str) -> u32 {
    let task = Task { role: "leaves".to_owned(), prefix: prefix.to_owned(), step: -1, signal: Signal::SIGKILL };
    let mut owner = Other::start(test, &task);
    owner.wait_for_line("left");
    owner.child.kill().unwrap();
    assert!(owner.end().1);
    owner.child.id()
}

/// What the started processes of the tests of sweeps do.
fn sweep_or_leave(task: &Task) {
    match task.role.as_str() {
        "leaves" => {
            let _blocks = ["a", "b"].map(|n| SharedMemory::create_named(&format!("{}{n}", task.prefix), 100).unwrap());
            println!("left");
            std::thread::sleep(std::time::Duration::from_secs(20));
        }
        "removes" => {
            arm(task.step, task.signal);
            // Busy or gone is fine.
            let _ = SharedMemory::unlink_name(&format!("{}a", task.prefix));
        }
        _ => {
            arm(task.step, task.signal);
            prune().unwrap();
        }
    }
}

#[test]
fn a_sweep_that_is_killed_anywhere_is_finished_by_the_next() {
    let test = "a_sweep_that_is_killed_anywhere_is_finished_by_the_next";
    if let Some(task) = task() {
        return sweep_or_leave(&task);
    }
    if !alone(test) {
        return;
    }
    let living = SharedMemory::create(10).unwrap();
    for step in 0..MANY {
        let prefix = prefix("sweep", step);
        let owner = leave_two(test, &prefix);
        let task = Task { role: "sweeps".to_owned(), prefix: prefix.clone(), step, signal: Signal::SIGKILL };
        let (_, killed) = Other::start(test, &task).end();
        if !killed {
            assert_eq!(names_with(&prefix), BTreeSet::new());
        }
        prune().unwrap();
        assert_eq!(names_with(&prefix), BTreeSet::new(), "step {step}");
        assert_eq!(ledgers_of(owner), [""; 0], "step {step}");
        assert!(path(living.name().unwrap()).exists(), "step {step}");
        if !killed {
            assert!(step > 8, "only {step} steps");
            return;
        }
    }
    panic!("it never came to its end");
}

#[test]
fn whoever_is_stopped_while_it_removes_a_name_takes_no_other_block_with_it() {
    let test = "whoever_is_stopped_while_it_removes_a_name_takes_no_other_block_with_it";
    if let Some(task) = task() {
        return sweep_or_leave(&task);
    }
    if !alone(test) {
        return;
    }
    for role in ["sweeps", "removes"] {
        let mut waited = 0;
        for step in 0..MANY {
            let prefix = prefix(role, step);
            let name = format!("{prefix}a");
            leave_two(test, &prefix);
            let task = Task { role: role.to_owned(), prefix: prefix.clone(), step, signal: Signal::SIGSTOP };
            let mut remover = Other::start(test, &task);
            let stopped = remover.stopped();
            // Its name is removed and given to another block meanwhile, if that can be.
            match SharedMemory::unlink_name(&name) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => waited += 1,
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "step {step}: {error}"),
                Ok(()) => {}
            }
            let new = SharedMemory::create_named(&name, 10);
            let number = || fs::metadata(path(&name)).map(|meta| meta.ino()).ok();
            let before = new.is_ok().then(|| number().unwrap());
            remover.go_on();
            assert!(!remover.end().1);
            // A user's own call to remove a name removes what it finds when it begins.
            if let Some(before) = before
                && (role == "sweeps" || step > 0)
            {
                assert_eq!(number(), Some(before), "{role}, step {step}: the new block was removed");
            }
            drop(new);
            prune().unwrap();
            assert_eq!(names_with(&prefix), BTreeSet::new(), "{role}, step {step}");
            if !stopped {
                break;
            }
        }
        assert!((1..=4).contains(&waited), "{role}: waited {waited} times");
    }
}
