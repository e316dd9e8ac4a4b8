//! Clients that say the wrong thing, or nothing, or go in the middle: they get an error or the end, and the others are
//! served.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::uio::pwrite;

use crate::manager::address::Address;
use crate::manager::protocol::{Answer, Greeting, Kind, Request, VERSION};
use crate::sys::listener::{self, Listener};
use crate::sys::memfd;
use crate::sys::socket::{MAX_FDS, MAX_MESSAGE, Socket};
use crate::wire::{self, Packet};
use crate::{BlockKind, ErrorKind, SharedArray, SharedMemory, SharedMemoryManager};

fn start() -> SharedMemoryManager {
    SharedMemoryManager::start().unwrap()
}

/// A connection that has not said anything.
fn connection(manager: &SharedMemoryManager) -> Socket {
    let name = Address::parse(manager.address()).unwrap().socket_name();
    listener::connect(&name, Instant::now() + Duration::from_secs(10)).unwrap()
}

fn greeted(manager: &SharedMemoryManager) -> Socket {
    let socket = connection(manager);
    socket.send(&Greeting::Version(VERSION).encode(), &[]).unwrap();
    let greeting = socket.recv().unwrap().unwrap();
    assert_eq!(Greeting::decode(&greeting.bytes), Some(Greeting::Version(VERSION)));
    socket
}

fn ask(socket: &Socket, request: &Request, fds: &[BorrowedFd<'_>]) -> Answer {
    Packet::new(request).unwrap().try_send(socket, fds).unwrap();
    wire::open(socket.recv().unwrap().unwrap()).unwrap().0
}

#[track_caller]
fn assert_closed(socket: &Socket) {
    match socket.recv() {
        Ok(None) => {}
        other => panic!("expected the end, found {other:?}"),
    }
}

#[track_caller]
fn kind_of(answer: Answer) -> ErrorKind {
    match answer {
        Answer::Failed(failure) => crate::Error::from(failure).kind(),
        other => panic!("expected a failure, found {other:?}"),
    }
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Waits until a process has that many descriptors open: a server closes those of a client that went when it sees it.
#[track_caller]
fn assert_descriptors(pid: u32, expected: usize) {
    let start = Instant::now();
    while descriptors(pid) != expected {
        assert!(start.elapsed() < Duration::from_secs(10), "{} are open, expected {expected}", descriptors(pid));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[track_caller]
fn assert_serves(manager: &SharedMemoryManager) {
    let client = SharedMemoryManager::connect(manager.address()).unwrap();
    let before = client.list().unwrap().len();
    client.options().label("serves").array::<u8, _>(3).unwrap();
    assert_eq!(manager.list().unwrap().len(), before + 1);
    client.remove("serves").unwrap();
}

#[test]
fn garbage_is_answered_with_the_end() {
    let manager = start();
    let before = descriptors(manager.server_pid());
    let long = vec![0xff; MAX_MESSAGE];
    let garbage = [b"GET / HTTP/1.0\r\n\r\n".as_slice(), b"\0", b"ndshm-mg", b"ndshm-hi\x01\0\0\0", &long];
    for bytes in garbage {
        let socket = connection(&manager);
        socket.send(bytes, &[]).unwrap();
        assert_closed(&socket);
        let socket = greeted(&manager);
        socket.send(bytes, &[manager_fd().as_fd(); MAX_FDS]).unwrap();
        assert_closed(&socket);
    }
    // Where a large message would be, in a file that never ends.
    let socket = greeted(&manager);
    socket.send(&[1], &[File::open("/dev/zero").unwrap().as_fd()]).unwrap();
    assert_closed(&socket);
    assert_serves(&manager);
    assert_descriptors(manager.server_pid(), before);
}

fn manager_fd() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

#[test]
fn another_version_is_told_which_this_one_is() {
    let manager = start();
    let socket = connection(&manager);
    socket.send(&Greeting::Version(VERSION + 1).encode(), &[]).unwrap();
    let greeting = socket.recv().unwrap().unwrap();
    assert_eq!(Greeting::decode(&greeting.bytes), Some(Greeting::Version(VERSION)));
    assert_closed(&socket);
    assert_serves(&manager);
}

#[test]
fn a_server_that_is_another_full_or_none_is_an_error_that_says_so() {
    let address = Address::of_this_user(None).unwrap();
    let listener = Listener::bind(&address.socket_name()).unwrap();
    let answers = [
        (
            Greeting::Version(77).encode().to_vec(),
            ErrorKind::Unsupported,
            "speaks version 77 of the protocol, expected 1",
        ),
        (Greeting::Full.encode().to_vec(), ErrorKind::NoSpace, "no room for another client"),
        (b"hello?".to_vec(), ErrorKind::Layout, "is no manager"),
        (Vec::new(), ErrorKind::Closed, "is gone"),
    ];
    for (answer, kind, words) in answers {
        let connecting = {
            let address = address.to_string();
            std::thread::spawn(move || SharedMemoryManager::connect(&address).unwrap_err())
        };
        let socket = loop {
            match listener.accept() {
                Ok(socket) => break socket,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        if !answer.is_empty() {
            socket.send(&answer, &[]).unwrap();
        }
        drop(socket);
        let error = connecting.join().unwrap();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_descriptor_of_something_else_is_refused_without_a_look_at_it() {
    let manager = start();
    let socket = greeted(&manager);
    let before = descriptors(manager.server_pid());
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, b"\x93NUMPY").unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    let block = SharedMemory::create(8).unwrap();
    let block_path = PathBuf::from("/dev/shm").join(block.name().unwrap());
    let (pipe, _write) = nix::unistd::pipe().unwrap();
    let (ours, _theirs) = Socket::pair().unwrap();
    let by = |path: &std::path::Path, flags| open(path, flags, Mode::empty()).unwrap();
    let others: Vec<OwnedFd> = vec![
        File::open("/dev/null").unwrap().into(),
        File::open("/proc/self/mem").unwrap().into(),
        File::open(&path).unwrap().into(),
        File::open(dir.path()).unwrap().into(),
        by(&fifo, OFlag::O_RDWR),
        by(&block_path, OFlag::O_PATH),
        pipe,
        ours.into(),
    ];
    for (index, fd) in others.iter().enumerate() {
        for kind in [Kind::Memory, Kind::Array, Kind::List] {
            let publish = Request::Publish { label: Some("x".to_owned()), kind };
            assert_eq!(kind_of(ask(&socket, &publish, &[fd.as_fd()])), ErrorKind::Unsupported, "{index}");
            let name = format!("ndshm-hostile-{}", std::process::id());
            let create = Request::Create { name, label: None, kind };
            assert_eq!(kind_of(ask(&socket, &create, &[fd.as_fd()])), ErrorKind::Unsupported, "{index}");
        }
    }
    for request in [
        Request::Publish { label: None, kind: Kind::Memory },
        Request::Create { name: "x".to_owned(), label: None, kind: Kind::Memory },
    ] {
        assert_eq!(kind_of(ask(&socket, &request, &[])), ErrorKind::InvalidArgument);
    }
    assert_eq!(manager.list().unwrap(), []);
    assert_serves(&manager);
    assert_descriptors(manager.server_pid(), before);
}

#[test]
fn what_a_descriptor_holds_is_looked_at_and_not_believed() {
    let manager = start();
    let socket = greeted(&manager);
    let publish = |fd: BorrowedFd<'_>, kind| ask(&socket, &Request::Publish { label: None, kind }, &[fd]);
    let empty = memfd::create().unwrap();
    assert_eq!(kind_of(publish(empty.as_fd(), Kind::Memory)), ErrorKind::InvalidSize);
    let garbage = memfd::create().unwrap();
    pwrite(&garbage, &[0x7f; 5000], 0).unwrap();
    assert_eq!(kind_of(publish(garbage.as_fd(), Kind::Array)), ErrorKind::Layout);
    assert_eq!(kind_of(publish(garbage.as_fd(), Kind::List)), ErrorKind::Layout);
    // A header that promises more than there is.
    let array = SharedArray::<f64, _>::zeros(1000).unwrap();
    let mut header = vec![0; 4096];
    array.core().memory().read_at(0, &mut header).unwrap();
    let cut = memfd::create().unwrap();
    pwrite(&cut, &header, 0).unwrap();
    assert_eq!(kind_of(publish(cut.as_fd(), Kind::Array)), ErrorKind::Layout);
    // It cannot get a name: it lies in no file system.
    let name = format!("ndshm-hostile-memfd-{}", std::process::id());
    let create = Request::Create { name: name.clone(), label: None, kind: Kind::Memory };
    assert!(matches!(ask(&socket, &create, &[garbage.as_fd()]), Answer::Failed(_)));
    assert!(!PathBuf::from("/dev/shm").join(&name).exists());

    // Cut down later: the others are listed, and who attaches is told.
    let shrinking = memfd::create().unwrap();
    pwrite(&shrinking, &header, 0).unwrap();
    pwrite(&shrinking, &[0; 8064], 4096).unwrap();
    assert!(matches!(publish(shrinking.as_fd(), Kind::Array), Answer::Labelled(_)));
    manager.options().label("good").array::<u8, _>(2).unwrap();
    crate::sys::file::set_size(shrinking.as_fd(), 100).unwrap();
    let blocks = manager.list().unwrap();
    assert!(matches!(blocks[0].kind(), BlockKind::Damaged { .. }), "{blocks:?}");
    assert_eq!(blocks[1].shape(), Some([2].as_slice()));
    let error = manager.attach_frozen::<f64, ndarray::Ix1>("array-1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout, "{error}");
    manager.remove("array-1").unwrap();
    assert_eq!(manager.list().unwrap().len(), 1);
}

#[test]
fn a_client_that_never_reads_holds_up_nobody_and_loses_nothing() {
    let manager = start();
    let mut memory = SharedMemory::anonymous(1).unwrap();
    for i in 0..200 {
        manager.publish(&format!("{}{i}", "x".repeat(200)), &mut memory).unwrap();
    }
    let lazy = greeted(&manager);
    let packet = Packet::new(&Request::List).unwrap();
    let mut asked = 0_usize;
    // Until neither the server takes another request nor the kernel.
    let mut full = 0;
    while full < 50 {
        match packet.try_send(&lazy, &[]) {
            Ok(()) => (asked, full) = (asked + 1, 0),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                full += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(asked < 1_000_000, "the queue never fills");
    }
    assert_serves(&manager);
    for _ in 0..asked {
        match wire::open::<Answer>(lazy.recv().unwrap().unwrap()).unwrap().0 {
            Answer::List(blocks) => assert_eq!(blocks.len(), 200),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lazy.try_recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn clients_that_go_in_the_middle_leave_the_others_alone() {
    let manager = start();
    let before = descriptors(manager.server_pid());
    for turn in 0..50 {
        drop(connection(&manager));
        let socket = greeted(&manager);
        let memory = SharedMemory::anonymous(1).unwrap();
        let request = match turn % 3 {
            0 => Request::Publish { label: Some(format!("{turn}")), kind: Kind::Memory },
            1 => Request::Attach { label: "0".to_owned() },
            _ => Request::List,
        };
        Packet::new(&request).unwrap().try_send(&socket, &[memory.fd()]).unwrap();
    }
    assert_serves(&manager);
    let kept = manager.list().unwrap().len();
    assert_eq!(kept, 17);
    assert_descriptors(manager.server_pid(), before + kept);
}

/// The processor time that a process has used, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    rest[11].parse::<u64>().unwrap() + rest[12].parse::<u64>().unwrap()
}

#[test]
fn a_server_without_descriptors_refuses_serves_and_cleans_up() {
    #![expect(unsafe_code, reason = "prlimit has no safe wrapper among the dependencies")]
    let manager = start();
    let named = manager.shared_memory(10).unwrap();
    let limit = descriptors(manager.server_pid()) as u64 + 4;
    let limits = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    let pid = manager.server_pid().cast_signed();
    // SAFETY: `limits` is readable, and nothing is to be written.
    let set = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limits, std::ptr::null_mut()) };
    assert_eq!(set, 0);

    let mut clients = Vec::new();
    let error = loop {
        match SharedMemoryManager::connect(manager.address()) {
            Ok(client) => clients.push(client),
            Err(error) => break error,
        }
        assert!(clients.len() < 10, "the limit is never reached");
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("no room for another client"), "{error}");
    assert!(!clients.is_empty());
    // The descriptor that comes along is cut off; the manager says so and goes on.
    let error = manager.publish("one more", &mut SharedMemory::anonymous(1).unwrap()).unwrap_err();
    assert!(error.to_string().contains("limit of open files"), "{error}");
    assert_eq!(
        clients[0].list().unwrap_or_default().len() + manager.list().unwrap().len(),
        0,
        "it cannot look at names"
    );
    // It waits for better times and does not spin.
    let before = ticks(manager.server_pid());
    std::thread::sleep(Duration::from_millis(300));
    let used = ticks(manager.server_pid()) - before;
    assert!(used <= 10, "it used {used} ticks of 30");
    drop(clients.pop());
    while manager.list().unwrap().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let fill = |label| manager.publish(label, &mut SharedMemory::anonymous(1).unwrap());
    while clients.len() < 10 && SharedMemoryManager::connect(manager.address()).map(|c| clients.push(c)).is_ok() {}
    assert!(fill("again").is_err());
    // Names go although there is no descriptor left to open them with: those of the clients are given back first.
    let ended = manager.shutdown().unwrap();
    assert!(!ended.server_was_gone() && ended.problems().is_empty(), "{ended:?}");
    assert!(SharedMemory::attach(named.name().unwrap()).is_err());
}
