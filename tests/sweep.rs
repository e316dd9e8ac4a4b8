//! What a killed process leaves in `/dev/shm` is removed by the next one, and nothing else is: not what lives, was kept,
//! has another owner, or only looks like it.
#![allow(unsafe_code, reason = "fork and setuid")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod ledgers;
mod peer;
mod reexec;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use ledgers::{ledgers, names_of, path};
use ndshm::{ErrorKind, Pruned, SharedMemory};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Uid, fork, mkfifo};
use peer::{Peer, hear, say};
use reexec::{all_shm_names, role, shm_names};

/// Runs the test in a process with a `/dev/shm` of its own; true in that process. Nowhere is it run beside others that
/// may sweep what it leaves.
fn alone(test: &str) -> bool {
    if role().is_some() {
        return true;
    }
    reexec::with_own_shm("size=256m", test, "alone");
    false
}

#[track_caller]
fn assert_prunes(expected: &[&str]) {
    assert_eq!(names_of(&ndshm::prunable().unwrap()), expected);
    let pruned = ndshm::prune().unwrap();
    assert_eq!(names_of(&pruned), expected);
    assert!(pruned.problems().is_empty(), "{:?}", pruned.problems());
    assert_eq!(names_of(&ndshm::prunable().unwrap()), [""; 0]);
}

/// In another process: creates the blocks of these names, separated by spaces, and does as it is told.
fn own(names: &str) {
    let mut blocks: Vec<_> = names
        .split(' ')
        .filter(|name| !name.is_empty())
        .map(|n| SharedMemory::create_named(n, 1000).unwrap())
        .collect();
    say("ready");
    loop {
        match hear().split_once(' ') {
            Some(("create", name)) => blocks.push(SharedMemory::create_named(name, 10).unwrap()),
            Some(("keep", name)) => blocks.iter_mut().find(|b| b.name() == Some(name)).unwrap().keep(),
            Some(("drop", name)) => blocks.retain(|block| block.name() != Some(name)),
            _ => return,
        }
        say("done");
    }
}

/// A process that owns blocks.
fn owner(test: &str, names: &str) -> Peer {
    let mut owner = Peer::start(test, "owner", names);
    owner.expect("ready");
    owner
}

/// Is this an owner? Then it has done its work.
fn was_owner() -> bool {
    let Some((role, names)) = peer::role().filter(|(role, _)| role == "owner") else { return false };
    assert_eq!(role, "owner");
    own(&names);
    true
}

#[test]
fn what_a_killed_process_leaves_is_removed_by_the_next_that_creates() {
    let test = "what_a_killed_process_leaves_is_removed_by_the_next_that_creates";
    if was_owner() || !alone(test) {
        return;
    }
    let mut killed = owner(test, "climate wind kept dropped");
    assert_eq!(killed.ask("keep kept"), "done");
    assert_eq!(killed.ask("drop dropped"), "done");
    assert_eq!(names_of(&ndshm::prunable().unwrap()), [""; 0], "it lives");
    killed.kill();
    assert_eq!(shm_names(), ["climate", "kept", "wind"]);
    let found = ndshm::prunable().unwrap();
    assert_eq!(names_of(&found), ["climate", "wind"]);
    for block in found.blocks() {
        assert_eq!((block.size(), block.owner_pid()), (1000, Some(killed.pid())));
    }

    // The very name that was left can be had again.
    let again = owner(test, "climate");
    assert_eq!(shm_names(), ["climate", "kept"]);
    assert_prunes(&[]);
    drop(again);
    assert_prunes(&["climate"]);
    assert_eq!(all_shm_names(), ["kept"]);
    SharedMemory::unlink_name("kept").unwrap();

    // One that ends well leaves nothing to sweep.
    let mut peaceful = owner(test, "a b");
    peaceful.tell("end");
    peaceful.succeeded();
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn room_that_a_killed_process_had_is_there_for_the_next() {
    let test = "room_that_a_killed_process_had_is_there_for_the_next";
    if let Some((_, size)) = peer::role() {
        let block = SharedMemory::create_named("large", size.parse().unwrap()).unwrap();
        say("ready");
        hear();
        drop(block);
        return;
    }
    if !alone(test) {
        return;
    }
    for _ in 0..2 {
        let mut killed = Peer::start(test, "large", &(200 << 20).to_string());
        killed.expect("ready");
        killed.kill();
    }
    assert_prunes(&["large"]);
}

#[test]
fn names_that_are_another_file_s_by_now_stay() {
    let test = "names_that_are_another_file_s_by_now_stay";
    if was_owner() || !alone(test) {
        return;
    }
    let mut killed = owner(test, "removed replaced python link moved swapped-1 swapped-2 rest");
    killed.kill();
    fs::remove_file(path("removed")).unwrap();
    // The number of a file that is gone may come back: make some.
    fs::remove_file(path("replaced")).unwrap();
    fs::write(path("replaced"), "another program's").unwrap();
    fs::remove_file(path("python")).unwrap();
    let mut ours = owner(test, "");
    // Its first creation sweeps, so what is to stay is put there before.
    symlink(path("replaced"), path("link2")).unwrap();
    fs::rename(path("link2"), path("link")).unwrap();
    fs::rename(path("moved"), path("moved-away")).unwrap();
    fs::rename(path("swapped-1"), path("x")).unwrap();
    fs::rename(path("swapped-2"), path("swapped-1")).unwrap();
    fs::rename(path("x"), path("swapped-2")).unwrap();
    assert_eq!(ours.ask("create python"), "done");

    assert_eq!(shm_names(), ["link", "moved-away", "python", "replaced", "swapped-1", "swapped-2"]);
    assert_eq!(fs::read(path("replaced")).unwrap(), b"another program's");
    assert_prunes(&[]);
    ours.kill();
    assert_prunes(&["python"]);
    assert_eq!(ledgers(), [""; 0]);
}

#[test]
fn a_child_that_was_forked_neither_saves_nor_takes_its_parent_s_blocks() {
    let test = "a_child_that_was_forked_neither_saves_nor_takes_its_parent_s_blocks";
    if let Some(("forks", name)) = peer::role().as_ref().map(|(role, name)| (role.as_str(), name)) {
        let mut block = SharedMemory::create_named(name, 10).unwrap();
        // SAFETY: the test harness's other threads hold nothing that the child, which creates a block, waits for.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                block.keep();
                assert_eq!(block.unlink().unwrap_err().kind(), ErrorKind::Closed);
                drop(block);
                // Its own blocks have a ledger of their own.
                let own = SharedMemory::create_named("the-child-s", 10).unwrap();
                say(&std::process::id().to_string());
                let end = Instant::now() + Duration::from_secs(20);
                while !path("go").exists() && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(1));
                }
                drop(own);
                // SAFETY: ends the process and runs nothing of its parent's.
                unsafe { nix::libc::_exit(0) };
            }
            ForkResult::Parent { child } => {
                // Ends with the test's process, or is killed.
                let _ = waitpid(child, None);
                return;
            }
        }
    }
    if !alone(test) {
        return;
    }
    let mut parent = Peer::start(test, "forks", "the-parent-s");
    let child: i32 = parent.next().parse().unwrap();
    assert_prunes(&[]);
    assert_eq!(shm_names(), ["the-child-s", "the-parent-s"]);
    assert_eq!(ledgers().len(), 2);
    // The child holds the descriptor with the ledger's lock, and lives.
    parent.kill();
    assert_prunes(&["the-parent-s"]);
    assert_eq!(shm_names(), ["the-child-s"]);
    assert_eq!(ledgers().len(), 1);
    fs::write(path("go"), "").unwrap();
    // Nobody may be there to reap it. Before its end it has removed its block, and perhaps not yet its ledger.
    let gone = || fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |stat| stat.contains(") Z "));
    let end = Instant::now() + Duration::from_secs(20);
    while !gone() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::remove_file(path("go")).unwrap();
    assert_eq!(shm_names(), [""; 0]);
}

#[test]
fn a_ledger_that_was_removed_renamed_or_cut_is_made_again() {
    let test = "a_ledger_that_was_removed_renamed_or_cut_is_made_again";
    if was_owner() || !alone(test) {
        return;
    }
    let ledger = || path(&ledgers()[0]);
    for harm in 0..4 {
        let mut killed = owner(test, "a b c");
        assert_eq!(killed.ask("drop b"), "done");
        match harm {
            0 => fs::remove_file(ledger()).unwrap(),
            1 => fs::rename(ledger(), path(".ndshm.moved")).unwrap(),
            2 => drop(File::create(ledger()).unwrap()),
            _ => {
                fs::remove_file(ledger()).unwrap();
                assert_eq!(killed.ask("keep a"), "done");
                assert_eq!(killed.ask("drop c"), "done");
                assert_eq!(killed.ask("create c"), "done");
                assert_eq!(killed.ask("create a2"), "done");
            }
        }
        assert_eq!(killed.ask("create d"), "done");
        // The one that was renamed says nothing any more.
        assert_prunes(&[]);
        assert_eq!(ledgers().len(), 1, "{harm}: {:?}", ledgers());
        killed.kill();
        assert_prunes(if harm == 3 { &["a2", "c", "d"] } else { &["a", "c", "d"] });
        if harm == 3 {
            SharedMemory::unlink_name("a").unwrap();
        }
        assert_eq!(all_shm_names(), [""; 0]);
    }
}

#[test]
fn a_ledger_is_as_large_as_what_its_process_owns() {
    if !alone("a_ledger_is_as_large_as_what_its_process_owns") {
        return;
    }
    let size = || fs::metadata(path(&ledgers()[0])).unwrap().len();
    let held = SharedMemory::create(10).unwrap();
    for _ in 0..5000 {
        drop(SharedMemory::create(10).unwrap());
    }
    assert!(size() <= 4096, "{}", size());
    let mut many: Vec<_> = (0..300).map(|_| SharedMemory::create(10).unwrap()).collect();
    assert!(size() >= 300 * 512);
    // Every second one, then the rest: slots in the middle are used again.
    let mut odd = true;
    many.retain(|_| std::mem::replace(&mut odd, false) || std::mem::replace(&mut odd, true));
    let before = size();
    many.extend((0..100).map(|_| SharedMemory::create(10).unwrap()));
    assert_eq!(size(), before);
    drop(many);
    assert!(size() <= 8192, "{}", size());
    drop(held);
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn what_only_looks_like_a_ledger_is_left_alone() {
    let test = "what_only_looks_like_a_ledger_is_left_alone";
    if was_owner() || !alone(test) {
        return;
    }
    // Nothing of these hangs, and none of it is an error for who creates.
    fs::write(path("victim"), "of a program of its own").unwrap();
    symlink("/etc/passwd", path(".ndshm.link")).unwrap();
    mkfifo(&path(".ndshm.fifo"), Mode::from_bits_truncate(0o600)).unwrap();
    fs::create_dir(path(".ndshm.dir")).unwrap();
    let socket = UnixListener::bind(path(".ndshm.socket")).unwrap();
    fs::write(path("ndshm.other"), "not even that").unwrap();

    let mut killed = owner(test, "a b");
    let ledger = path(ledgers().into_iter().find(|name| name.len() == ".ndshm.0123456789abcdef".len()).unwrap());
    // A copy of a living owner's ledger is not locked by anyone.
    fs::copy(&ledger, path(".ndshm.copy")).unwrap();
    let good = fs::read(&ledger).unwrap();
    for (name, bytes) in [
        ("garbage", vec![0xa5; 512]),
        ("zeros", vec![0; 4096]),
        ("short", good[..700].to_vec()),
        ("text", b"not a ledger at all".to_vec()),
        ("cut", good[..511].to_vec()),
    ] {
        fs::write(path(format!(".ndshm.{name}")), bytes).unwrap();
    }
    let planted = ["copy", "cut", "garbage", "short", "text", "zeros"];
    let shown = |pruned: &Pruned| {
        let mut shown: Vec<_> = pruned.problems().iter().map(ToString::to_string).collect();
        shown.sort();
        shown
    };
    let problems = shown(&ndshm::prune().unwrap());
    assert_eq!(problems.len(), planted.len(), "{problems:#?}");
    for (problem, name) in problems.iter().zip(planted) {
        assert!(problem.contains(&format!("/dev/shm/.ndshm.{name} ")), "{problem}");
    }
    assert!(problems[0].contains("is a copy"), "{}", problems[0]);
    assert!(path("a").exists() && path("b").exists() && path("victim").exists());
    for name in planted {
        fs::remove_file(path(format!(".ndshm.{name}"))).unwrap();
    }

    // Damage to a real one, whose owner is dead: nothing of it is believed.
    killed.kill();
    for (mode, byte, word) in [(0o600, Some(600), "checksum"), (0o622, None, "by other users"), (0o600, None, "names")]
    {
        let mut bytes = good.clone();
        if let Some(byte) = byte {
            bytes[byte] ^= 1;
        }
        fs::write(&ledger, bytes).unwrap();
        fs::set_permissions(&ledger, fs::Permissions::from_mode(mode)).unwrap();
        if word == "names" {
            fs::hard_link(&ledger, path(".ndshm.second")).unwrap();
        }
        let pruned = ndshm::prune().unwrap();
        assert_eq!(names_of(&pruned), [""; 0]);
        assert!(shown(&pruned)[0].contains(word), "{:?}", pruned.problems());
    }
    drop(owner(test, "creates-all-the-same"));
    fs::remove_file(path(".ndshm.second")).unwrap();
    assert_prunes(&["a", "b", "creates-all-the-same"]);
    drop(socket);
    assert_eq!(all_shm_names(), [".ndshm.dir", ".ndshm.fifo", ".ndshm.link", ".ndshm.socket", "ndshm.other", "victim"]);
}

#[test]
fn two_users_neither_believe_nor_touch_each_other() {
    let test = "two_users_neither_believe_nor_touch_each_other";
    if let Some((_, left)) = peer::role().filter(|(role, _)| role == "nobody") {
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setgid(65534.into()).unwrap();
        nix::unistd::setuid(Uid::from_raw(65534)).unwrap();
        // What it wrote itself, in root's words, and what it cannot even read.
        fs::copy(path("readable"), path(".ndshm.planted")).unwrap();
        assert_eq!(names_of(&ndshm::prune().unwrap()).join(" "), left);
        let own = SharedMemory::create_named("nobody-s", 10).unwrap();
        let of_root = if left.is_empty() { ErrorKind::Permission } else { ErrorKind::NotFound };
        assert_eq!(SharedMemory::unlink_name("root-s").unwrap_err().kind(), of_root);
        say("ready");
        hear();
        drop(own);
        return;
    }
    if was_owner() || !alone(test) {
        return;
    }
    fs::set_permissions("/dev/shm", fs::Permissions::from_mode(0o1777)).unwrap();
    let mut root = owner(test, "root-s");
    fs::copy(path(&ledgers()[0]), path("readable")).unwrap();
    fs::set_permissions(path("readable"), fs::Permissions::from_mode(0o644)).unwrap();
    root.kill();
    let mut nobody = Peer::start(test, "nobody", "");
    if !Uid::current().is_root() || nobody.next() != "ready" {
        println!("skipped: this user cannot become another one");
        return;
    }
    nobody.kill();
    assert_eq!(fs::metadata(path("nobody-s")).unwrap().uid(), 65534);
    // Root may remove anything, and does not.
    assert_prunes(&["root-s"]);
    assert_eq!(shm_names(), ["nobody-s", "readable"]);
    assert_eq!(ledgers().len(), 2);
    fs::remove_file(path(".ndshm.planted")).unwrap();
    let mut again = Peer::start(test, "nobody", "nobody-s");
    again.expect("ready");
    assert_eq!(shm_names(), ["nobody-s", "readable"], "its own next process has swept it, and made it anew");
}

#[test]
fn a_stranger_s_lock_on_a_block_delays_its_removal_and_no_longer() {
    let test = "a_stranger_s_lock_on_a_block_delays_its_removal_and_no_longer";
    if was_owner() || !alone(test) {
        return;
    }
    let mut killed = owner(test, "locked free");
    killed.kill();
    let locked =
        nix::fcntl::Flock::lock(File::open(path("locked")).unwrap(), nix::fcntl::FlockArg::LockShared).unwrap();
    let pruned = ndshm::prune().unwrap();
    assert_eq!(names_of(&pruned), ["free"]);
    assert_eq!(pruned.problems()[0].kind(), ErrorKind::WouldBlock);
    assert_eq!(SharedMemory::unlink_name("locked").unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(locked);
    assert_prunes(&["locked"]);
}

#[test]
fn blocks_that_live_survive_sweeps_of_other_processes() {
    let test = "blocks_that_live_survive_sweeps_of_other_processes";
    match peer::role() {
        // A ledger that comes and goes with every block, and one that stays.
        Some((role, argument)) if role == "creates" => {
            let (rounds, label) = argument.split_once(' ').unwrap();
            let rounds: usize = rounds.parse().unwrap();
            let held = (label != "alone").then(|| SharedMemory::create_named(&format!("held-{label}"), 10).unwrap());
            for round in 0..rounds {
                if round % 500 == 0 {
                    say("goes on");
                }
                // All of them use the same names, so that one sees what another one has left.
                let name = format!("shared-{}", round % 3);
                match SharedMemory::create_named(&name, 10) {
                    Ok(block) => {
                        let id = || fs::metadata(path(&name)).map(|meta| meta.ino());
                        let first = id().unwrap_or_else(|error| panic!("{name} in round {round}: {error}"));
                        std::thread::yield_now();
                        assert_eq!(id().ok(), Some(first), "{name} in round {round}");
                        drop(block);
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
                }
                let own = SharedMemory::create(10).unwrap();
                std::thread::yield_now();
                assert!(path(own.name().unwrap()).exists(), "round {round}");
            }
            assert!(held.is_none_or(|held| path(held.name().unwrap()).exists()));
            say("survived");
            return;
        }
        Some((role, _)) if role == "dies" => {
            say("begins");
            loop {
                let _blocks = [0, 1, 2].map(|n| SharedMemory::create_named(&format!("shared-{n}"), 10));
                let _own = SharedMemory::create(10).unwrap();
            }
        }
        Some(_) => {
            say("begins");
            loop {
                let pruned = ndshm::prune().unwrap();
                assert!(pruned.problems().is_empty(), "{:?}", pruned.problems());
            }
        }
        None => {}
    }
    if !alone(test) {
        return;
    }
    let mut sweepers: Vec<_> = (0..2).map(|_| Peer::start(test, "sweeps", "")).collect();
    for sweeper in &mut sweepers {
        sweeper.expect("begins");
    }
    let rounds = std::env::var("NDSHM_SWEEP_ROUNDS").unwrap_or_else(|_| "1500".to_owned());
    let mut creators: Vec<_> =
        ["alone", "a"].map(|label| Peer::start(test, "creates", &format!("{rounds} {label}"))).into();
    for _ in 0..20 {
        let mut dies = Peer::start(test, "dies", "");
        dies.expect("begins");
        std::thread::sleep(Duration::from_millis(3));
        dies.kill();
    }
    for mut creator in creators.drain(..) {
        while creator.next() != "survived" {}
        creator.succeeded();
    }
    for mut sweeper in sweepers.drain(..) {
        // It says something only when it fails.
        assert!(sweeper.is_silent_for(Duration::from_millis(1)));
        sweeper.kill();
    }
    ndshm::prune().unwrap();
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn a_forked_child_s_exit_leaves_its_parent_s_ledger() {
    let test = "a_forked_child_s_exit_leaves_its_parent_s_ledger";
    if !alone(test) {
        return;
    }
    let block = SharedMemory::create_named("mine", 10).unwrap();
    // SAFETY: this process runs this test alone.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(block);
            let clean = ndshm::prune().is_ok_and(|pruned| pruned.blocks().is_empty());
            // SAFETY: ends the process and runs nothing of its parent's.
            unsafe { nix::libc::_exit(i32::from(!clean)) };
        }
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0)),
    }
    assert_eq!(shm_names(), ["mine"]);
    assert_eq!(ledgers().len(), 1);
    assert_prunes(&[]);
}
