//! A frozen array is one that the kernel lets nobody write: made only where nobody could, attached to only where the seals
//! say so, and handed back where it cannot be had.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the numbers are small")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "attaching, fork, and mappings that the kernel is to refuse")]

mod common;
mod peer;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::{PythonProcess, assert_kind, python, unique_name};
use ndarray::{Array2, Ix1, Ix2, Ix3, ShapeBuilder, array};
use ndshm::{ErrorKind, FrozenArray, SharedArray, SharedMemory};
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use peer::Peer;

type Table = FrozenArray<u32, Ix2>;

fn table() -> SharedArray<u32, Ix2> {
    SharedArray::from_shape_fn((3, 4), |(i, j)| (10 * i + j) as u32).unwrap()
}

fn expected() -> Array2<u32> {
    Array2::from_shape_fn((3, 4), |(i, j)| (10 * i + j) as u32)
}

fn seals_of(fd: BorrowedFd<'_>) -> SealFlag {
    SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS).unwrap())
}

fn frozen_seals() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// Asks for a shared mapping of the first page with the right to write.
fn map_for_writing(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let page = 4096.try_into().unwrap();
    // SAFETY: no address is asked for, so nothing that exists is replaced; what is mapped, against expectation, is
    // never touched.
    unsafe { mmap(None, page, protection, MapFlags::MAP_SHARED, fd, 0) }.map(drop)
}

/// Every way to change a file that there is, through descriptors opened anew at `path`.
#[track_caller]
fn assert_nobody_can_write(path: &Path) {
    let refused = |what: &str, errno: Option<i32>| {
        let expected = [nix::libc::EPERM, nix::libc::EACCES, nix::libc::EBADF].map(Some);
        assert!(expected.contains(&errno), "{what}: {errno:?}");
    };
    // Whoever owns the file may still open it for writing; that is all.
    let Ok(mut file) = File::options().read(true).write(true).open(path) else {
        panic!("{} does not open", path.display())
    };
    refused("pwrite", file.write_all_at(b"x", 4096).unwrap_err().raw_os_error());
    refused("write", file.write_all(b"x").unwrap_err().raw_os_error());
    refused("truncate", file.set_len(4096).unwrap_err().raw_os_error());
    refused("grow", file.set_len(1 << 20).unwrap_err().raw_os_error());
    refused("mmap", map_for_writing(file.as_fd()).err().map(|errno| errno as i32));
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    refused("punch", fallocate(&file, hole, 0, 4096).err().map(|errno| errno as i32));
    let truncated = File::options().write(true).truncate(true).open(path);
    refused("O_TRUNC", truncated.unwrap_err().raw_os_error());
    let seals = FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SEAL);
    assert!(fcntl(&file, seals).is_ok(), "sealing further harms nobody");
}

#[test]
fn a_frozen_array_is_seen_as_it_was() {
    let frozen = table().freeze().unwrap();
    assert_eq!(frozen.view(), expected());
    assert_eq!((frozen.shape(), frozen.raw_dim(), frozen.len()), (&[3, 4][..], Ix2(3, 4), 12));
    assert_eq!((frozen.is_empty(), frozen.dtype().descr()), (false, "<u4"));

    let fortran = SharedArray::from_shape_fn((3, 4).f(), |(i, j)| (10 * i + j) as u32).unwrap().freeze().unwrap();
    assert_eq!(fortran.view(), expected());
    assert_eq!(fortran.view().strides(), [1, 3]);
    let large = SharedArray::<u8, _>::from_elem(5 << 20, 7).unwrap().freeze().unwrap();
    assert!(large.view().iter().all(|&byte| byte == 7));
}

#[test]
fn clones_share_the_memory_and_outlive_each_other() {
    let frozen = table().freeze().unwrap();
    let clone = frozen.clone();
    assert_eq!(clone.view().as_ptr(), frozen.view().as_ptr());
    drop(frozen);
    let sums = thread::scope(|scope| {
        let sums: Vec<_> = (0..4).map(|_| scope.spawn(|| clone.view().sum())).collect();
        sums.into_iter().map(|sum| sum.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(sums, [expected().sum(); 4]);
}

#[test]
fn the_kernel_refuses_every_write() {
    let frozen = table().freeze().unwrap();
    assert!(seals_of(frozen.as_fd()).contains(frozen_seals()));
    // The descriptor that is handed on is for reading.
    let own = fs::File::from(frozen.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(own.write_all_at(b"x", 4096).unwrap_err().raw_os_error(), Some(nix::libc::EBADF));
    assert!(map_for_writing(frozen.as_fd()).is_err());
    assert_nobody_can_write(Path::new(&format!("/proc/self/fd/{}", frozen.as_fd().as_raw_fd())));
    assert_eq!(frozen.view(), expected());
}

#[test]
fn another_process_attaches_and_cannot_write() {
    let test = "another_process_attaches_and_cannot_write";
    if let Some((_, path)) = peer::role() {
        let file = File::open(&path).unwrap();
        let attached = Table::attach_fd(file.as_fd()).unwrap();
        drop(file);
        assert_eq!(attached.view(), expected());
        assert_nobody_can_write(Path::new(&path));
        assert_eq!(attached.view(), expected());
        return;
    }
    let frozen = table().freeze().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), frozen.as_fd().as_raw_fd());
    Peer::start(test, "other", &path).succeeded();
    assert_eq!(frozen.view(), expected());
}

#[test]
fn numpy_sees_a_frozen_array_and_cannot_write_it() {
    if python().is_none() {
        return;
    }
    let frozen = table().freeze().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), frozen.as_fd().as_raw_fd());
    let mut python = PythonProcess::start();
    python.run("import numpy as np");
    let expected = "[[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]";
    assert_eq!(python.run(&format!("np.load({path:?}, mmap_mode='r').tolist()")), expected);
    let traceback = python.try_run(&format!("np.load({path:?}, mmap_mode='r+')")).unwrap_err();
    assert!(traceback.contains("PermissionError"), "{traceback}");
    let traceback = python.try_run(&format!("open({path:?}, 'r+b', buffering=0).write(b'x')")).unwrap_err();
    assert!(traceback.contains("PermissionError"), "{traceback}");
    assert_eq!(frozen.view()[[0, 0]], 0);
}

#[test]
fn attaching_checks_type_and_rank() {
    let frozen = table().freeze().unwrap();
    let attached = Table::attach_fd(frozen.as_fd()).unwrap();
    assert_eq!(attached.view(), frozen.view());
    assert_ne!(attached.view().as_ptr(), frozen.view().as_ptr(), "another mapping");
    let again = Table::attach_fd(attached.as_fd()).unwrap();
    assert_eq!(again.view(), frozen.view());
    assert_kind(FrozenArray::<f32, Ix2>::attach_fd(frozen.as_fd()), ErrorKind::TypeMismatch, &["'<u4'", "'<f4'"]);
    assert_kind(FrozenArray::<u32, Ix3>::attach_fd(frozen.as_fd()), ErrorKind::ShapeMismatch, &["2 axes", "3 axes"]);
}

/// A memfd with those contents and no seals.
fn memfd(contents: &[u8]) -> OwnedFd {
    let fd = memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    File::from(fd.try_clone().unwrap()).write_all(contents).unwrap();
    fd
}

#[test]
fn attaching_asks_for_all_three_seals_and_minds_no_others() {
    let mut shared = table();
    let number = shared.share_fd().unwrap().as_raw_fd();
    let block = fs::read(format!("/proc/self/fd/{number}")).unwrap();
    let future_write = SealFlag::from_bits_retain(nix::libc::F_SEAL_FUTURE_WRITE);
    let (write, shrink, grow) = (SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW);
    for seals in [
        SealFlag::empty(),
        write,
        shrink | grow,
        write | grow,
        write | shrink,
        shrink | grow | future_write,
        shrink | grow | SealFlag::F_SEAL_SEAL,
    ] {
        let fd = memfd(&block);
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        assert_kind(
            Table::attach_fd(fd.as_fd()),
            ErrorKind::Permission,
            &["not frozen: others can write it", "F_SEAL_WRITE", "SharedArray"],
        );
    }
    for seals in [frozen_seals(), frozen_seals() | SealFlag::F_SEAL_SEAL, frozen_seals() | future_write] {
        let fd = memfd(&block);
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        assert_eq!(Table::attach_fd(fd.as_fd()).unwrap().view(), expected());
    }
    // Sealed, but no array.
    for contents in [&b"garbage"[..], &block[..4100]] {
        let fd = memfd(contents);
        fcntl(&fd, FcntlArg::F_ADD_SEALS(frozen_seals())).unwrap();
        assert_kind(Table::attach_fd(fd.as_fd()), ErrorKind::Layout, &[]);
    }
}

#[test]
fn what_bears_no_seals_is_not_frozen() {
    let mut shared = table();
    assert_kind(Table::attach_fd(shared.share_fd().unwrap()), ErrorKind::Permission, &["not frozen"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    shared.save_npy(&path).unwrap();
    assert_kind(Table::attach_fd(File::open(&path).unwrap().as_fd()), ErrorKind::Permission, &["not frozen"]);
    let name = unique_name("unsealed");
    let _named = SharedArray::<u32, Ix2>::options().name(&name).zeros((3, 4)).unwrap();
    let file = File::open(Path::new("/dev/shm").join(&name)).unwrap();
    assert_kind(Table::attach_fd(file.as_fd()), ErrorKind::Permission, &["not frozen"]);
    let (pipe, _) = std::io::pipe().unwrap();
    assert_kind(Table::attach_fd(pipe.as_fd()), ErrorKind::Layout, &["FIFO"]);
    assert_kind(Table::attach_fd(File::open("/dev/shm").unwrap().as_fd()), ErrorKind::Layout, &["directory"]);
}

#[test]
fn named_arrays_and_files_come_back_as_they_were() {
    let name = unique_name("named");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    let named = SharedArray::<u32, Ix1>::options().name(&name).from_elem(3, 5).unwrap();
    // SAFETY: nobody writes but through guards.
    let attached = unsafe { SharedArray::<u32, Ix1>::attach(&name) }.unwrap();
    let file = File::options().read(true).write(true).open(Path::new("/dev/shm").join(&name)).unwrap();
    // SAFETY: as above.
    let by_descriptor = unsafe { SharedArray::<u32, Ix1>::attach_fd(file.as_fd()) }.unwrap();
    let mut in_place = SharedArray::<u32, Ix1>::create_npy(&path, 3).unwrap();
    in_place.write().unwrap().fill(5);
    for (what, array) in
        [("attached", attached), ("by descriptor", by_descriptor), ("file", in_place), ("named", named)]
    {
        let start = Instant::now();
        let failed = array.freeze().unwrap_err();
        assert_eq!(failed.error().kind(), ErrorKind::Unsupported, "{what}: {failed}");
        // Who waits, waits for 2 seconds.
        assert!(start.elapsed() < Duration::from_millis(1900), "{what}: nothing to wait for");
        let mut array = failed.into_array().unwrap();
        array.write().unwrap()[1] = 6;
        assert_eq!(*array.read().unwrap(), array![5, 6, 5], "{what}");
        array.write().unwrap()[1] = 5;
        assert_eq!(array.name().is_some(), what == "named" || what == "attached");
    }
    assert!(!fs::exists(Path::new("/dev/shm").join(&name)).unwrap(), "the owner still removes the name");
    assert!(path.exists());
}

#[test]
fn an_array_that_another_process_has_mapped_for_writing_comes_back_usable() {
    if python().is_none() {
        return;
    }
    let mut python = PythonProcess::start();
    python.run("import numpy as np");
    let mut array = table();
    let number = array.share_fd().unwrap().as_raw_fd();
    python.run(&format!("a = np.load('/proc/{}/fd/{number}', mmap_mode='r+')", std::process::id()));

    let start = Instant::now();
    let failed = array.freeze().unwrap_err();
    let took = start.elapsed();
    assert_eq!(failed.error().kind(), ErrorKind::WouldBlock, "{failed}");
    assert!(failed.to_string().contains("mapped for writing"), "{failed}");
    assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(6), "about 2 seconds, not {took:?}");

    let mut array = failed.into_array().unwrap();
    array.write().unwrap()[[0, 0]] = 77;
    assert_eq!(python.run("int(a[0, 0])"), "77");
    python.run("a[2, 3] = 99");
    assert_eq!(array.read().unwrap()[[2, 3]], 99);
    assert!(!array.is_read_only() && !array.is_poisoned());

    // It waits for those who are about to let go.
    python.begin("import time; time.sleep(0.2); del a");
    let frozen = array.freeze().unwrap();
    assert_eq!(python.finish().unwrap(), "None");
    assert_eq!((frozen.view()[[0, 0]], frozen.view()[[2, 3]]), (77, 99));
}

#[test]
fn another_handle_of_this_process_stands_in_the_way_as_well() {
    let mut array = table();
    // SAFETY: nobody writes but through guards.
    let other = unsafe { SharedArray::<u32, Ix2>::attach_fd(array.share_fd().unwrap()) }.unwrap();
    // One that could not write does not, nor does it notice.
    // SAFETY: as above.
    let reader = unsafe { SharedArray::<u32, Ix2>::attach_fd_read_only(array.share_fd().unwrap()) }.unwrap();
    let frozen = thread::scope(|scope| {
        let freezing = scope.spawn(|| array.freeze());
        thread::sleep(Duration::from_millis(60));
        assert!(!freezing.is_finished());
        drop(other);
        freezing.join().unwrap().unwrap()
    });
    assert_eq!(*reader.read().unwrap(), expected());
    assert_eq!(frozen.view(), expected());
}

#[test]
fn freezing_waits_for_a_guard_of_another_thread_and_takes_its_write() {
    let mut array = table();
    // SAFETY: nobody writes but through guards.
    let mut other = unsafe { SharedArray::<u32, Ix2>::attach_fd(array.share_fd().unwrap()) }.unwrap();
    let frozen = thread::scope(|scope| {
        let mut guard = other.write().unwrap();
        let freezing = scope.spawn(|| array.freeze());
        thread::sleep(Duration::from_millis(60));
        assert!(!freezing.is_finished());
        guard[[1, 1]] = 1000;
        drop(guard);
        drop(other);
        freezing.join().unwrap().unwrap()
    });
    assert_eq!(frozen.view()[[1, 1]], 1000);
}

#[test]
fn nobody_begins_to_write_while_a_freeze_waits() {
    // The lock was dropped before the seal was set: who began to write in between and died left a half written array that
    // was frozen as if it were whole.
    let test = "nobody_begins_to_write_while_a_freeze_waits";
    if let Some((_, path)) = peer::role() {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        // SAFETY: nobody writes but through guards.
        let mut array = unsafe { SharedArray::<u32, Ix2>::attach_fd(file.as_fd()) }.unwrap();
        drop(file);
        peer::say("attached");
        peer::hear();
        match array.write_timeout(Duration::from_millis(50)) {
            Ok(mut guard) => {
                guard[[0, 0]] = 1;
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
            }
            Err(error) => peer::say(&format!("{:?}", error.kind())),
        }
        peer::hear();
        return;
    }
    let mut array = table();
    let number = array.share_fd().unwrap().as_raw_fd();
    let mut other = Peer::start(test, "other", &format!("/proc/{}/fd/{number}", std::process::id()));
    other.expect("attached");
    let frozen = thread::scope(|scope| {
        let freezing = scope.spawn(|| array.freeze());
        // It waits for the mapping of the other process.
        thread::sleep(Duration::from_millis(60));
        assert!(!freezing.is_finished());
        other.tell("write");
        let said = other.next();
        other.tell("end");
        (said, freezing.join().unwrap())
    });
    assert_eq!(frozen.0, "WouldBlock");
    assert_eq!(frozen.1.unwrap().view(), expected());
}

#[test]
fn a_freeze_that_waits_for_a_writer_tells_one_that_ends_well_from_one_that_panics_without_a_trailer_too() {
    // The mark was read before the lock was had, and every writer that was waited for was taken for one that had panicked.
    let mut shared = table();
    let number = shared.share_fd().unwrap().as_raw_fd();
    let block = fs::read(format!("/proc/self/fd/{number}")).unwrap();
    let fd = memfd(&block[..block.len() - 64]);
    // SAFETY: nobody writes but through guards.
    let attach = || unsafe { SharedArray::<u32, Ix2>::attach_fd(fd.as_fd()) }.unwrap();
    for panics in [true, false] {
        let (array, mut other) = (attach(), attach());
        let frozen = thread::scope(|scope| {
            let (writing, begun) = std::sync::mpsc::channel();
            let writer = scope.spawn(move || {
                let mut guard = other.write().unwrap();
                guard[[0, 0]] = 1000;
                writing.send(()).unwrap();
                thread::sleep(Duration::from_millis(60));
                if panics {
                    // No message: this panic is meant.
                    std::panic::resume_unwind(Box::new("while writing"));
                }
            });
            begun.recv().unwrap();
            let frozen = array.freeze();
            assert_eq!(writer.join().is_err(), panics);
            frozen
        });
        if panics {
            let failed = frozen.unwrap_err();
            assert_eq!(failed.error().kind(), ErrorKind::Poisoned, "{failed}");
            failed.into_array().unwrap().clear_poison().unwrap();
        } else {
            assert_eq!(frozen.unwrap().view()[[0, 0]], 1000);
        }
    }
}

#[test]
fn a_forked_child_reads_frozen_arrays() {
    // Their views are safe and take no lock, and were not mapped in the child.
    let frozen = SharedArray::<u64, _>::from_elem((600, 600), 7).unwrap().freeze().unwrap();
    let attached = FrozenArray::<u64, Ix2>::attach_fd(frozen.as_fd()).unwrap();
    // SAFETY: the child reads memory and leaves with _exit.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let all = [&frozen, &attached].iter().all(|array| array.view().iter().all(|&element| element == 7));
            // SAFETY: _exit runs no destructors and no exit handlers, which are the parent's to run.
            unsafe { nix::libc::_exit(i32::from(!all)) };
        }
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0)),
    }
}

#[test]
fn a_frozen_block_attached_as_an_ordinary_array_can_only_be_read() {
    let frozen = table().freeze().unwrap();
    // SAFETY: nobody can write.
    let array = unsafe { SharedArray::<u32, Ix2>::attach_fd_read_only(frozen.as_fd()) }.unwrap();
    assert_eq!(*array.read().unwrap(), expected());
    // SAFETY: nobody can write.
    let for_writing = unsafe { SharedArray::<u32, Ix2>::attach_fd(frozen.as_fd()) };
    assert_kind(for_writing, ErrorKind::Permission, &[]);
}

#[test]
fn raw_anonymous_memory_is_not_frozen_by_accident() {
    let mut memory = SharedMemory::anonymous(8192).unwrap();
    assert!(!seals_of(memory.share_fd().unwrap()).contains(SealFlag::F_SEAL_WRITE));
    assert_kind(Table::attach_fd(memory.share_fd().unwrap()), ErrorKind::Permission, &["not frozen"]);
}
