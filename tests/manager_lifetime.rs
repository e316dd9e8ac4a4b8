//! However owners, servers and clients end, no name, socket or process is left, and nobody else is disturbed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(unsafe_code, reason = "forking, and init_before_main")]

mod common;
mod peer;
mod reexec;
mod workers;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{BlocksLeft, assert_kind, wait_until};
use ndarray::Ix1;
use ndshm::{Each, ErrorKind, Pool, SharedMemory, SharedMemoryManager};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpgid, getsid, setpgid};
use peer::{Peer, hear, role, say};
use workers::{KillAtEnd, PATIENCE, assert_reaped, is_alive, signal, state, stop, wait_until_gone};

ndshm::init_before_main!();

/// In another process: owns a manager with two named blocks and an array, says where and what they are, and waits.
fn own() -> SharedMemoryManager {
    let manager = SharedMemoryManager::start().unwrap();
    let memory = manager.shared_memory(4 << 20).unwrap();
    let list = manager.shareable_list([1, 2, 3]).unwrap();
    let _array = manager.options().label("array").array::<f64, _>(1000).unwrap();
    let [memory, list] = [&memory, list.shm()].map(|memory| memory.name().unwrap().to_owned());
    say(&format!("{} {} {memory} {list}", manager.address(), manager.server_pid()));
    manager
}

/// What an owner has said.
struct Owned {
    peer: Peer,
    address: String,
    server: u32,
    left: BlocksLeft,
    _end: KillAtEnd,
}

fn owner(test: &str, role: &str) -> Owned {
    let mut peer = Peer::start(test, role, "");
    let said = peer.next();
    let words: Vec<&str> = said.split(' ').collect();
    let [address, server, names @ ..] = &words[..] else { panic!("{said}") };
    let server = server.parse().unwrap();
    let left = BlocksLeft::watch(names.iter().copied());
    assert_eq!(left.left().len(), 2);
    Owned { peer, address: (*address).to_owned(), server, left, _end: KillAtEnd(vec![server]) }
}

fn ledgers_of(pid: u32) -> usize {
    // What other programs have there may be anything: a pipe, say, that nobody ever writes to.
    let is_its = |name: &str| {
        if !name.starts_with(".ndshm.") {
            return false;
        }
        let head = std::fs::read(Path::new("/dev/shm").join(name)).unwrap_or_default();
        head.get(12..16) == Some(&pid.to_ne_bytes())
    };
    let names = std::fs::read_dir("/dev/shm").unwrap();
    names.filter(|entry| entry.as_ref().is_ok_and(|entry| is_its(entry.file_name().to_str().unwrap_or("")))).count()
}

/// Nothing is left of a manager: neither names nor ledger, socket or process.
#[track_caller]
fn assert_nothing_left(address: &str, server: u32, left: &BlocksLeft) {
    wait_until_gone(&[server]);
    left.assert_gone();
    assert_eq!(ledgers_of(server), 0, "a ledger is left");
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    assert!(!sockets.lines().any(|line| line.ends_with(address)), "a socket is left");
    assert_kind(SharedMemoryManager::connect(address), ErrorKind::NotFound, &[address]);
}

// The owner ends

#[test]
fn all_is_gone_soon_after_the_owner_was_killed() {
    if role().is_some() {
        let _manager = own();
        hear();
        return;
    }
    // One of several, since a busy machine may run neither the server nor this test for a while.
    let quickest = (0..5).map(|_| {
        let mut owned = owner("all_is_gone_soon_after_the_owner_was_killed", "owner");
        let bystander = SharedMemoryManager::connect(&owned.address).unwrap();
        // SAFETY: whoever writes to it does so through guards.
        let array = unsafe { bystander.attach_array::<f64, Ix1>("array") }.unwrap();
        // Returns when the process's memory is torn down.
        owned.peer.kill();
        let torn_down = Instant::now();
        owned.left.assert_gone_within(PATIENCE);
        let took = torn_down.elapsed();
        assert_nothing_left(&owned.address, owned.server, &owned.left);
        assert_kind(bystander.list(), ErrorKind::Closed, &["is gone"]);
        assert_eq!(array.read().unwrap().len(), 1000);
        took
    });
    let quickest = quickest.min().unwrap();
    assert!(quickest < Duration::from_millis(100), "the names were gone after {quickest:?}");
}

#[test]
fn an_owner_that_exits_or_panics_leaves_nothing() {
    match role() {
        Some((role, _)) if role == "exits" => {
            let manager = own();
            std::mem::forget(manager);
            std::process::exit(0);
        }
        Some(_) => {
            let _manager = own();
            panic!("with a manager at hand");
        }
        None => {}
    }
    for role in ["exits", "panics"] {
        let mut peer = Peer::start("an_owner_that_exits_or_panics_leaves_nothing", role, "");
        let said = peer.next();
        let words: Vec<&str> = said.split(' ').collect();
        let left = BlocksLeft::watch(words[2..].iter().copied());
        left.assert_gone_within(PATIENCE);
        assert_nothing_left(words[0], words[1].parse().unwrap(), &left);
    }
}

#[test]
fn an_owner_that_becomes_another_program_leaves_nothing() {
    if role().is_some() {
        let manager = own();
        hear();
        let error = Command::new("sleep").arg("60").exec();
        drop(manager);
        panic!("{error}");
    }
    let mut owned = owner("an_owner_that_becomes_another_program_leaves_nothing", "owner");
    owned.peer.tell("go");
    owned.left.assert_gone_within(PATIENCE);
    assert!(is_alive(owned.peer.pid()));
    assert_nothing_left(&owned.address, owned.server, &owned.left);
}

#[test]
fn a_forked_child_does_nothing_and_holds_up_nothing() {
    if role().is_some() {
        let manager = own();
        // SAFETY: the child does little, and leaves with the process that runs this test.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                assert_kind(manager.list(), ErrorKind::Closed, &["forked"]);
                assert_kind(manager.array::<u8, _>(3), ErrorKind::Closed, &["forked"]);
                // It holds whatever the owner had open, its end of the server's socket too.
                say(&format!("child {}", std::process::id()));
                thread::sleep(3 * PATIENCE);
                std::process::exit(0);
            }
            ForkResult::Parent { .. } => {
                hear();
                manager.list().unwrap();
                say("still served");
                hear();
            }
        }
        return;
    }
    let mut owned = owner("a_forked_child_does_nothing_and_holds_up_nothing", "owner");
    let child = owned.peer.next().strip_prefix("child ").unwrap().parse().unwrap();
    let _end = KillAtEnd(vec![child]);
    owned.peer.tell("go");
    owned.peer.expect("still served");
    assert_eq!(owned.left.left().len(), 2);
    owned.peer.kill();
    owned.left.assert_gone_within(PATIENCE);
    assert!(is_alive(child));
    assert_nothing_left(&owned.address, owned.server, &owned.left);
}

// Signals

#[test]
fn a_server_has_a_session_of_its_own_and_no_hold_on_its_owners_streams() {
    let manager = SharedMemoryManager::start().unwrap();
    let pid = Pid::from_raw(manager.server_pid().cast_signed());
    assert_eq!((getsid(Some(pid)).unwrap(), getpgid(Some(pid)).unwrap()), (pid, pid));
    for number in 0..3 {
        let stream = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        assert_eq!(stream, Path::new("/dev/null"));
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.starts_with("Name:\tndshm server\n"), "{status}");
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
}

#[test]
fn ctrl_c_reaches_the_owner_alone() {
    if role().is_some() {
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).unwrap();
        // The owner answers it in its own time.
        let action = nix::sys::signal::SigHandler::SigIgn;
        // SAFETY: ignoring a signal runs no code.
        unsafe { nix::sys::signal::signal(Signal::SIGINT, action) }.unwrap();
        let manager = own();
        hear();
        let name = manager.shared_memory(10).unwrap().name().unwrap().to_owned();
        say(&name);
        hear();
        let ended = manager.shutdown().unwrap();
        say(&format!("server was gone: {}", ended.server_was_gone()));
        return;
    }
    let mut owned = owner("ctrl_c_reaches_the_owner_alone", "owner");
    killpg(Pid::from_raw(owned.peer.pid().cast_signed()), Signal::SIGINT).unwrap();
    for terminal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGTSTP] {
        signal(owned.server, terminal);
    }
    let late = BlocksLeft::watch([owned.peer.ask("go on")]);
    assert_eq!(late.left().len(), 1);
    assert_eq!(owned.peer.ask("end"), "server was gone: false");
    late.assert_gone();
    assert_nothing_left(&owned.address, owned.server, &owned.left);
}

#[test]
fn a_server_that_is_asked_to_end_cleans_up_first() {
    let manager = SharedMemoryManager::start().unwrap();
    let memory = manager.shared_memory(10).unwrap();
    let left = BlocksLeft::watch([memory.name().unwrap()]);
    let (address, server) = (manager.address().to_owned(), manager.server_pid());
    signal(server, Signal::SIGTERM);
    left.assert_gone_within(PATIENCE);
    assert!(wait_until(PATIENCE, || state(server) == Some('Z')));
    let ended = manager.shutdown().unwrap();
    assert_eq!((ended.server_fate(), ended.removed().len()), (Some("exited with code 0"), 0));
    assert_nothing_left(&address, server, &left);
}

// The server ends

#[test]
fn the_owner_cleans_up_for_a_server_that_was_killed_and_says_so() {
    let manager = SharedMemoryManager::start().unwrap();
    let client = SharedMemoryManager::connect(manager.address()).unwrap();
    let mut names = Vec::new();
    for maker in [&manager, &client, &manager] {
        names.push(maker.shared_memory(1000).unwrap().name().unwrap().to_owned());
    }
    manager.remove(&names[0]).unwrap();
    let by_hand = manager.shared_memory(10).unwrap();
    let by_hand = by_hand.name().unwrap();
    SharedMemory::unlink_name(by_hand).unwrap();
    let foreign = SharedMemory::create_named(by_hand, 10).unwrap();
    let left = BlocksLeft::watch(&names);
    let (address, server) = (manager.address().to_owned(), manager.server_pid());
    // Not even the ledger is there any more, which a sweep would need.
    for entry in std::fs::read_dir("/dev/shm").unwrap().map(Result::unwrap) {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        if bytes.starts_with(b"NDSHMLGR") && bytes.get(12..16) == Some(&server.to_ne_bytes()) {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    signal(server, Signal::SIGKILL);
    assert_kind(manager.list(), ErrorKind::Closed, &["is gone", "was killed by signal 9 (SIGKILL)"]);
    assert_kind(manager.shared_memory(10), ErrorKind::Closed, &["is gone"]);
    assert_kind(client.list(), ErrorKind::Closed, &["is gone"]);
    assert_eq!(left.left().len(), 2);

    let ended = manager.shutdown().unwrap();
    assert_eq!(ended.server_fate(), Some("was killed by signal 9 (SIGKILL)"));
    let mut removed: Vec<_> = ended.removed().iter().map(ndshm::PrunedBlock::name).collect();
    removed.sort_unstable();
    names.remove(0);
    names.sort_unstable();
    assert_eq!(removed, names);
    assert!(ended.removed().iter().all(|block| block.owner_pid() == Some(server)));
    assert_nothing_left(&address, server, &left);
    assert!(SharedMemory::attach(foreign.name().unwrap()).is_ok(), "another's block was removed");
}

#[test]
fn the_owners_drop_cleans_up_for_a_server_that_was_killed() {
    let manager = SharedMemoryManager::start().unwrap();
    let memory = manager.shared_memory(1000).unwrap();
    let left = BlocksLeft::watch([memory.name().unwrap()]);
    let (address, server) = (manager.address().to_owned(), manager.server_pid());
    signal(server, Signal::SIGKILL);
    drop(manager);
    assert_reaped([server]);
    assert_nothing_left(&address, server, &left);
}

#[test]
fn a_sweep_cleans_up_when_all_were_killed() {
    if role().is_some() {
        let _manager = own();
        hear();
        return;
    }
    let mut owned = owner("a_sweep_cleans_up_when_all_were_killed", "owner");
    // Stopped, it cannot see its owner die.
    stop(owned.server);
    owned.peer.kill();
    signal(owned.server, Signal::SIGKILL);
    wait_until_gone(&[owned.server]);
    // Another test's process may sweep first, or be at it.
    let swept = || ndshm::prune().is_ok() && owned.left.left().is_empty();
    assert!(wait_until(PATIENCE, swept), "{:?} are left", owned.left.left());
    assert_nothing_left(&owned.address, owned.server, &owned.left);
}

// A client ends

#[test]
fn clients_that_are_killed_in_the_middle_of_something_disturb_nobody() {
    if let Some((_, address)) = role() {
        let manager = SharedMemoryManager::connect(&address).unwrap();
        say("begins");
        loop {
            let memory = manager.shared_memory(5000).unwrap();
            let mut array = manager.array::<u64, _>(100).unwrap();
            array.write().unwrap().fill(1);
            manager.remove(memory.name().unwrap()).unwrap();
        }
    }
    let manager = SharedMemoryManager::start().unwrap();
    let own = manager.options().label("own").shared_memory(10).unwrap();
    for turn in 0..10 {
        let mut client = Peer::start(
            "clients_that_are_killed_in_the_middle_of_something_disturb_nobody",
            "client",
            manager.address(),
        );
        client.expect("begins");
        thread::sleep(Duration::from_micros(700 * turn));
        client.kill();
        assert!(manager.list().unwrap().iter().any(|block| block.label() == "own"));
    }
    let names: Vec<String> =
        manager.list().unwrap().iter().filter_map(|block| block.name().map(str::to_owned)).collect();
    let left = BlocksLeft::watch(&names);
    assert_eq!(left.left().len(), names.len());
    let (address, server) = (manager.address().to_owned(), manager.server_pid());
    assert!(manager.shutdown().unwrap().problems().is_empty());
    assert_nothing_left(&address, server, &left);
    own.write_at(0, b"mapped").unwrap();
}

// Servers that stay

#[test]
fn a_detached_server_outlives_its_starter_and_ends_when_it_is_told() {
    if role().is_some() {
        let manager = SharedMemoryManager::builder().start_detached().unwrap();
        let memory = manager.options().label("data").shared_memory(100).unwrap();
        memory.write_at(0, b"kept in memory").unwrap();
        say(&format!("{} {} {}", manager.address(), manager.server_pid(), memory.name().unwrap()));
        return;
    }
    let mut peer = Peer::start("a_detached_server_outlives_its_starter_and_ends_when_it_is_told", "starter", "");
    let said = peer.next();
    let words: Vec<&str> = said.split(' ').collect();
    let server = words[1].parse().unwrap();
    let _end = KillAtEnd(vec![server]);
    let left = BlocksLeft::watch([words[2]]);
    peer.succeeded();
    assert!(is_alive(server));
    let manager = SharedMemoryManager::connect(words[0]).unwrap();
    assert_eq!(manager.server_pid(), server);
    let mut bytes = [0; 14];
    manager.attach_memory("data").unwrap().read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"kept in memory");
    manager.shutdown().unwrap();
    assert_nothing_left(words[0], server, &left);
}

#[test]
fn a_served_program_ends_in_order_by_ctrl_c_and_goes_on_after_it() {
    if role().is_some() {
        let server = SharedMemoryManager::builder().bind().unwrap();
        say(&format!("{} {}", server.address(), std::process::id()));
        let ended = server.run().unwrap();
        say(&format!("{} problems", ended.problems().len()));
        hear();
        return;
    }
    reexec::mind_signals();
    for ending in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut peer = Peer::start("a_served_program_ends_in_order_by_ctrl_c_and_goes_on_after_it", "server", "");
        let said = peer.next();
        let (address, server) = said.split_once(' ').unwrap();
        let manager = SharedMemoryManager::connect(address).unwrap();
        let memory = manager.shared_memory(10).unwrap();
        let left = BlocksLeft::watch([memory.name().unwrap()]);
        signal(server.parse().unwrap(), ending);
        peer.expect("0 problems");
        left.assert_gone();
        assert_eq!(ledgers_of(server.parse().unwrap()), 0);
        // Now it is an ordinary program again.
        signal(server.parse().unwrap(), ending);
        wait_until_gone(&[server.parse().unwrap()]);
    }
}

// Others around it

#[test]
fn a_program_whose_output_is_read_to_its_end_is_not_waited_for_in_vain() {
    const TEST: &str = "a_program_whose_output_is_read_to_its_end_is_not_waited_for_in_vain";
    if role().is_some() {
        let manager = SharedMemoryManager::builder().start_detached().unwrap();
        println!("server {}", manager.server_pid());
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", TEST, "--nocapture", "--test-threads=1"]).env("NDSHM_TEST_PEER", "starter ");
    // As `$(program)` does; it would never come to an end if the server held the pipe.
    let output = command.stdin(Stdio::null()).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let server = printed.split("server ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert!(is_alive(server));
    signal(server, Signal::SIGTERM);
    wait_until_gone(&[server]);
}

#[test]
fn a_worker_of_a_pool_may_own_a_manager_and_be_a_client_of_another() {
    let manager = SharedMemoryManager::start().unwrap();
    let pool = Pool::builder().workers(1).build().unwrap();
    let address = manager.address().to_owned();
    let made = pool
        .map(Each(&[address]), |address, _| {
            let outer = SharedMemoryManager::connect(&address).unwrap();
            outer.options().label("from a worker").array::<u8, _>(3).unwrap();
            let own = SharedMemoryManager::start().unwrap();
            let name = own.shared_memory(10).unwrap().name().unwrap().to_owned();
            std::mem::forget(own);
            (name, std::process::id())
        })
        .unwrap();
    let (name, worker) = &made[0];
    let left = BlocksLeft::watch([name]);
    assert_eq!(manager.list().unwrap()[0].label(), "from a worker");
    assert_eq!(left.left().len(), 1);
    signal(*worker, Signal::SIGKILL);
    left.assert_gone_within(PATIENCE);
}

#[test]
fn two_managers_know_nothing_of_each_other() {
    let [one, other] = [(), ()].map(|()| SharedMemoryManager::start().unwrap());
    for manager in [&one, &other] {
        manager.options().label("same").array::<u8, _>(1).unwrap();
    }
    let name = one.shared_memory(10).unwrap().name().unwrap().to_owned();
    assert_eq!((one.list().unwrap().len(), other.list().unwrap().len()), (2, 1));
    drop(other);
    assert!(SharedMemory::attach(&name).is_ok());
    assert_eq!(one.list().unwrap().len(), 2);
}

#[test]
fn nothing_is_left_of_a_manager_that_came_and_went_many_times() {
    let mut names = Vec::new();
    for _ in 0..20 {
        let manager = SharedMemoryManager::start().unwrap();
        names.push(manager.shared_memory(10).unwrap().name().unwrap().to_owned());
        let server = manager.server_pid();
        drop(manager);
        assert_reaped([server]);
    }
    BlocksLeft::watch(&names).assert_gone();
}

#[test]
fn a_child_of_the_owner_is_no_owner() {
    // A process of its own: another test's thread may hold a lock that the child needs.
    if role().is_none() {
        Peer::start("a_child_of_the_owner_is_no_owner", "alone", "").succeeded();
        return;
    }
    let manager = SharedMemoryManager::start().unwrap();
    let memory = manager.shared_memory(10).unwrap();
    // SAFETY: this process was started to run this test alone; the child only drops, and leaves through `_exit`.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            // And drops it.
            let closed = manager.shutdown().is_err_and(|error| error.kind() == ErrorKind::Closed);
            // SAFETY: ends the process, runs nothing of it.
            unsafe { nix::libc::_exit(i32::from(!closed)) }
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            assert!(SharedMemory::attach(memory.name().unwrap()).is_ok());
            assert_eq!(manager.list().unwrap().len(), 1);
        }
    }
}

// What does not work the first time, and again and again

#[test]
fn a_server_can_run_after_one_that_had_no_descriptor_left_for_signals() {
    // The second one panicked: the descriptor of the first was not there and was used.
    if role().is_none() {
        Peer::start("a_server_can_run_after_one_that_had_no_descriptor_left_for_signals", "child", "").succeeded();
        return;
    }
    let bind = || SharedMemoryManager::builder().bind().unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let server = bind();
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
    let refused = server.run();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert_kind(refused, ErrorKind::Io, &["signals"]);

    let server = bind();
    let address = server.address().to_owned();
    let serving = thread::spawn(|| server.run());
    SharedMemoryManager::connect(&address).unwrap().shutdown().unwrap();
    serving.join().unwrap().unwrap();
}

#[test]
fn servers_that_were_to_stay_and_have_ended_do_not_pile_up() {
    // Each left a zombie for as long as the process lived.
    if role().is_none() {
        Peer::start("servers_that_were_to_stay_and_have_ended_do_not_pile_up", "child", "").succeeded();
        return;
    }
    let mut before = Vec::new();
    for i in 0..3 {
        let name = format!("stays-{i}-{}", std::process::id());
        let manager = SharedMemoryManager::builder().name(name).start_detached().unwrap();
        assert_reaped(before.clone());
        let pid = manager.server_pid();
        manager.shutdown().unwrap();
        assert!(wait_until(PATIENCE, || !is_alive(pid)), "the server runs on");
        before.push(pid);
    }
}
