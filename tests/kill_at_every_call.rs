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

use ndshm::{SharedArray, SharedMemory};
use nix::unistd::gettid;
use peer::{Peer, hear, say};
use reexec::{all_shm_names, role};
use tracer::Traced;

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
        std::thread::spawn(|| {
            std::thread::sleep(std::time::Duration::from_secs(120));
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
    say(&gettid().to_string());
    assert_eq!(hear(), "go");
    match role.as_str() {
        "owner" => lead_a_life(),
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
