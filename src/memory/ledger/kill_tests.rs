//! A process is killed or stopped at each step of create, keep, drop, unlink and sweep: what it leaves is found by the
//! next sweep, and nothing that lives is removed.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;

use super::PREFIX;
use super::kill_support::{MANY, Other, Task, alone, ledgers_of, names_with, path, prefix, task};
use super::prune;
use super::step::tests::{arm, disarm};
use crate::{ErrorKind, SharedMemory};

fn full(test: &str) -> String {
    format!("memory::ledger::kill_tests::{test}")
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
    if !alone(&full(test)) {
        return;
    }
    let living = SharedMemory::create(10).unwrap();
    for step in 0..MANY {
        let prefix = prefix("owner", step);
        fs::write(path(&format!("{prefix}foreign")), "").unwrap();
        let task = Task { role: "owner".to_owned(), prefix: prefix.clone(), step, signal: Signal::SIGKILL };
        let mut owner = Other::start(&full(test), &task);
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
    if !alone(&full(test)) {
        return;
    }
    for step in 0..MANY {
        let prefix = prefix("stopped", step);
        let task = Task { role: "owner".to_owned(), prefix: prefix.clone(), step, signal: Signal::SIGSTOP };
        let mut owner = Other::start(&full(test), &task);
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
    let mut owner = Other::start(&full(test), &task);
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
    if !alone(&full(test)) {
        return;
    }
    let living = SharedMemory::create(10).unwrap();
    for step in 0..MANY {
        let prefix = prefix("sweep", step);
        let owner = leave_two(test, &prefix);
        let task = Task { role: "sweeps".to_owned(), prefix: prefix.clone(), step, signal: Signal::SIGKILL };
        let (_, killed) = Other::start(&full(test), &task).end();
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
    if !alone(&full(test)) {
        return;
    }
    for role in ["sweeps", "removes"] {
        let mut waited = 0;
        for step in 0..MANY {
            let prefix = prefix(role, step);
            let name = format!("{prefix}a");
            leave_two(test, &prefix);
            let task = Task { role: role.to_owned(), prefix: prefix.clone(), step, signal: Signal::SIGSTOP };
            let mut remover = Other::start(&full(test), &task);
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
