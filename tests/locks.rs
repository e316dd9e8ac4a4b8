//! One writer or many readers, across handles, threads and processes: who has to wait waits, and who would wait for
//! itself is told.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the numbers are small")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "attaching, and fork")]

mod common;
mod peer;
mod reexec;

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::RwLock;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use common::unique_name;
use ndarray::Ix1;
use ndshm::{ErrorKind, SharedArray, SharedMemory};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use peer::Peer;

type Bytes = SharedArray<u8, Ix1>;

/// Long enough to tell waiting from not waiting.
const MOMENT: Duration = Duration::from_millis(60);

/// Longer than anything here takes, if it ever ends.
const LONG: Duration = Duration::from_secs(10);

fn named(label: &str) -> (Bytes, String) {
    let name = unique_name(label);
    (SharedArray::options().name(&name).zeros(100).unwrap(), name)
}

fn attach(name: &str) -> Bytes {
    // SAFETY: these tests write through guards alone, and nobody cuts the block short.
    unsafe { SharedArray::attach(name) }.unwrap()
}

#[track_caller]
fn assert_would_block<T: std::fmt::Debug>(result: ndshm::Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
}

/// What the other processes of this file do: attach, then lock and unlock as they are told.
fn obey(mut array: Bytes) {
    peer::say("attached");
    loop {
        match &*peer::hear() {
            "read" => {
                let guard = array.read().unwrap();
                peer::say(&format!("reading {}", guard[0]));
                assert_eq!(peer::hear(), "unlock");
                drop(guard);
                peer::say("unlocked");
            }
            "write" => {
                let mut guard = array.write().unwrap();
                guard[0] += 1;
                peer::say(&format!("writing {}", guard[0]));
                assert_eq!(peer::hear(), "unlock");
                drop(guard);
                peer::say("unlocked");
            }
            "try_read" => peer::say(&outcome(array.try_read().map(drop))),
            "try_write" => peer::say(&outcome(array.try_write().map(drop))),
            "end" => break,
            other => panic!("told to {other}"),
        }
    }
}

fn outcome(result: ndshm::Result<()>) -> String {
    result.map_or_else(|error| format!("{:?}", error.kind()), |()| "locked".to_owned())
}

#[test]
fn a_second_process_waits_for_a_writer_and_gets_the_lock_when_it_ends() {
    if let Some((_, name)) = peer::role() {
        return obey(attach(&name));
    }
    let (mut array, name) = named("waits");
    let mut other = Peer::start("a_second_process_waits_for_a_writer_and_gets_the_lock_when_it_ends", "other", &name);
    other.expect("attached");

    let mut guard = array.write().unwrap();
    assert_eq!(other.ask("try_read"), "WouldBlock");
    assert_eq!(other.ask("try_write"), "WouldBlock");
    for (what, said) in [("read", "reading 7"), ("write", "writing 8")] {
        other.tell(what);
        assert!(other.is_silent_for(MOMENT), "it must wait for us");
        guard[0] = 7;
        drop(guard);
        other.expect(said);
        // And now the other way round.
        assert_would_block(array.try_write());
        if what == "write" {
            assert_would_block(array.try_read());
            let error = array.read_timeout(MOMENT).map(drop).unwrap_err();
            assert!(error.to_string().contains("; waited "), "{error}");
            assert_would_block(array.read_timeout(MOMENT));
        } else {
            assert_eq!(array.try_read().unwrap()[0], 7);
        }
        let start = Instant::now();
        assert_would_block(array.write_timeout(MOMENT));
        assert!(start.elapsed() >= MOMENT);
        other.tell("unlock");
        guard = array.write().unwrap();
        other.expect("unlocked");
    }
    assert_eq!(guard[0], 8);
    drop(guard);
    assert_eq!(other.ask("try_write"), "locked");
    other.tell("end");
    other.succeeded();
}

#[test]
fn a_timeout_ends_with_the_lock_where_it_comes_free_in_time() {
    if let Some((_, name)) = peer::role() {
        return obey(attach(&name));
    }
    let (mut array, name) = named("timeout");
    let mut other = Peer::start("a_timeout_ends_with_the_lock_where_it_comes_free_in_time", "other", &name);
    other.expect("attached");
    for _ in 0..2 {
        assert!(other.ask("write").starts_with("writing"));
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(MOMENT);
                assert_eq!(other.ask("unlock"), "unlocked");
            });
            drop(array.write_timeout(LONG).unwrap());
            assert!(start.elapsed() >= MOMENT && start.elapsed() < LONG);
        });
        assert!(other.ask("write").starts_with("writing"));
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(MOMENT);
                assert_eq!(other.ask("unlock"), "unlocked");
            });
            drop(array.read_timeout(Duration::MAX).unwrap());
        });
    }
}

#[test]
fn readers_of_several_processes_share() {
    if let Some((_, name)) = peer::role() {
        return obey(attach(&name));
    }
    let (mut array, name) = named("share");
    let start = || Peer::start("readers_of_several_processes_share", "other", &name);
    let (mut first, mut second) = (start(), start());
    for other in [&mut first, &mut second] {
        other.expect("attached");
        assert_eq!(other.ask("read"), "reading 0");
    }
    let guard = array.read().unwrap();
    drop((array.try_read().unwrap(), guard));
    assert_would_block(array.try_write());
    assert_eq!(first.ask("unlock"), "unlocked");
    assert_would_block(array.try_write());
    assert_eq!(second.ask("unlock"), "unlocked");
    drop(array.try_write().unwrap());
}

#[test]
fn a_read_only_attach_during_a_wait_leaves_no_lock_behind() {
    // The lock was taken through one description and dropped through the other: it stayed for ever.
    if let Some((_, name)) = peer::role() {
        return obey(attach(&name));
    }
    let (array, name) = named("read-only-meanwhile");
    let mut other = Peer::start("a_read_only_attach_during_a_wait_leaves_no_lock_behind", "other", &name);
    other.expect("attached");
    assert_eq!(other.ask("write"), "writing 1");
    thread::scope(|scope| {
        let reader = scope.spawn(|| array.read().unwrap()[0]);
        thread::sleep(MOMENT);
        // SAFETY: these tests write through guards alone.
        let read_only = unsafe { Bytes::attach_read_only(&name) }.unwrap();
        assert_eq!(other.ask("unlock"), "unlocked");
        assert_eq!(reader.join().unwrap(), 1);
        drop(read_only.read().unwrap());
    });
    assert_eq!(other.ask("try_write"), "locked");
}

#[test]
fn two_handles_of_one_process_exclude_each_other_across_threads() {
    for kind in ["named", "anonymous", "file"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let (mut first, mut second): (Bytes, Bytes) = match kind {
            "named" => {
                let (first, name) = named("two");
                (first, attach(&name))
            }
            "anonymous" => {
                let mut first = SharedArray::zeros(100).unwrap();
                // SAFETY: these tests write through guards alone.
                let second = unsafe { SharedArray::attach_fd(first.share_fd().unwrap()) }.unwrap();
                (first, second)
            }
            _ => {
                let first = SharedArray::create_npy(&path, 100).unwrap();
                // SAFETY: these tests write through guards alone.
                (first, unsafe { SharedArray::open_npy(&path) }.unwrap())
            }
        };
        let mut guard = first.write().unwrap();
        let (asking, asked) = channel();
        thread::scope(|scope| {
            let second = &mut second;
            let waiting = scope.spawn(move || {
                assert_would_block(second.try_read());
                assert_would_block(second.try_write());
                assert_would_block(second.read_timeout(MOMENT));
                assert_would_block(second.write_timeout(MOMENT));
                asking.send(()).unwrap();
                second.write().unwrap()[0]
            });
            // Fails where the thread has panicked, which is told when it is joined.
            let _ = asked.recv();
            thread::sleep(MOMENT);
            assert!(!waiting.is_finished(), "{kind}");
            guard[0] = 5;
            drop(guard);
            assert_eq!(waiting.join().unwrap(), 5, "{kind}");
        });
        let guard = first.read().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                drop(second.try_read().unwrap());
                assert_would_block(second.try_write());
            });
        });
        drop(guard);
    }
}

#[test]
fn threads_that_count_through_handles_of_their_own_lose_nothing() {
    let (array, name) = named("count");
    thread::scope(|scope| {
        for _ in 0..4 {
            let mut own = attach(&name);
            scope.spawn(move || {
                for _ in 0..50 {
                    let mut guard = own.write().unwrap();
                    let seen = guard[0];
                    thread::yield_now();
                    guard[0] = seen + 1;
                }
            });
        }
    });
    assert_eq!(array.read().unwrap()[0], 200);
}

#[test]
fn processes_that_count_lose_nothing() {
    if let Some((_, name)) = peer::role() {
        let mut array = attach(&name);
        for _ in 0..80 {
            let mut guard = array.write().unwrap();
            let seen = guard[0];
            thread::yield_now();
            guard[0] = seen + 1;
        }
        return;
    }
    let (array, name) = named("count-processes");
    let others: Vec<_> = (0..3).map(|_| Peer::start("processes_that_count_lose_nothing", "other", &name)).collect();
    others.into_iter().for_each(Peer::succeeded);
    assert_eq!(array.read().unwrap()[0], 240);
}

#[test]
fn a_thread_that_would_wait_for_itself_is_told() {
    let (mut first, name) = named("itself");
    let mut second = attach(&name);
    let guard = first.write().unwrap();
    for error in [second.read().map(drop).unwrap_err(), second.write().map(drop).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(error.to_string().contains("this thread"), "{error}");
    }
    drop(guard);
    let guard = first.read().unwrap();
    assert_would_block(second.write());
    assert_would_block(second.write_timeout(LONG));
    drop(second.read().unwrap());
    drop(guard);
    drop(second.write().unwrap());
}

#[test]
fn threads_write_through_a_handle_that_they_share_in_a_rwlock() {
    let array = RwLock::new(Bytes::zeros(4).unwrap());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| array.write().unwrap().write().unwrap()[1] += 1));
        }
    });
    assert_eq!(array.read().unwrap().read().unwrap()[1], 100);
}

/// Sends a descriptor over a socket, as any program of the user's might.
fn send_fd(socket: &UnixStream, fd: i32) {
    let (fds, bytes) = ([fd], [IoSlice::new(b"x")]);
    sendmsg::<()>(socket.as_raw_fd(), &bytes, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None).unwrap();
}

fn receive_fd(socket: &UnixStream) -> OwnedFd {
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut bytes, Some(&mut space), MsgFlags::empty()).unwrap();
    let Some(ControlMessageOwned::ScmRights(fds)) = message.cmsgs().unwrap().next() else {
        panic!("no descriptor came")
    };
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fds[0]) }
}

#[test]
fn an_array_attached_through_a_descriptor_excludes_its_sender() {
    if let Some((role, place)) = peer::role() {
        let fd: OwnedFd = match &*role {
            "sent" => receive_fd(&UnixStream::connect(place).unwrap()),
            _ => File::options().read(true).write(true).open(place).unwrap().into(),
        };
        // SAFETY: these tests write through guards alone.
        let array = unsafe { SharedArray::attach_fd(fd.as_fd()) }.unwrap();
        drop(fd);
        return obey(array);
    }
    let test = "an_array_attached_through_a_descriptor_excludes_its_sender";
    for role in ["sent", "opened"] {
        let mut array = Bytes::zeros(100).unwrap();
        // A guard from before counts as well.
        array.write().unwrap()[0] = 20;
        let number = array.share_fd().unwrap().as_raw_fd();
        let dir = tempfile::tempdir().unwrap();
        let mut other = if role == "sent" {
            let path = dir.path().join("socket");
            let listener = UnixListener::bind(&path).unwrap();
            let other = Peer::start(test, role, path.to_str().unwrap());
            send_fd(&listener.accept().unwrap().0, number);
            other
        } else {
            Peer::start(test, role, &format!("/proc/{}/fd/{number}", std::process::id()))
        };
        other.expect("attached");
        let mut guard = array.write().unwrap();
        assert_eq!(other.ask("try_read"), "WouldBlock");
        other.tell("write");
        assert!(other.is_silent_for(MOMENT));
        guard[0] += 1;
        drop(guard);
        other.expect("writing 22");
        assert_would_block(array.try_read());
        assert_eq!(other.ask("unlock"), "unlocked");
        assert_eq!(array.read().unwrap()[0], 22);
        assert_eq!(other.ask("read"), "reading 22");
        assert_would_block(array.try_write());
        drop(array.try_read().unwrap());
    }
}

#[test]
fn a_descriptor_for_reading_alone_attaches_for_reading_alone() {
    let mut array = Bytes::zeros(10).unwrap();
    let number = array.share_fd().unwrap().as_raw_fd();
    let file = File::open(format!("/proc/self/fd/{number}")).unwrap();
    // SAFETY: these tests write through guards alone.
    let mut reader = unsafe { Bytes::attach_fd_read_only(file.as_fd()) }.unwrap();
    array.write().unwrap()[3] = 3;
    assert_eq!(reader.read().unwrap()[3], 3);
    assert_eq!(reader.try_write().unwrap_err().kind(), ErrorKind::Permission);
    let guard = array.write().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| assert_would_block(reader.try_read()));
    });
    drop(guard);
}

/// The locks that this process holds, as the kernel lists them; that on the ledger of its named blocks left out.
fn kernel_locks() -> Vec<String> {
    let number = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let ledgers: Vec<_> = reexec::all_shm_names()
        .iter()
        .filter(|name| name.starts_with(".ndshm."))
        .map(|name| number(&Path::new("/dev/shm").join(name)))
        .collect();
    let mut locks = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo").unwrap() {
        let entry = entry.unwrap();
        if ledgers.contains(&number(&Path::new("/proc/self/fd").join(entry.file_name()))) {
            continue;
        }
        // The descriptor of this very directory is gone by now.
        let Ok(info) = fs::read_to_string(entry.path()) else { continue };
        locks.extend(info.lines().filter(|line| line.starts_with("lock:")).map(str::to_owned));
    }
    locks
}

#[test]
fn a_private_array_takes_no_lock_of_the_kernel_until_it_is_shared() {
    // A process of its own: others of this file's tests hold locks at the same time.
    if reexec::role().is_none() {
        reexec::run("a_private_array_takes_no_lock_of_the_kernel_until_it_is_shared", "alone");
        return;
    }
    let mut array = Bytes::zeros(10).unwrap();
    let guard = array.read().unwrap();
    assert_eq!(kernel_locks(), [""; 0]);
    drop(guard);
    let guard = array.write().unwrap();
    assert_eq!(kernel_locks(), [""; 0]);
    drop(guard);

    array.share_fd().unwrap();
    assert_eq!(kernel_locks(), [""; 0], "nothing is locked");
    let whole = |kind: &'static str| {
        move |line: &String| {
            line.contains("OFDLCK") && line.contains(kind) && line.ends_with(&format!(" 0 {}", (1_u64 << 62) - 1))
        }
    };
    let guard = array.read().unwrap();
    assert!(kernel_locks().len() == 1 && kernel_locks().iter().all(whole("READ")), "{:?}", kernel_locks());
    drop(guard);
    let guard = array.write().unwrap();
    assert!(kernel_locks().len() == 1 && kernel_locks().iter().all(whole("WRITE")), "{:?}", kernel_locks());
    drop(guard);
    assert_eq!(kernel_locks(), [""; 0]);

    let (mut named, _) = named("kernel");
    let guard = named.write().unwrap();
    assert!(kernel_locks().len() == 1 && kernel_locks().iter().all(whole("WRITE")));
    drop(guard);
    assert_eq!(kernel_locks(), [""; 0]);
}

#[test]
fn guards_that_are_leaked_do_not_hang_calls_that_own_the_array() {
    type Leak = fn(&mut Bytes);
    let leaks: [Leak; 3] = [
        |array| std::mem::forget(array.read().unwrap()),
        |array| std::mem::forget(array.write().unwrap()),
        |array| std::mem::forget((array.read().unwrap(), array.read().unwrap())),
    ];
    for leak in leaks {
        let (mut array, name) = named("leak");
        let other = attach(&name);
        leak(&mut array);
        drop(array.write().unwrap());
        leak(&mut array);
        drop(array.try_write().unwrap());
        leak(&mut array);
        array.clear_poison().unwrap();
        leak(&mut array);
        array.share_fd().unwrap();
        drop(other.try_read().unwrap());
        assert!(!array.is_poisoned() && !other.is_poisoned());
        leak(&mut array);
        drop(array);
        drop(other.try_read().unwrap());

        let mut anonymous = Bytes::zeros(10).unwrap();
        leak(&mut anonymous);
        anonymous.freeze().unwrap();

        // From another thread than the one that leaked it, too.
        let mut moved = Bytes::zeros(10).unwrap();
        leak(&mut moved);
        thread::spawn(move || drop(moved.write().unwrap())).join().unwrap();
    }
}

#[test]
fn raw_copies_of_a_typed_block_keep_to_the_guards_of_the_array() {
    let (mut array, name) = named("raw");
    let memory = SharedMemory::attach(&name).unwrap();
    let at = 4096;
    let mut byte = [0];

    let mut guard = array.write().unwrap();
    assert_would_block(memory.read_at(at, &mut byte));
    assert_would_block(memory.write_at(at, &[1]));
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut byte = [0];
            memory.read_at(at, &mut byte).unwrap();
            byte
        });
        thread::sleep(MOMENT);
        assert!(!reading.is_finished(), "it must wait");
        guard[0] = 9;
        drop(guard);
        assert_eq!(reading.join().unwrap(), [9]);
    });

    let guard = array.read().unwrap();
    memory.read_at(at, &mut byte).unwrap();
    assert_would_block(memory.write_at(at, &[1]));
    thread::scope(|scope| {
        let writing = scope.spawn(|| memory.write_at(at, &[4]).unwrap());
        thread::sleep(MOMENT);
        assert!(!writing.is_finished() && guard[0] == 9, "it must wait");
        drop(guard);
        writing.join().unwrap();
    });
    assert_eq!(array.read().unwrap()[0], 4);
}

#[test]
fn raw_copies_from_another_process_wait_for_the_array_s_guards() {
    if let Some((_, name)) = peer::role() {
        let memory = SharedMemory::attach(&name).unwrap();
        peer::say("attached");
        peer::hear();
        memory.write_at(4096, &[5]).unwrap();
        peer::say("written");
        peer::hear();
        return;
    }
    let (array, name) = named("raw-process");
    let mut other = Peer::start("raw_copies_from_another_process_wait_for_the_array_s_guards", "other", &name);
    other.expect("attached");
    let guard = array.read().unwrap();
    other.tell("write");
    assert!(other.is_silent_for(MOMENT) && guard[0] == 0);
    drop(guard);
    other.expect("written");
    assert_eq!(array.read().unwrap()[0], 5);
}

#[test]
fn in_a_forked_child_arrays_are_closed_and_drops_unlock_and_remove_nothing() {
    let test = "in_a_forked_child_arrays_are_closed_and_drops_unlock_and_remove_nothing";
    if let Some((_, name)) = peer::role() {
        return obey(attach(&name));
    }
    if reexec::role().is_none() {
        reexec::run(test, "alone");
        return;
    }
    let (mut array, name) = named("forked");
    let (mut idle, idle_name) = named("forked-idle");
    let mut anonymous = Bytes::zeros(10).unwrap();
    let mut leaked = Bytes::zeros(10).unwrap();
    leaked.share_fd().unwrap();
    std::mem::forget(leaked.write().unwrap());
    let mut other = Peer::start(test, "other", &name);
    other.expect("attached");

    let mut guard = array.write().unwrap();
    guard[0] = 1;
    let anonymous_guard = anonymous.write().unwrap();
    // SAFETY: this process was started to run this test alone; the thread that reads the other process's lines holds
    // no lock that the child needs.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop((guard, anonymous_guard));
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| {
                for array in [&mut idle, &mut anonymous, &mut leaked] {
                    for result in [
                        array.read().map(drop),
                        array.try_read().map(drop),
                        array.read_timeout(MOMENT).map(drop),
                        array.write().map(drop),
                        array.try_write().map(drop),
                        array.write_timeout(MOMENT).map(drop),
                        array.clear_poison(),
                        array.share_fd().map(drop),
                    ] {
                        assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
                    }
                    assert!(!array.is_poisoned());
                }
                assert_eq!(idle.unlink().unwrap_err().kind(), ErrorKind::Closed);
                let failed = anonymous.freeze().unwrap_err();
                assert_eq!(failed.error().kind(), ErrorKind::Closed);
                drop(failed);
                drop((array, idle, leaked));
                // Attaching anew is the way; the parent's guard counts.
                let mut again = attach(&name);
                assert_would_block(again.try_write());
                assert_eq!(attach(&idle_name).write().unwrap().len(), 100);
            }));
            // SAFETY: _exit runs no destructors and no exit handlers, which are the parent's to run.
            unsafe { nix::libc::_exit(i32::from(result.is_err())) };
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            assert_eq!(other.ask("try_read"), "WouldBlock", "the guard is still ours");
            drop((guard, anonymous_guard));
            assert_eq!(other.ask("read"), "reading 1", "and was not left marked");
            assert_eq!(other.ask("unlock"), "unlocked");
            assert_eq!(attach(&idle_name).read().unwrap().len(), 100, "the names are still there");
            assert!(idle.try_write().is_ok() && anonymous.try_write().is_ok() && leaked.try_write().is_ok());
        }
    }
}

// A list's numbers are written without the lock: a guard on an array that a copy had turned into a list was no protection.
#[test]
fn an_array_cannot_be_turned_into_a_list_by_copies() {
    let name = unique_name("stays-array");
    let array = SharedArray::<i64, _>::options().name(&name).zeros(8).unwrap();
    let memory = SharedMemory::attach(&name).unwrap();
    for (offset, bytes) in [(0, &[0_u8; 16][..]), (5, &[0]), (3, &[1, 2, 3, 4])] {
        assert_eq!(memory.write_at(offset, bytes).unwrap_err().kind(), ErrorKind::Permission);
    }
    memory.write_at(0, b"\x93NUM").unwrap();
    assert_eq!(ndshm::ShareableList::attach(&name).unwrap_err().kind(), ErrorKind::Layout);
    assert_eq!(array.read().unwrap().sum(), 0);
}
