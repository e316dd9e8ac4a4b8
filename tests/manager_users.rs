//! Two users: neither attaches to, lists, sweeps or talks to the other's, and the errors say why.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;
mod peer;

use std::os::fd::AsRawFd;
use std::time::Duration;

use common::{BlocksLeft, assert_kind, unique_name};
use ndshm::{ErrorKind, SharedMemory, SharedMemoryManager};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, recv, send, socket,
};
use nix::unistd::Uid;
use peer::{Peer, hear, role, say};

ndshm::init_before_main!();

const NOBODY: u32 = 65534;

/// Goes on as another user, in a process of its own.
fn become_nobody() {
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setgid(NOBODY.into()).unwrap();
    nix::unistd::setuid(Uid::from_raw(NOBODY)).unwrap();
}

/// False where this user cannot become another one.
fn can_become_another() -> bool {
    let is_root = Uid::current().is_root();
    if !is_root {
        println!("skipped: only root can become another user, and this is user {}", Uid::current());
    }
    is_root
}

fn abstract_socket(address: &str) -> (std::os::fd::OwnedFd, UnixAddr) {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    (fd, UnixAddr::new_abstract(address.strip_prefix('@').unwrap().as_bytes()).unwrap())
}

#[test]
fn another_user_is_refused_and_told_why() {
    const TEST: &str = "another_user_is_refused_and_told_why";
    if let Some((_, argument)) = role() {
        let words: Vec<&str> = argument.split(' ').collect();
        let [address, manager_name, block] = words[..] else { panic!("{argument}") };
        become_nobody();
        let refused = SharedMemoryManager::connect(address);
        assert_kind(refused, ErrorKind::Permission, &["user 0's", "user 65534", "own user alone"]);
        // A name alone means this user's own.
        assert_kind(SharedMemoryManager::connect(manager_name), ErrorKind::NotFound, &["/65534/"]);
        assert_kind(SharedMemory::attach(block), ErrorKind::Permission, &[block]);
        assert!(ndshm::prune().unwrap().blocks().iter().all(|found| found.name() != block));

        // Whoever does not look at the server's user is not served all the same.
        let (fd, server) = abstract_socket(address);
        connect(fd.as_raw_fd(), &server).unwrap();
        // Fails where the server was faster.
        let _ = send(fd.as_raw_fd(), b"ndshm-mg\x01\0\0\0", MsgFlags::MSG_NOSIGNAL);
        let answered = recv(fd.as_raw_fd(), &mut [0; 100], MsgFlags::empty());
        assert!(matches!(answered, Ok(0) | Err(nix::errno::Errno::ECONNRESET)), "{answered:?}");

        let own = SharedMemoryManager::builder().name(manager_name).start().unwrap();
        let memory = own.options().label("own").shared_memory(10).unwrap();
        say(&format!("{} {}", own.address(), memory.name().unwrap()));
        hear();
        assert_eq!(own.list().unwrap().len(), 1);
        own.shutdown().unwrap();
        say("served to the end");
        return;
    }
    if !can_become_another() {
        return;
    }
    let name = unique_name("two").replace("ndshm-test-", "");
    let manager = SharedMemoryManager::builder().name(&name).start().unwrap();
    let memory = manager.shared_memory(100).unwrap();
    let block = memory.name().unwrap();
    let mut nobody = Peer::start(TEST, "nobody", &format!("{} {name} {block}", manager.address()));
    let said = nobody.next();
    let (theirs, their_block) = said.split_once(' ').unwrap();
    let left = BlocksLeft::watch([their_block]);
    // The same name, and another manager.
    assert_ne!(theirs, manager.address());
    let refused = SharedMemoryManager::connect(theirs);
    assert_kind(refused, ErrorKind::Permission, &["user 65534's", "user 0"]);
    // Root may look into it, and takes nothing.
    assert!(ndshm::prune().unwrap().blocks().iter().all(|found| found.name() != their_block));
    assert_eq!(left.left().len(), 1);
    assert_eq!(manager.list().unwrap().len(), 1);
    assert_eq!(nobody.ask("go on"), "served to the end");
    left.assert_gone();
    assert!(SharedMemory::attach(block).is_ok());
}

#[test]
fn who_sits_on_anothers_address_is_found_out() {
    const TEST: &str = "who_sits_on_anothers_address_is_found_out";
    if let Some((_, address)) = role() {
        become_nobody();
        let (fd, name) = abstract_socket(&address);
        bind(fd.as_raw_fd(), &name).unwrap();
        listen(&fd, Backlog::new(5).unwrap()).unwrap();
        say("sits");
        hear();
        return;
    }
    if !can_become_another() {
        return;
    }
    let name = unique_name("sat-on").replace("ndshm-test-", "");
    let mut nobody = Peer::start(TEST, "nobody", &format!("@ndshm/0/{name}"));
    nobody.expect("sits");
    let builder = SharedMemoryManager::builder().name(&name);
    assert_kind(builder.start(), ErrorKind::AlreadyExists, &["somebody listens", &name]);
    let refused = SharedMemoryManager::connect(&name);
    assert_kind(refused, ErrorKind::Permission, &["user 65534's"]);
    assert!(nobody.is_silent_for(Duration::ZERO));
}
