//! Owner or server is killed or stopped at each step of create, keep, remove and shutdown: whoever is left cleans up, or
//! else the next sweep, and nothing that lives is removed.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;

use crate::memory::ledger::kill_support::{MANY, Other, Task, alone, ledgers_of, names_with, path, prefix, task};
use crate::memory::ledger::{arm, disarm};
use crate::{Result, SharedMemory, SharedMemoryManager, prune};

const SERVER: &str = "NDSHM_TEST_SERVER_STEPS";
const PATIENCE: Duration = Duration::from_secs(20);

/// In a server: from here on its steps count, where it was started to be killed or stopped.
pub(super) fn arm_server() {
    if std::env::var_os(SERVER).is_some()
        && let Some(task) = task()
    {
        arm(task.step, task.signal);
    }
}

fn full(test: &str) -> String {
    format!("manager::kill_tests::{test}")
}

fn start(test: &str, role: &str, prefix: &str, step: i64, signal: Signal) -> Other {
    let task = Task { role: role.to_owned(), prefix: prefix.to_owned(), step, signal };
    Other::start(&full(test), &task)
}

/// What an owner and its server do, up to the first thing that fails.
fn use_manager(manager: &SharedMemoryManager, prefix: &str) -> Result<()> {
    let create = |n: &str| manager.options().name(format!("{prefix}{n}")).shared_memory(100);
    let there = |names: &[&str]| {
        for name in names {
            assert!(path(&format!("{prefix}{name}")).exists(), "{name} was removed");
        }
    };
    create("first")?;
    create("second")?;
    there(&["first", "second"]);
    manager.options().label("array").array::<u8, _>(10)?;
    create("kept")?;
    println!("keeping");
    manager.keep(&format!("{prefix}kept"))?;
    println!("kept");
    manager.remove(&format!("{prefix}first"))?;
    there(&["second", "kept"]);
    create("third")?;
    fs::remove_file(path(&format!("{prefix}third"))).unwrap();
    assert_eq!(manager.list()?.len(), 2);
    create("fourth")?;
    there(&["second", "fourth", "kept"]);
    Ok(())
}

/// In the process that was started.
fn own(task: &Task) {
    crate::memory::sweep_once();
    if task.role == "owner" {
        arm(task.step, task.signal);
    } else {
        set_server_steps();
    }
    let manager = match SharedMemoryManager::start() {
        Ok(manager) => manager,
        Err(error) => {
            println!("never started: {error}");
            return;
        }
    };
    let used = use_manager(&manager, &task.prefix);
    if task.role == "both" && used.is_err() {
        raise(Signal::SIGKILL).unwrap();
    }
    let ended = manager.shutdown().unwrap();
    assert!(used.is_ok() || ended.server_was_gone(), "{used:?}");
    assert!(ended.problems().is_empty(), "{ended:?}");
    println!("server was gone: {}", ended.server_was_gone());
    if task.role == "owner" {
        assert!(disarm(), "it should have been killed");
    }
}

fn set_server_steps() {
    #![expect(unsafe_code, reason = "a variable for the server alone")]
    // SAFETY: no other thread of this process looks at its environment.
    unsafe { std::env::set_var(SERVER, "1") };
}

/// The servers of a test's owner, which inherit its environment.
fn servers(prefix: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_one = |pid: &u32| {
        let has = |file: &str, what: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            bytes.windows(what.len()).any(|window| window == what.as_bytes())
        };
        has("cmdline", "--ndshm-server") && has("environ", prefix)
    };
    pids.filter(is_one).collect()
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Waits for what happens soon.
#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What must be left of a run, whoever was killed: a block that was kept, and else nothing.
#[track_caller]
fn assert_clean(prefix: &str, printed: &str, step: i64) {
    let mut left = names_with(prefix);
    let kept = left.remove(&format!("{prefix}kept"));
    assert!(kept || !printed.contains("kept"), "step {step}: a kept block was removed");
    assert!(!kept || printed.contains("keeping"), "step {step}: a block was left");
    assert!(left.is_empty(), "step {step}: {left:?} was left");
    if kept {
        fs::remove_file(path(&format!("{prefix}kept"))).unwrap();
    }
    assert_eq!(servers(prefix), [0; 0], "step {step}");
    // That of the process which runs the test.
    assert_eq!(names_with(".ndshm."), ledgers_of(std::process::id()).into_iter().collect(), "step {step}");
}

#[test]
fn a_server_that_is_killed_anywhere_is_cleaned_up_after_by_its_owner() {
    let test = "a_server_that_is_killed_anywhere_is_cleaned_up_after_by_its_owner";
    if let Some(task) = task() {
        return own(&task);
    }
    if !alone(&full(test)) {
        return;
    }
    let living = SharedMemory::create(10).unwrap();
    for step in 0..MANY {
        let prefix = prefix("server", step);
        let (printed, _) = start(test, "server", &prefix, step, Signal::SIGKILL).end();
        assert_clean(&prefix, &printed, step);
        assert!(path(living.name().unwrap()).exists(), "step {step}");
        if printed.contains("server was gone: false") {
            assert!(step > 50, "only {step} steps");
            return;
        }
    }
    panic!("it never came to its end");
}

#[test]
fn an_owner_that_is_killed_anywhere_is_cleaned_up_after_by_its_server() {
    let test = "an_owner_that_is_killed_anywhere_is_cleaned_up_after_by_its_server";
    if let Some(task) = task() {
        return own(&task);
    }
    if !alone(&full(test)) {
        return;
    }
    let living = SharedMemory::create(10).unwrap();
    for step in 0..MANY {
        let prefix = prefix("owner", step);
        let (printed, killed) = start(test, "owner", &prefix, step, Signal::SIGKILL).end();
        wait_until("a server does not end", || servers(&prefix).is_empty());
        assert_clean(&prefix, &printed, step);
        assert!(path(living.name().unwrap()).exists(), "step {step}");
        if !killed {
            assert!(step > 20, "only {step} steps");
            return;
        }
    }
    panic!("it never came to its end");
}

#[test]
fn when_both_are_killed_the_next_sweep_cleans_up() {
    let test = "when_both_are_killed_the_next_sweep_cleans_up";
    if let Some(task) = task() {
        return own(&task);
    }
    if !alone(&full(test)) {
        return;
    }
    let living = SharedMemory::create(10).unwrap();
    for step in 0..MANY {
        let prefix = prefix("both", step);
        let (printed, killed) = start(test, "both", &prefix, step, Signal::SIGKILL).end();
        wait_until("a server does not end", || servers(&prefix).is_empty());
        assert!(prune().unwrap().problems().is_empty());
        assert_clean(&prefix, &printed, step);
        assert!(path(living.name().unwrap()).exists(), "step {step}");
        if !killed && printed.contains("server was gone: false") {
            assert!(step > 50, "only {step} steps");
            return;
        }
    }
    panic!("it never came to its end");
}

#[test]
fn a_server_that_is_stopped_anywhere_loses_nothing_to_a_sweep() {
    let test = "a_server_that_is_stopped_anywhere_loses_nothing_to_a_sweep";
    if let Some(task) = task() {
        return own(&task);
    }
    if !alone(&full(test)) {
        return;
    }
    for step in 0..MANY {
        let prefix = prefix("stopped", step);
        let mut owner = start(test, "server", &prefix, step, Signal::SIGSTOP);
        let mut stopped = None;
        wait_until("neither stops nor ends", || {
            stopped = servers(&prefix).into_iter().find(|&pid| is_stopped(pid));
            stopped.is_some() || owner.child.try_wait().unwrap().is_some()
        });
        let before: BTreeSet<_> = names_with(&prefix);
        let pruned = prune().unwrap();
        assert!(pruned.blocks().is_empty(), "step {step}: {pruned:?}");
        if let Some(pid) = stopped {
            assert_eq!(names_with(&prefix), before, "step {step}");
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGCONT).unwrap();
        }
        let (printed, _) = owner.end();
        assert!(printed.contains("server was gone: false"), "step {step}: {printed}");
        wait_until("a server does not end", || servers(&prefix).is_empty());
        assert_clean(&prefix, &printed, step);
        if stopped.is_none() {
            assert!(step > 50, "only {step} steps");
            return;
        }
    }
    panic!("it never came to its end");
}
