//! Blocks looked at from outside: what they are, who owns them, whether they are locked; and copied whole.
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod common;
mod peer;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{BlocksLeft, assert_kind, unique_name};
use ndarray::{Ix1, Ix2, ShapeBuilder};
use ndshm::{BlockFile, BlockInfo, BlockKind, BlockOwner, BlockState, ErrorKind, SharedArray, SharedMemory};
use ndshm::{ShareableList, SharedMemoryOptions};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use peer::{Peer, hear, say};

fn find(name: &str) -> Option<BlockInfo> {
    ndshm::blocks().unwrap().into_iter().find(|block| block.name().is_some_and(|found| *found == *name))
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new("/dev/shm").join(name)
}

/// A `.npy` file of version 1.0.
fn npy(dict: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{dict:117}\n");
    let len = u16::try_from(text.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\0", &len[..], text.as_bytes(), data].concat()
}

#[test]
fn blocks_are_told_apart_by_what_is_in_them() {
    let names: [String; 6] = std::array::from_fn(|i| unique_name(&format!("kind-{i}")));
    let _left = BlocksLeft::watch(names.clone());
    let [array, list, bytes, damaged, zeros, fifo] = &names;
    let _array = SharedArray::<i16, _>::options().name(array).zeros((2, 3).f()).unwrap();
    let _list = ShareableList::create_named(list, [1, 2, 3]).unwrap();
    let _bytes = SharedMemory::create_named(bytes, 100).unwrap();
    fs::write(path(damaged), &npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9,), }", b"short")[..]).unwrap();
    fs::write(path(zeros), [0; 16]).unwrap();
    mkfifo(&path(fifo), Mode::S_IRWXU).unwrap();

    let info = find(array).unwrap();
    let BlockKind::Array(seen) = info.kind() else { panic!("{info:?}") };
    assert_eq!((seen.dtype().descr(), seen.shape(), seen.len(), seen.nbytes()), ("<i2", &[2, 3][..], 6, 12));
    assert!(seen.is_fortran() && !seen.is_empty());
    assert_eq!((seen.data_offset(), info.size(), info.mode(), info.generation()), (4096, 4224, 0o600, Some(0)));
    assert!(info.resident() >= 4224, "reserved");
    assert!(matches!(find(list).unwrap().kind(), BlockKind::List { len: 3 }));
    assert!(matches!(find(bytes).unwrap().kind(), BlockKind::Bytes));
    let info = find(damaged).unwrap();
    let BlockKind::Damaged { problem } = info.kind() else { panic!("{info:?}") };
    assert!(problem.contains("expected 200 for shape [9]"), "{problem}");
    // What Python makes of `ShareableList([])`.
    assert!(matches!(find(zeros).unwrap().kind(), BlockKind::List { len: 0 }));
    assert!(find(fifo).is_none(), "no block, and nothing to wait for");
    assert_kind(BlockFile::open_named(fifo), ErrorKind::Layout, &["FIFO"]);
    assert_kind(BlockFile::open_named("nobody-has-this"), ErrorKind::NotFound, &["nobody-has-this"]);
    assert_kind(BlockFile::open_named("a/b"), ErrorKind::InvalidName, &["a/b"]);
    for name in [damaged, zeros, fifo] {
        fs::remove_file(path(name)).unwrap();
    }
}

#[test]
fn a_block_s_owner_is_alive_dead_or_nobody() {
    let test = "a_block_s_owner_is_alive_dead_or_nobody";
    if let Some((_, name)) = peer::role() {
        let array = SharedArray::<f64, _>::options().name(&name).zeros(3).unwrap();
        say("ready");
        hear();
        drop(array);
        return;
    }
    let (name, kept) = (unique_name("owned"), unique_name("kept"));
    let _left = BlocksLeft::watch([&name, &kept]);
    let mut peer = Peer::start(test, "owner", &name);
    peer.expect("ready");
    let owner = |alive| BlockOwner::Process { pid: Some(peer.pid()), alive };
    assert_eq!(find(&name).unwrap().owner(), owner(true));
    assert_eq!(BlockFile::open_named(&name).unwrap().info().unwrap().owner(), owner(true));
    let (alive, dead) = (owner(true), owner(false));
    assert_ne!(alive, dead);
    peer.kill();
    assert_eq!(find(&name).unwrap().owner(), dead);
    // Another file under that name is not what stands in the dead one's ledger.
    fs::remove_file(path(&name)).unwrap();
    fs::write(path(&name), b"someone else's").unwrap();
    assert_eq!(find(&name).unwrap().owner(), BlockOwner::Nobody);
    fs::remove_file(path(&name)).unwrap();

    let mut block = SharedMemory::create_named(&kept, 10).unwrap();
    assert_eq!(find(&kept).unwrap().owner(), BlockOwner::Process { pid: Some(std::process::id()), alive: true });
    block.keep();
    assert_eq!(find(&kept).unwrap().owner(), BlockOwner::Nobody);
    SharedMemory::unlink_name(&kept).unwrap();
}

#[test]
fn locks_and_poison_are_seen_and_waited_for() {
    let name = unique_name("state");
    let mut array = SharedArray::<u8, _>::options().name(&name).zeros(4).unwrap();
    let file = BlockFile::open_named(&name).unwrap();
    let state = || file.info().unwrap().state();
    let me = std::process::id();
    assert_eq!(state(), BlockState::Free);
    {
        let _guard = array.read().unwrap();
        assert_eq!(state(), BlockState::Read);
        drop(file.read_lock(Duration::ZERO).unwrap());
    }
    {
        let _guard = array.write().unwrap();
        assert_eq!(state(), BlockState::Written { pid: Some(me) });
        let start = Instant::now();
        let refused = file.read_lock(Duration::from_millis(30));
        assert_kind(refused, ErrorKind::WouldBlock, &[&name, &format!("process {me}"), "30ms"]);
        assert!(start.elapsed() >= Duration::from_millis(30));
    }
    assert_eq!((state(), file.info().unwrap().generation()), (BlockState::Free, Some(1)));
    {
        let _locked = file.read_lock(Duration::ZERO).unwrap();
        assert_kind(array.try_write(), ErrorKind::WouldBlock, &[]);
    }
    drop(array.try_write().unwrap());

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _guard = array.write().unwrap();
        panic!("in the middle of a write");
    }));
    assert!(panicked.is_err());
    assert_eq!(state(), BlockState::Poisoned { pid: me });
    drop(file.read_lock(Duration::ZERO).expect("to be looked at all the same"));
    array.clear_poison().unwrap();
    assert_eq!(state(), BlockState::Free);
}

#[test]
fn an_anonymous_array_that_is_written_without_the_kernel_s_lock_is_not_taken_for_poisoned() {
    let mut array = SharedArray::<u8, _>::zeros(4).unwrap();
    let fds = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let id = |path: &Path| BlockFile::open(path).ok()?.info().ok();
    let memory: Vec<_> = fds
        .filter(|path| fs::read_link(path).is_ok_and(|target| target.starts_with("/memfd:ndshm (deleted)")))
        .filter(|path| {
            id(path).is_some_and(|info| matches!(info.kind(), BlockKind::Array(seen) if seen.shape() == [4]))
        })
        .collect();
    let file = BlockFile::open(&memory[0]).unwrap();
    let guard = array.write().unwrap();
    assert_eq!(file.info().unwrap().state(), BlockState::Written { pid: Some(std::process::id()) });
    drop(guard);
    assert_eq!(file.info().unwrap().state(), BlockState::Free);
    assert_eq!(file.info().unwrap().name(), None);
}

#[test]
fn files_are_loaded_whole_with_their_type_and_order_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let name = unique_name("loaded");
    let left = BlocksLeft::watch([&name]);
    let source = dir.path().join("source.npy");
    let load = || BlockFile::open(&source)?.load_named(&name, &SharedMemory::options(), |_, _| ());

    // More than one piece, in an order that is not C's.
    let written = SharedArray::<f64, _>::from_shape_fn((300, 200).f(), |(i, j)| (i * 1000 + j) as f64).unwrap();
    written.save_npy(&source).unwrap();
    let mut told = Vec::new();
    let block = BlockFile::open(&source)
        .unwrap()
        .load_named(&name, &SharedMemoryOptions::default().mode(0o640), |done, total| told.push((done, total)))
        .unwrap();
    assert_eq!(*told.last().unwrap(), (480_000, 480_000));
    assert!(told.is_sorted() && told.len() > 1);
    assert_eq!(find(&name).unwrap().mode(), 0o640);
    // SAFETY: nobody writes it.
    #[allow(unsafe_code, reason = "attaching is")]
    let array = unsafe { SharedArray::<f64, Ix2>::attach(&name).unwrap() };
    assert!(array.is_fortran());
    assert_eq!(array.read().unwrap(), written.read().unwrap());
    assert_kind(load(), ErrorKind::AlreadyExists, &[&name]);
    drop(array);

    // And back, into the same file.
    BlockFile::open_named(&name).unwrap().save_npy(&source, |_, _| ()).unwrap();
    assert_eq!(SharedArray::<f64, Ix2>::load_npy(&source).unwrap().read().unwrap(), written.read().unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    drop(block);

    // A type that no Rust type stands for.
    let dates = npy("{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (2,), }", &[7; 16]);
    fs::write(&source, &dates).unwrap();
    let block = load().unwrap();
    let bytes = fs::read(path(&name)).unwrap();
    assert!(bytes.starts_with(b"\x93NUMPY\x01\0\xf6\x0f{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (2,), }"));
    assert_eq!((&bytes[4096..4112], &bytes[4160..4168]), (&[7; 16][..], &b"NDSHMCTL"[..]));
    drop(block);

    fs::write(&source, &dates[..dates.len() - 1]).unwrap();
    assert_kind(load(), ErrorKind::Layout, &["source.npy"]);
    fs::write(&source, b"not an array").unwrap();
    assert_kind(load(), ErrorKind::Layout, &["source.npy"]);
    left.assert_gone();
}

#[test]
fn an_array_that_is_cut_short_meanwhile_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (source, copy) = (dir.path().join("source.npy"), dir.path().join("copy.npy"));
    let name = unique_name("cut");
    SharedArray::<u8, Ix1>::from_elem(1_000_000, 1).unwrap().save_npy(&source).unwrap();
    let whole = fs::metadata(&source).unwrap().len();
    let set_len = |len| fs::File::options().write(true).open(&source).unwrap().set_len(len).unwrap();
    let file = BlockFile::open(&source).unwrap();
    let loaded = file.load_named(&name, &SharedMemory::options(), |_, _| set_len(400_000));
    assert_kind(loaded, ErrorKind::Layout, &["cut short", "expected 1000000"]);
    assert!(find(&name).is_none());
    set_len(whole);
    assert_kind(file.save_npy(&copy, |_, _| set_len(400_000)), ErrorKind::Layout, &["cut short"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_lock_stays_when_another_one_of_the_same_file_ends() {
    // Whoever dropped the first one unlocked the block for all.
    let name = unique_name("locks");
    let mut array = SharedArray::<u8, _>::options().name(&name).zeros(4).unwrap();
    let file = BlockFile::open_named(&name).unwrap();
    let one = file.read_lock(Duration::ZERO).unwrap();
    let other = file.read_lock(Duration::ZERO).unwrap();
    drop(one);
    assert_kind(array.try_write(), ErrorKind::WouldBlock, &[]);
    drop(other);
    drop(array.try_write().unwrap());
}
