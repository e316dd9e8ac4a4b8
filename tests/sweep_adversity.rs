//! The sweep keeps its two promises, nothing that lives is removed and what is left is found, where the surroundings are
//! against it: closed streams, other users' numbers, forbidden system calls, limits, strangers' locks.
#![allow(unsafe_code, reason = "closes standard streams, changes users, filters system calls")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod ledgers;
mod peer;
mod reexec;
mod seccomp;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use ledgers::{ledgers, names_of, path};
use ndshm::{ErrorKind, SharedMemory};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Uid, fork, geteuid, setgid, setgroups, setuid};
use peer::{Peer, hear, say};
use reexec::{all_shm_names, role, shm_names};

/// A user without a name.
const SOMEBODY: u32 = 4321;
/// The size of a ledger's slot.
const SLOT: usize = 512;

/// Runs the test in a process with a `/dev/shm` of its own, that every user may write; true in that process.
fn alone(test: &str) -> bool {
    if role().is_some() {
        return true;
    }
    reexec::with_own_shm("size=64m,mode=1777", test, "alone");
    false
}

#[track_caller]
fn assert_prunes(expected: &[&str]) {
    let pruned = ndshm::prune().unwrap();
    assert_eq!(names_of(&pruned), expected, "{:?}", pruned.problems());
    assert!(pruned.problems().is_empty(), "{:?}", pruned.problems());
}

/// In another process: creates the block and stays until it is killed.
fn own(name: &str) {
    let _block = SharedMemory::create_named(name, 1000).unwrap();
    say("ready");
    hear();
}

fn owner(test: &str, role: &str, name: &str) -> Peer {
    let mut owner = Peer::start(test, role, name);
    owner.expect("ready");
    owner
}

fn become_somebody() {
    setgroups(&[]).unwrap();
    setgid(SOMEBODY.into()).unwrap();
    setuid(Uid::from_raw(SOMEBODY)).unwrap();
}

fn cannot_become_somebody() -> bool {
    let maps = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ids = maps.split_ascii_whitespace().nth(2).and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
    let cannot = !geteuid().is_root() || ids <= u64::from(SOMEBODY);
    if cannot {
        println!("skipped: this user cannot become another one");
    }
    cannot
}

#[test]
fn a_program_that_puts_others_in_place_of_its_standard_streams_keeps_its_blocks() {
    // Seen: with its streams closed the process got its ledger as descriptor 0 or 1. What a daemon then opened in their
    // place took the ledger's lock away, and the next sweep removed the blocks of a living process.
    let test = "a_program_that_puts_others_in_place_of_its_standard_streams_keeps_its_blocks";
    if let Some((_, name)) = peer::role() {
        let to_say = fcntl(std::io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(10)).unwrap();
        let to_hear = fcntl(std::io::stdin(), FcntlArg::F_DUPFD_CLOEXEC(10)).unwrap();
        for fd in 0..3 {
            // SAFETY: nothing owns the standard streams.
            unsafe { libc::close(fd) };
        }
        let block = SharedMemory::create_named(&name, 1000).unwrap();
        let _anonymous = SharedMemory::anonymous(1000).unwrap();
        // SAFETY: the string ends with a NUL; the numbers are those of the streams.
        let null = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        for (from, to) in [(to_hear, 0), (null, 1), (to_say, 2)] {
            // SAFETY: nothing owns the standard streams.
            unsafe { libc::dup2(from, to) };
        }
        block.write_at(0, b"still there").unwrap();
        say("ready");
        hear();
        return;
    }
    if !alone(test) {
        return;
    }
    let mut daemon = owner(test, "daemon", "climate");
    assert_prunes(&[]);
    assert_eq!(shm_names(), ["climate"]);
    daemon.kill();
    assert_prunes(&["climate"]);
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn a_ledger_of_a_user_that_has_no_number_here_is_not_believed() {
    // In a user namespace without a map all users are 65534, a process itself too.
    let test = "a_ledger_of_a_user_that_has_no_number_here_is_not_believed";
    if let Some((role, name)) = peer::role() {
        if role == "somebody" {
            become_somebody();
        }
        return own(&name);
    }
    if role().as_deref() == Some("unmapped") {
        let pruned = ndshm::prune().unwrap();
        println!("pruned: {:?}, problems: {:?}", names_of(&pruned), pruned.problems());
        return;
    }
    if !alone(test) || cannot_become_somebody() {
        return;
    }
    let mut victim = owner(test, "owner", "victim");
    let genuine = fs::read(path(&ledgers()[0])).unwrap();
    let mut somebody = owner(test, "somebody", "bait");
    let planted = ledgers().into_iter().find(|name| fs::read(path(name)).unwrap() != genuine).unwrap();
    somebody.kill();
    // Another user's own ledger, with the entry that anybody can compose about a block that anybody can see.
    let file = File::options().write(true).open(path(&planted)).unwrap();
    file.write_all_at(&genuine[SLOT..2 * SLOT], SLOT as u64).unwrap();

    let output = reexec::after(
        "unshare -U true || { echo no namespaces, 1 passed; exit 0; }; exec unshare -U \"$@\"",
        test,
        "unmapped",
    );
    let shown = reexec::succeeded(&output);
    assert!(shown.contains("no namespaces") || shown.contains("pruned: [],"), "{shown}");
    assert!(path("victim").exists(), "a living block was removed: {shown}");
    victim.kill();
    assert_prunes(&["victim"]);
}

#[test]
fn a_process_that_changes_its_user_leaves_to_each_what_is_theirs() {
    // Seen: what a server created after it had given up root was noted in root's ledger. When it was killed, root's sweep
    // left the block alone, since it was another user's, and removed the ledger: nobody found the block again.
    let test = "a_process_that_changes_its_user_leaves_to_each_what_is_theirs";
    if let Some((role, _)) = peer::role() {
        if role == "sweeps" {
            become_somebody();
            assert_prunes(&["somebody-s", "somebody-s-too"]);
            say("ready");
            return;
        }
        let root_s = SharedMemory::create_named("root-s", 10).unwrap();
        let root_s_too = SharedMemory::create_named("root-s-too", 10).unwrap();
        become_somebody();
        let _somebody_s = SharedMemory::create_named("somebody-s", 10).unwrap();
        // Not for this user to remove any more.
        drop(root_s);
        let _somebody_s_too = SharedMemory::create_named("somebody-s-too", 10).unwrap();
        say("ready");
        hear();
        drop(root_s_too);
        return;
    }
    if !alone(test) || cannot_become_somebody() {
        return;
    }
    let mut server = owner(test, "server", "");
    assert_prunes(&[]);
    assert_eq!(ledgers().len(), 2);
    server.kill();
    assert_prunes(&["root-s", "root-s-too"]);
    owner(test, "sweeps", "").succeeded();
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn who_may_not_ask_for_handles_finds_and_is_found() {
    // Seen: where a sandbox forbids `name_to_handle_at`, no other process's ledger was taken for itself, and nobody outside
    // believed those from inside: what was left stayed, and was called a copy.
    let test = "who_may_not_ask_for_handles_finds_and_is_found";
    let forbid = || seccomp::deny(libc::SYS_name_to_handle_at, Errno::EPERM);
    if let Some((role, name)) = peer::role() {
        if role == "forbidden" {
            forbid();
        }
        if role != "sweeps" {
            return own(&name);
        }
        forbid();
        let pruned = ndshm::prune().unwrap();
        let shown: Vec<_> = pruned.problems().iter().map(|e| format!("{:?}: {e}", e.kind())).collect();
        say(&format!("{} {}", names_of(&pruned).join(","), shown.join("; ")));
        return;
    }
    if !alone(test) {
        return;
    }
    owner(test, "forbidden", "inside").kill();
    assert_prunes(&["inside"]);

    // One that cannot compare takes nothing, says why, and leaves the ledger to who can.
    owner(test, "owner", "outside").kill();
    let said = Peer::start(test, "sweeps", "").next();
    assert!(said.starts_with(" Unsupported: "), "{said}");
    for word in ["/dev/shm/outside", "name_to_handle_at"] {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(shm_names(), ["outside"]);
    assert_prunes(&["outside"]);

    owner(test, "forbidden", "inside").kill();
    assert_eq!(Peer::start(test, "sweeps", "").next(), "inside ");
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn a_limit_on_the_size_of_files_costs_no_other_block_its_entry() {
    // Seen: with no bytes allowed an entry could not be taken out, so the whole ledger was given up; what the process still
    // owned was found by nobody when it was killed.
    let test = "a_limit_on_the_size_of_files_costs_no_other_block_its_entry";
    if peer::role().is_some() {
        let mut kept = SharedMemory::create_named("kept", 10).unwrap();
        let dropped = SharedMemory::create_named("dropped", 10).unwrap();
        let _left = SharedMemory::create_named("left", 10).unwrap();
        let mut kept_too = SharedMemory::create_named("kept-too", 10).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, 0, 0).unwrap();
        kept.keep();
        kept_too.keep();
        drop(dropped);
        assert_eq!(SharedMemory::create(10).unwrap_err().kind(), ErrorKind::NoSpace);
        say("ready");
        hear();
        return;
    }
    if !alone(test) {
        return;
    }
    owner(test, "owner", "").kill();
    assert_prunes(&["left"]);
    assert_eq!(all_shm_names(), ["kept", "kept-too"]);
}

#[test]
fn a_ledger_that_sweeps_would_not_believe_is_made_again() {
    // Seen: bytes that somebody appended, another name for it or rights for others went unnoticed, so that when its owner
    // was killed nothing of the ledger was believed.
    let test = "a_ledger_that_sweeps_would_not_believe_is_made_again";
    if let Some((_, harm)) = peer::role() {
        let _first = SharedMemory::create_named("first", 10).unwrap();
        let ledger = path(&ledgers()[0]);
        match harm.as_str() {
            "longer" => {
                let mut bytes = fs::read(&ledger).unwrap();
                bytes.extend_from_slice(b"...");
                fs::write(&ledger, bytes).unwrap();
            }
            "mode" => fs::set_permissions(&ledger, fs::Permissions::from_mode(0o666)).unwrap(),
            _ => fs::hard_link(&ledger, path(".ndshm.second")).unwrap(),
        }
        let _second = SharedMemory::create_named("second", 10).unwrap();
        say("ready");
        hear();
        return;
    }
    if !alone(test) {
        return;
    }
    for harm in ["longer", "mode", "names"] {
        owner(test, "owner", harm).kill();
        assert_prunes(&["first", "second"]);
        assert_eq!(all_shm_names(), [""; 0], "{harm}");
    }
}

#[test]
fn a_stranger_s_locks_on_many_blocks_delay_a_creator_once() {
    // Seen: each locked block cost every process's first creation a second.
    let test = "a_stranger_s_locks_on_many_blocks_delay_a_creator_once";
    let names: Vec<_> = (0..8).map(|n| format!("locked-{n}")).collect();
    if peer::role().is_some() {
        let _blocks: Vec<_> = names.iter().map(|name| SharedMemory::create_named(name, 10).unwrap()).collect();
        say("ready");
        hear();
        return;
    }
    if !alone(test) {
        return;
    }
    owner(test, "owner", "").kill();
    let lock =
        |name| nix::fcntl::Flock::lock(File::open(path(name)).unwrap(), nix::fcntl::FlockArg::LockShared).unwrap();
    let locks: Vec<_> = names.iter().map(lock).collect();
    let start = Instant::now();
    drop(SharedMemory::create(10).unwrap());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(locks);
    assert_prunes(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn another_dev_shm_that_is_mounted_meanwhile_gets_a_ledger_of_its_own() {
    // Seen: the ledger was not found where it had been, so it was made again in the new place and its first one emptied;
    // what the process owned in the old place was found by nobody.
    let test = "another_dev_shm_that_is_mounted_meanwhile_gets_a_ledger_of_its_own";
    if peer::role().is_some() {
        let below = SharedMemory::create_named("below", 10).unwrap();
        let mount = |words: &[&str]| {
            assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success());
        };
        mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/dev/shm"]);
        let above = SharedMemory::create_named("above", 10).unwrap();
        assert_eq!(all_shm_names().len(), 2);
        drop(above);
        assert_eq!(all_shm_names(), [""; 0]);
        mount(&["umount", "/dev/shm"]);
        say("ready");
        hear();
        drop(below);
        return;
    }
    if !alone(test) {
        return;
    }
    owner(test, "owner", "").kill();
    assert_prunes(&["below"]);
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn a_file_that_a_killed_process_had_in_the_making_is_removed() {
    // Seen: where no file can be made without a name (gVisor), a process that was killed before it gave a block its own left
    // a hidden one, of the block's size, for ever.
    let test = "a_file_that_a_killed_process_had_in_the_making_is_removed";
    if let Some((role, name)) = peer::role() {
        seccomp::deny_nameless_files();
        if role == "owner" {
            return own(&name);
        }
        let array = ndshm::SharedArray::<u8, _>::options().name(&name).fill_with(100, |_| {
            say("ready");
            hear();
            Ok::<(), ndshm::Error>(())
        });
        drop(array);
        return;
    }
    if !alone(test) {
        return;
    }
    let mut whole = owner(test, "owner", "whole");
    let hidden = || all_shm_names().into_iter().filter(|name| name.starts_with(".ndshm-")).count();
    assert_eq!(hidden(), 0, "one that has its name has no other");
    let mut fills = owner(test, "fills", "filled");
    assert_eq!(hidden(), 1);
    assert_prunes(&[]);
    assert_eq!(hidden(), 1, "its maker lives");
    fills.kill();
    assert_prunes(&[]);
    assert_eq!(hidden(), 0);
    assert_eq!(shm_names(), ["whole"]);
    SharedMemory::unlink_name("whole").unwrap();
    whole.kill();
    assert_prunes(&[]);
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn a_process_id_of_another_namespace_says_nothing_here() {
    let test = "a_process_id_of_another_namespace_says_nothing_here";
    if peer::role().is_some() {
        if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID) {
            say(&format!("no namespaces: {errno}"));
            return;
        }
        // SAFETY: the test harness's other threads hold nothing that the child, which creates a block, waits for.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let _block = SharedMemory::create_named("inside", 10).unwrap();
                assert_eq!(std::process::id(), 1);
                say("ready");
                hear();
                // SAFETY: ends the process and runs nothing of its parent's.
                unsafe { libc::_exit(0) };
            }
            ForkResult::Parent { child } => drop(waitpid(child, None)),
        }
        return;
    }
    if !alone(test) {
        return;
    }
    let mut inside = Peer::start(test, "owner", "");
    if inside.next() != "ready" {
        println!("skipped: no permission to make a namespace");
        return;
    }
    // Here process 1 is another one, with another start time.
    assert_prunes(&[]);
    assert_eq!(shm_names(), ["inside"]);
    inside.tell("end");
    inside.succeeded();
    assert_prunes(&["inside"]);
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn a_program_that_runs_another_or_exits_without_dropping_leaves_what_is_found() {
    let test = "a_program_that_runs_another_or_exits_without_dropping_leaves_what_is_found";
    if let Some((role, name)) = peer::role() {
        std::mem::forget(SharedMemory::create_named(&name, 10).unwrap());
        if role == "exits" {
            std::process::exit(0);
        }
        // Under the same process id, and with the same start time.
        let error = Command::new("sh").args(["-c", "echo peer says: ready >&2; read line"]).exec();
        panic!("{error}");
    }
    if !alone(test) {
        return;
    }
    Peer::start(test, "exits", "exited").succeeded();
    assert_prunes(&["exited"]);
    let _other = owner(test, "runs", "left-by-another");
    assert_prunes(&["left-by-another"]);
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn without_descriptors_nothing_is_lost_and_errors_say_so() {
    let test = "without_descriptors_nothing_is_lost_and_errors_say_so";
    if peer::role().is_some() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let own = SharedMemory::create_named("own", 10).unwrap();
        let mut kept = SharedMemory::create_named("kept", 10).unwrap();
        let mut unlinked = SharedMemory::create_named("unlinked", 10).unwrap();
        // One more descriptor at a time, so that each of the calls is the first to fail.
        let used = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let mut failed = 0;
        for limit in 3..used + 20 {
            setrlimit(Resource::RLIMIT_NOFILE, limit, most).unwrap();
            let before = all_shm_names_at(most, limit);
            match SharedMemory::create_named("new", 10) {
                Ok(new) => drop(new),
                Err(error) => {
                    failed += 1;
                    assert!(error.to_string().contains("ulimit -n"), "{error}");
                }
            }
            assert_eq!(all_shm_names_at(most, limit), before);
        }
        assert!((3..used + 19).contains(&failed), "{failed} of {used}");
        setrlimit(Resource::RLIMIT_NOFILE, 3, most).unwrap();
        // These need none.
        kept.keep();
        unlinked.unlink().unwrap();
        drop(own);
        drop((kept, unlinked));
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        assert_eq!(all_shm_names(), ["kept"]);
        say("ready");
        return;
    }
    if !alone(test) {
        return;
    }
    owner(test, "owner", "").succeeded();
    assert_eq!(all_shm_names(), ["kept"]);
}

/// The names, for which a descriptor is allowed meanwhile.
fn all_shm_names_at(most: u64, limit: u64) -> Vec<String> {
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let names = all_shm_names();
    setrlimit(Resource::RLIMIT_NOFILE, limit, most).unwrap();
    names
}

#[test]
fn many_that_sweep_at_once_find_each_block_once() {
    let test = "many_that_sweep_at_once_find_each_block_once";
    if let Some((role, _)) = peer::role() {
        if role == "owner" {
            let _blocks: Vec<_> = (0..5)
                .map(|n| SharedMemory::create_named(&format!("{}-{n}", std::process::id()), 10).unwrap())
                .collect();
            say("ready");
            hear();
            return;
        }
        say("ready");
        hear();
        let pruned = ndshm::prune().unwrap();
        assert!(pruned.problems().is_empty(), "{:?}", pruned.problems());
        say(&pruned.blocks().len().to_string());
        return;
    }
    if !alone(test) {
        return;
    }
    let living = owner(test, "owner", "");
    let mut owners: Vec<_> = (0..8).map(|_| owner(test, "owner", "")).collect();
    let mut sweepers: Vec<_> = (0..40).map(|_| owner(test, "sweeper", "")).collect();
    for owner in &mut owners {
        owner.kill();
    }
    for sweeper in &mut sweepers {
        sweeper.tell("sweep");
    }
    let found: usize = sweepers.iter_mut().map(|sweeper| sweeper.next().parse::<usize>().unwrap()).sum();
    assert_eq!(found, 8 * 5);
    assert_prunes(&[]);
    assert_eq!(shm_names().len(), 5);
    drop(living);
    assert_eq!(ndshm::prune().unwrap().blocks().len(), 5);
    assert_eq!(all_shm_names(), [""; 0]);
}

#[test]
fn a_dev_shm_that_is_full_or_read_only_is_an_error_that_says_so() {
    let test = "a_dev_shm_that_is_full_or_read_only_is_an_error_that_says_so";
    if peer::role().is_some() {
        return own("left");
    }
    if !alone(test) {
        return;
    }
    owner(test, "owner", "").kill();
    let full = File::create(path("full")).unwrap();
    let pages = vec![7; 1 << 20];
    while (&full).write_all(&pages).is_ok() {}
    // To sweep needs no room.
    assert_prunes(&["left"]);
    let error = SharedMemory::create_named("no-room", 1 << 16).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    drop(full);
    fs::remove_file(path("full")).unwrap();

    owner(test, "owner", "").kill();
    let remount = |how: &str| {
        let status = Command::new("mount").args(["-o", &format!("remount,bind,{how}"), "/dev/shm"]).status().unwrap();
        assert!(status.success());
    };
    remount("ro");
    let pruned = ndshm::prune().unwrap();
    assert_eq!(names_of(&pruned), [""; 0]);
    let shown = pruned.problems()[0].to_string();
    assert!(shown.contains("/dev/shm/.ndshm.") && shown.contains("Read-only file system"), "{shown}");
    let error = SharedMemory::create_named("read-only", 10).unwrap_err();
    assert!(error.to_string().contains("Read-only file system"), "{error}");
    remount("rw");
    assert_prunes(&["left"]);
    assert_eq!(all_shm_names(), [""; 0]);
}
