//! A process is killed or stopped before each system call that it makes while it creates, keeps, drops and sweeps named
//! blocks: what it leaves is found by the next sweep, and nothing that lives is removed.
#![allow(unsafe_code, reason = "traces processes and filters system calls")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod peer;
mod reexec;
mod seccomp;
mod tracer;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ndshm::{ErrorKind, SharedArray, SharedMemory, SharedMemoryManager};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};
use peer::{Peer, hear, say};
use reexec::{all_shm_names, role};
use tracer::Traced;

ndshm::init_before_main!();

/// No role makes so many calls.
const MANY: usize = 3000;

fn path(name: impl AsRef<Path>) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

fn there(name: &str) -> bool {
    path(name).exists()
}

/// Runs the test in a process with a `/dev/shm` of its own; true in that process.
fn alone(test: &str) -> bool {
    if role().is_some() {
        // A thread that is traced cannot be waited for with an end.
        thread::spawn(|| {
            thread::sleep(Duration::from_secs(120));
            eprintln!("it hangs");
            std::process::abort();
        });
        return true;
    }
    reexec::with_own_shm("size=64m", test, "alone");
    false
}

/// Everything that an owner does, and that its blocks are there after each step of it.
fn lead_a_life() {
    let first = SharedMemory::create_named("first", 5000).unwrap();
    let mut second = SharedMemory::create_named("second", 10).unwrap();
    let array = SharedArray::<u8, _>::options().name("array").fill_with(10, |_| Ok::<(), ndshm::Error>(())).unwrap();
    let mut kept = SharedMemory::create_named("kept", 10).unwrap();
    assert!(there("first") && there("second") && there("array") && there("kept"));
    say("keeping");
    kept.keep();
    say("kept");
    drop(first);
    second.unlink().unwrap();
    drop(second);
    assert!(ndshm::prune().unwrap().blocks().is_empty());
    assert!(there("array") && there("kept"));
    drop(array);
    // The ledger was gone with the last one.
    let last = SharedMemory::create_named("last", 10).unwrap();
    assert!(there("last"));
    drop(last);
}

/// Starts a manager, says which thread of this process and which one of its server's could be traced, and then does all that
/// one does with a manager. Where its server is gone, it is told so, and cleans up itself.
fn manage() {
    let manager = SharedMemoryManager::start().unwrap();
    let first = manager.options().name("first").shared_memory(10).unwrap();
    say(&gettid().to_string());
    say(&manager.server_pid().to_string());
    assert_eq!(hear(), "go");
    let served = || {
        let second = manager.options().name("second").shared_memory(10)?;
        let _array = manager.array::<u8, _>(10)?;
        assert!(there("first") && there("second"));
        manager.remove("first")?;
        assert!(!there("first"));
        drop((first, second));
        manager.list()
    };
    let gone = match served() {
        Ok(listed) => {
            assert_eq!(listed.len(), 2);
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            true
        }
    };
    say("ending");
    let ended = manager.shutdown().unwrap();
    assert!(ended.problems().is_empty(), "{:?}", ended.problems());
    assert!(ended.server_was_gone() || !gone);
    // At once, and nobody has swept.
    assert_eq!(all_shm_names(), [""; 0]);
    say(if ended.server_was_gone() { "the server was gone" } else { "in order" });
}

/// What the processes do that the tests start: `ROLE` or `ROLE nameless`, without files that have no name.
fn play() -> bool {
    let Some((role, how)) = peer::role() else { return false };
    if how == "named" {
        seccomp::deny_nameless_files();
    }
    if role == "left" {
        let _blocks = ["left-1", "left-2"].map(|name| SharedMemory::create_named(name, 10).unwrap());
        say("ready");
        hear();
        return true;
    }
    if role != "manager" {
        say(&gettid().to_string());
        assert_eq!(hear(), "go");
    }
    match role.as_str() {
        "owner" => lead_a_life(),
        "manager" => manage(),
        _ => drop(ndshm::prune().unwrap()),
    }
    true
}

/// Starts a process in a role, stopped at its first system call; `None` where this user may trace none.
fn start(test: &str, role: &str, how: &str) -> Option<(Peer, Traced)> {
    let mut peer = Peer::start(test, role, how);
    let traced = Traced::seize(peer.next().parse().unwrap())?;
    peer.tell("go");
    Some((peer, traced))
}

/// Nothing is left but what was kept.
fn assert_clean(at: &str, kept: &[&str]) {
    assert_eq!(all_shm_names(), kept, "{at}");
}

#[test]
fn an_owner_that_is_killed_before_any_call_leaves_what_the_next_sweep_finds() {
    let test = "an_owner_that_is_killed_before_any_call_leaves_what_the_next_sweep_finds";
    if play() || !alone(test) {
        return;
    }
    for how in ["nameless", "named"] {
        let mut calls = 0;
        for call in 0.. {
            assert!(call < MANY, "it never came to its end");
            let Some((mut owner, mut traced)) = start(test, "owner", how) else { return };
            let ended = !(0..=call).all(|_| traced.next_call());
            if !ended {
                owner.signal_kill();
                traced.end();
            }
            let said = owner.all();
            assert!(!ended || said.contains("kept"), "{said}");

            let living = SharedMemory::create_named("living", 10).unwrap();
            let at = format!("{how}, call {call}");
            let pruned = ndshm::prune().unwrap();
            assert!(pruned.problems().is_empty(), "{at}: {:?}", pruned.problems());
            assert!(there("living"), "{at}");
            drop(living);
            assert!(there("kept") || !said.contains("kept"), "{at}: a kept block was removed");
            if said.contains("keeping") {
                let _ = fs::remove_file(path("kept"));
            }
            assert_clean(&at, &[]);
            if ended {
                calls = call;
                break;
            }
        }
        assert!(calls > 100, "only {calls} calls");
    }
}

#[test]
fn a_sweep_that_is_killed_before_any_call_is_finished_by_the_next() {
    let test = "a_sweep_that_is_killed_before_any_call_is_finished_by_the_next";
    if play() || !alone(test) {
        return;
    }
    let _living = SharedMemory::create_named("living", 10).unwrap();
    let own = all_shm_names();
    for call in 0.. {
        assert!(call < MANY, "it never came to its end");
        let mut left = Peer::start(test, "left", "");
        left.expect("ready");
        left.kill();
        let Some((mut sweeper, mut traced)) = start(test, "sweeper", "") else { return };
        let ended = !(0..=call).all(|_| traced.next_call());
        if !ended {
            sweeper.signal_kill();
            traced.end();
        }
        sweeper.all();
        let pruned = ndshm::prune().unwrap();
        assert!(pruned.problems().is_empty(), "call {call}: {:?}", pruned.problems());
        assert_eq!(all_shm_names(), own, "call {call}");
        if ended {
            assert!(call > 30, "only {call} calls");
            break;
        }
    }
}

#[test]
fn an_owner_that_is_stopped_before_any_call_loses_nothing_to_a_sweep() {
    let test = "an_owner_that_is_stopped_before_any_call_loses_nothing_to_a_sweep";
    if play() || !alone(test) {
        return;
    }
    // Where files have names from the start, a sweep that always came before their maker has locked them would keep it
    // trying for ever: so not before every call, and not in step with it.
    let rounds = (0..7).map(|first| ("named", 7, first));
    for (how, every, first) in rounds.chain([("nameless", 1, 0)]) {
        let Some((owner, mut traced)) = start(test, "owner", how) else { return };
        let mut calls = 0;
        while traced.next_call() {
            calls += 1;
            if calls % every != first {
                continue;
            }
            let before = all_shm_names();
            let pruned = ndshm::prune().unwrap();
            assert!(pruned.blocks().is_empty() && pruned.problems().is_empty(), "{how}, call {calls}: {pruned:?}");
            let after = all_shm_names();
            // The one moment in which a sweep comes first: a hidden file that its maker has not locked yet.
            let new: Vec<_> = before.iter().filter(|name| !after.contains(name)).collect();
            assert!(
                new.iter().all(|name| how == "named" && name.starts_with(".ndshm-")),
                "{how}, call {calls}: {new:?}"
            );
        }
        assert!(calls > 100, "only {calls} calls");
        owner.succeeded();
        assert_clean(how, &["kept"]);
        fs::remove_file(path("kept")).unwrap();
    }
}

/// Whom of the two that make a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Owner,
    Server,
}

/// Starts a manager and traces its owner or its server, which is stopped; `None` where this user may trace none.
fn start_manager(test: &str, whom: Whom, how: &str) -> Option<(Peer, u32, Traced)> {
    let mut owner = Peer::start(test, "manager", how);
    let (own, server): (i32, i32) = (owner.next().parse().unwrap(), owner.next().parse().unwrap());
    let traced = Traced::seize(if whom == Whom::Owner { own } else { server })?;
    owner.tell("go");
    Some((owner, server.unsigned_abs(), traced))
}

fn wait_until_gone(pid: u32) {
    let gone = || fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    let end = Instant::now() + Duration::from_secs(30);
    while !gone() {
        assert!(Instant::now() < end, "process {pid} has not ended");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_manager_whose_owner_or_server_is_killed_before_any_call_is_cleaned_up_by_the_other() {
    let test = "a_manager_whose_owner_or_server_is_killed_before_any_call_is_cleaned_up_by_the_other";
    if play() || !alone(test) {
        return;
    }
    for (whom, how) in [(Whom::Server, "nameless"), (Whom::Owner, "nameless"), (Whom::Server, "named")] {
        for call in 0.. {
            assert!(call < MANY, "it never came to its end");
            let Some((mut owner, server, mut traced)) = start_manager(test, whom, how) else { return };
            let ended = !(0..=call).all(|_| traced.next_call());
            if !ended && whom == Whom::Owner {
                owner.signal_kill();
                traced.end();
            } else if !ended {
                kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL).unwrap();
                traced.end();
            }
            let said = owner.all();
            wait_until_gone(server);
            let at = format!("{whom:?}, {how}, call {call}: {said}");
            if whom == Whom::Server {
                let end = if ended { "in order" } else { "the server was gone" };
                // It may have answered to the shutdown before it was killed.
                assert!(said.contains(end) || said.contains("in order"), "{at}");
            }
            assert!(!said.contains("panicked"), "{at}");
            // Nobody has swept.
            assert_clean(&at, &[]);
            if ended {
                assert!(call > 20, "only {call} calls of {whom:?}");
                break;
            }
        }
    }
}

#[test]
fn a_server_that_is_stopped_before_any_call_loses_nothing_to_a_sweep() {
    let test = "a_server_that_is_stopped_before_any_call_loses_nothing_to_a_sweep";
    if play() || !alone(test) {
        return;
    }
    let Some((owner, server, mut traced)) = start_manager(test, Whom::Server, "nameless") else { return };
    let mut calls = 0;
    while traced.next_call() {
        let pruned = ndshm::prune().unwrap();
        assert!(pruned.blocks().is_empty() && pruned.problems().is_empty(), "call {calls}: {pruned:?}");
        calls += 1;
    }
    assert!(calls > 20, "only {calls} calls");
    owner.succeeded();
    wait_until_gone(server);
    assert_clean("at the end", &[]);
}
