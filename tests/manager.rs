//! A manager's blocks are made by any of its clients, found by label, and gone when it ends.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(unsafe_code, reason = "attaching, and init_before_main")]

mod common;
mod peer;

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use common::{BlocksLeft, assert_kind, unique_name};
use ndarray::{Ix1, Ix2, IxDyn};
use ndshm::{BlockKind, ErrorKind, ShareableList, SharedArray, SharedMemory, SharedMemoryManager, Value};
use peer::{Peer, hear, role, say};

ndshm::init_before_main!();

fn start() -> SharedMemoryManager {
    SharedMemoryManager::start().unwrap()
}

fn connect(manager: &SharedMemoryManager) -> SharedMemoryManager {
    SharedMemoryManager::connect(manager.address()).unwrap()
}

fn labels(manager: &SharedMemoryManager) -> Vec<String> {
    manager.list().unwrap().iter().map(|block| block.label().to_owned()).collect()
}

fn is_there(name: &str) -> bool {
    Path::new("/dev/shm").join(name).exists()
}

// Making

#[test]
fn memory_and_lists_have_names_and_arrays_have_none() {
    let manager = start();
    let memory = manager.shared_memory(1000).unwrap();
    let list = manager.shareable_list(["a", "b"]).unwrap();
    let array = manager.array::<f64, _>((3, 4)).unwrap();
    let left = BlocksLeft::watch([memory.name().unwrap(), list.shm().name().unwrap()]);
    assert_eq!((memory.size(), list.len(), array.shape(), array.name()), (1000, 2, [3, 4].as_slice(), None));
    assert_eq!(left.left().len(), 2);
    assert_eq!(SharedMemory::attach(memory.name().unwrap()).unwrap().size(), 1000);
    assert_eq!(ShareableList::attach(list.shm().name().unwrap()).unwrap().get(1).unwrap(), Value::from("b"));

    assert!(!manager.shutdown().unwrap().server_was_gone());
    left.assert_gone();
    // Handles outlive the manager.
    memory.write_at(990, b"still here").unwrap();
    assert_eq!(list.get(0).unwrap(), Value::from("a"));
    assert_eq!(array.read().unwrap().sum(), 0.0);
}

#[test]
fn a_block_stays_when_the_handle_goes_that_it_was_made_with() {
    let manager = start();
    let name = manager.shared_memory(10).unwrap().name().unwrap().to_owned();
    let left = BlocksLeft::watch([&name]);
    SharedMemory::attach(&name).unwrap().write_at(0, b"kept").unwrap();
    let mut bytes = [0; 4];
    manager.attach_memory(&name).unwrap().read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"kept");

    manager.options().label("field").array::<u8, _>(5).unwrap().write().unwrap().fill(7);
    // SAFETY: whoever writes here does so through guards.
    let field = unsafe { manager.attach_array::<u8, Ix1>("field") }.unwrap();
    assert_eq!(field.read().unwrap().to_vec(), [7; 5]);
    drop(manager);
    left.assert_gone();
}

#[test]
fn options_set_label_name_mode_and_order() {
    use ndarray::ShapeBuilder;
    use std::os::unix::fs::PermissionsExt;
    let manager = start();
    let name = unique_name("climate");
    let left = BlocksLeft::watch([&name]);
    let array = manager.options().label("climate").name(&name).mode(0o640).array::<f32, _>((2, 3).f()).unwrap();
    assert!(array.is_fortran());
    assert_eq!(array.name(), Some(&*name));
    let mode = fs::metadata(Path::new("/dev/shm").join(&name)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let [block] = &manager.list().unwrap()[..] else { panic!("one block was made") };
    assert_eq!((block.label(), block.name(), block.shape()), ("climate", Some(&*name), Some([2, 3].as_slice())));
    assert_eq!(block.dtype().unwrap().descr(), "<f4");
    assert!(matches!(block.kind(), BlockKind::Array(info) if info.is_fortran() && info.len() == 6));
    assert!(!block.is_frozen());
    drop(manager);
    left.assert_gone();
}

#[test]
fn an_array_whose_filling_fails_is_nowhere() {
    let manager = start();
    let name = unique_name("unfilled");
    for options in [manager.options().label("x"), manager.options().label("x").name(&name)] {
        let result: Result<SharedArray<u8, _>, io::Error> =
            options.fill_with(4, |_| Err(io::Error::new(io::ErrorKind::Interrupted, "enough")));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
    assert_eq!(labels(&manager), [""; 0]);
    assert!(!is_there(&name));
}

#[test]
fn a_block_that_does_not_fit_is_an_error_of_who_asked() {
    let manager = start();
    assert_kind(manager.shared_memory(1 << 60), ErrorKind::NoSpace, &[]);
    assert_kind(manager.shared_memory(0), ErrorKind::InvalidSize, &[]);
    assert_kind(manager.array::<f64, _>(1 << 50), ErrorKind::NoSpace, &[]);
    assert_eq!(labels(&manager), [""; 0]);
}

// Labels and names

#[test]
fn a_label_is_taken_once_and_free_again_when_its_block_is_removed() {
    let manager = start();
    let client = connect(&manager);
    manager.options().label("a").array::<u8, _>(1).unwrap();
    assert_kind(client.options().label("a").shared_memory(1), ErrorKind::AlreadyExists, &["\"a\""]);
    assert_kind(client.publish("a", &mut SharedMemory::anonymous(1).unwrap()), ErrorKind::AlreadyExists, &["\"a\""]);
    client.remove("a").unwrap();
    assert_kind(client.remove("a"), ErrorKind::NotFound, &["\"a\""]);
    client.options().label("a").shared_memory(1).unwrap();
    assert_eq!(labels(&manager), ["a"]);
    for bad in ["", "two\nlines", &"x".repeat(256)] {
        assert_kind(client.options().label(bad).shared_memory(1), ErrorKind::InvalidName, &["label"]);
        assert_kind(client.publish(bad, &mut SharedMemory::anonymous(1).unwrap()), ErrorKind::InvalidName, &["label"]);
    }
}

#[test]
fn a_name_that_is_taken_stays_whose_it_was() {
    let manager = start();
    let other = start();
    let own = SharedMemory::create_named(&unique_name("own"), 10).unwrap();
    let name = own.name().unwrap();
    assert_kind(manager.options().name(name).shared_memory(5), ErrorKind::AlreadyExists, &[name]);
    assert_kind(manager.options().name("a/b").shared_memory(5), ErrorKind::InvalidName, &["a/b"]);
    let theirs = other.shared_memory(10).unwrap();
    let theirs = theirs.name().unwrap();
    assert_kind(manager.options().name(theirs).shared_memory(5), ErrorKind::AlreadyExists, &[theirs]);
    drop(manager);
    assert!(is_there(name) && is_there(theirs));
}

#[test]
fn a_name_removed_by_hand_is_gone_and_stops_nothing() {
    let manager = start();
    let lost = manager.shared_memory(10).unwrap();
    let replaced = manager.shared_memory(10).unwrap();
    let good = manager.shared_memory(10).unwrap();
    let [lost, replaced, good] = [&lost, &replaced, &good].map(|memory| memory.name().unwrap());
    for name in [lost, replaced] {
        fs::remove_file(Path::new("/dev/shm").join(name)).unwrap();
    }
    // Somebody else's, under a name that was the manager's.
    let foreign = SharedMemory::create_named(replaced, 20).unwrap();
    for name in [lost, replaced] {
        assert_kind(manager.attach_memory(name), ErrorKind::NotFound, &[name]);
    }
    assert_eq!(labels(&manager), [good]);
    assert_eq!(manager.attach_memory(good).unwrap().size(), 10);
    manager.options().label(lost).shared_memory(1).unwrap();
    let ended = manager.shutdown().unwrap();
    assert!(ended.problems().is_empty() && !ended.server_was_gone());
    assert!(!is_there(good) && is_there(replaced));
    drop(foreign);
}

#[test]
fn a_handle_removes_its_name_for_all() {
    let manager = start();
    let mut memory = manager.shared_memory(10).unwrap();
    let name = memory.name().unwrap().to_owned();
    memory.unlink().unwrap();
    assert!(!is_there(&name));
    assert_eq!(labels(&manager), [""; 0]);
}

#[test]
fn a_kept_block_stays_when_the_manager_ends() {
    let manager = start();
    let memory = manager.options().label("results").shared_memory(10).unwrap();
    let name = memory.name().unwrap();
    manager.array::<u8, _>(1).unwrap();
    assert_kind(manager.keep("array-1"), ErrorKind::Unsupported, &["array-1", "name"]);
    assert_kind(manager.keep("nothing"), ErrorKind::NotFound, &["nothing"]);
    manager.keep("results").unwrap();
    assert_eq!(labels(&manager), ["array-1"]);
    drop(manager);
    assert!(is_there(name));
    assert!(ndshm::prune().unwrap().blocks().iter().all(|block| block.name() != name));
    SharedMemory::unlink_name(name).unwrap();
}

// Publishing and attaching

#[test]
fn whatever_is_published_is_attached_to_by_its_label() {
    let manager = start();
    let client = connect(&manager);
    let mut array = SharedArray::<i32, _>::from_array(&ndarray::array![[0, 1], [10, 11]]).unwrap();
    let frozen = SharedArray::<i32, _>::from_elem(3, 9).unwrap().freeze().unwrap();
    let mut list = ShareableList::new([1, 2]).unwrap();
    let mut memory = SharedMemory::anonymous(8).unwrap();
    manager.publish("array", &mut array).unwrap();
    manager.publish("frozen", &frozen).unwrap();
    manager.publish("list", &mut list).unwrap();
    manager.publish("memory", &mut memory).unwrap();
    // It is the manager's to keep, whatever becomes of the handles.
    drop((frozen, list, memory));

    // SAFETY: whoever writes here does so through guards.
    let mut same = unsafe { client.attach_array::<i32, Ix2>("array") }.unwrap();
    same.write().unwrap()[[1, 1]] = -1;
    assert_eq!(array.read().unwrap()[[1, 1]], -1);
    assert_eq!(client.attach_frozen::<i32, Ix1>("frozen").unwrap().view().to_vec(), [9; 3]);
    assert_eq!(client.attach_list("list").unwrap().get(1).unwrap(), Value::Int(2));
    client.attach_memory("memory").unwrap().write_at(0, b"8 bytes.").unwrap();

    let frozen: Vec<_> = client.list().unwrap().into_iter().map(|b| (b.label().to_owned(), b.is_frozen())).collect();
    let expected = [("array", false), ("frozen", true), ("list", false), ("memory", false)];
    assert_eq!(frozen, expected.map(|(label, is)| (label.to_owned(), is)));
}

#[test]
fn what_is_written_under_a_guard_excludes_who_attached_by_label() {
    let manager = start();
    let mut array = manager.options().label("a").array::<u8, _>(4).unwrap();
    // SAFETY: whoever writes here does so through guards.
    let same = unsafe { manager.attach_array::<u8, Ix1>("a") }.unwrap();
    let guard = array.write().unwrap();
    let elsewhere = std::thread::scope(|scope| scope.spawn(|| same.try_read().map(drop)).join().unwrap());
    assert_kind(elsewhere, ErrorKind::WouldBlock, &[]);
    drop(guard);
    assert!(same.try_read().is_ok());
    // SAFETY: as above.
    let mut read_only = unsafe { manager.attach_array_read_only::<u8, Ix1>("a") }.unwrap();
    assert_kind(read_only.write(), ErrorKind::Permission, &["read-only"]);
}

#[test]
fn an_array_that_is_frozen_later_is_a_frozen_one() {
    let manager = start();
    let array = manager.options().label("a").array::<u8, _>(4).unwrap();
    assert_kind(manager.attach_frozen::<u8, Ix1>("a"), ErrorKind::Permission, &["not frozen"]);
    let _frozen = array.freeze().unwrap();
    assert_eq!(manager.attach_frozen::<u8, Ix1>("a").unwrap().len(), 4);
    // SAFETY: nobody can write it.
    let writable = unsafe { manager.attach_array::<u8, Ix1>("a") };
    assert_kind(writable, ErrorKind::Permission, &["frozen"]);
    assert_kind(manager.attach_memory("a"), ErrorKind::Permission, &["frozen"]);
    // SAFETY: as above.
    let read_only = unsafe { manager.attach_array_read_only::<u8, Ix1>("a") }.unwrap();
    assert_eq!(read_only.read().unwrap().len(), 4);
}

#[test]
fn attaching_as_something_else_names_what_was_found_and_expected() {
    let manager = start();
    manager.options().label("array").array::<f32, _>((2, 2)).unwrap();
    manager.options().label("list").shareable_list([1]).unwrap();
    manager.options().label("memory").shared_memory(10).unwrap();
    // SAFETY: none of these succeeds.
    let attach = |label| unsafe { manager.attach_array::<f64, IxDyn>(label) };
    assert_kind(attach("array"), ErrorKind::TypeMismatch, &["<f4", "<f8"]);
    assert_kind(attach("list"), ErrorKind::Layout, &["\"list\" is a list, expected an array"]);
    assert_kind(attach("nothing"), ErrorKind::NotFound, &["\"nothing\""]);
    assert_kind(manager.attach_frozen::<f32, Ix2>("memory"), ErrorKind::Layout, &["is bare memory, expected a frozen"]);
    assert_kind(manager.attach_list("array"), ErrorKind::Layout, &["\"array\" is an array, expected a list"]);
    // Whatever is in a block, it is bytes too.
    assert!(manager.attach_memory("list").unwrap().size() >= 33);
}

#[test]
fn a_file_on_disk_is_attached_to_by_its_path() {
    let manager = start();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("a.npy");
    let mut array = SharedArray::<u8, _>::create_npy(&path, 4).unwrap();
    assert_kind(
        manager.publish("file", &mut array),
        ErrorKind::Unsupported,
        &["anonymous memory or a block in /dev/shm"],
    );
    assert_eq!(labels(&manager), [""; 0]);
}

// Other processes

#[test]
fn processes_find_each_others_blocks() {
    const TEST: &str = "processes_find_each_others_blocks";
    if let Some((_, address)) = role() {
        let manager = SharedMemoryManager::connect(&address).unwrap();
        // SAFETY: whoever writes here does so through guards.
        let mut field = unsafe { manager.attach_array::<f64, Ix1>("field") }.unwrap();
        field.write().unwrap()[0] = 2.5;
        let list = manager.options().label("from the peer").shareable_list([1, 2, 3]).unwrap();
        say(list.shm().name().unwrap());
        hear();
        return;
    }
    let manager = start();
    let field = manager.options().label("field").array::<f64, _>(3).unwrap();
    let mut peer = Peer::start(TEST, "peer", manager.address());
    let name = peer.next();
    let left = BlocksLeft::watch([&name]);
    assert_eq!(field.read().unwrap()[0], 2.5);
    peer.tell("go");
    peer.succeeded();
    // What it made stays with the manager.
    assert_eq!(manager.attach_list("from the peer").unwrap().len(), 3);
    drop(manager);
    left.assert_gone();
}

#[test]
fn any_client_can_end_a_manager_and_the_others_are_told() {
    let manager = start();
    let memory = manager.shared_memory(10).unwrap();
    let left = BlocksLeft::watch([memory.name().unwrap()]);
    let bystander = connect(&manager);
    let ended = connect(&manager).shutdown().unwrap();
    assert!(!ended.server_was_gone() && ended.problems().is_empty());
    left.assert_gone();
    for told in [&manager, &bystander] {
        assert_kind(told.list(), ErrorKind::Closed, &["is gone", &told.server_pid().to_string()]);
    }
    assert_kind(SharedMemoryManager::connect(bystander.address()), ErrorKind::NotFound, &[bystander.address()]);
    assert_kind(bystander.shutdown(), ErrorKind::Closed, &[]);
    // The owner finds that nothing is left to do.
    let ended = manager.shutdown().unwrap();
    assert!(ended.server_was_gone() && ended.removed().is_empty());
    assert_eq!(ended.server_fate(), Some("exited with code 0"));
}

#[test]
fn a_name_finds_a_manager_and_is_taken_once() {
    let name = unique_name("named").replace("ndshm-test-", "");
    let builder = SharedMemoryManager::builder().name(&name);
    let manager = builder.clone().start().unwrap();
    assert_eq!(manager.address(), format!("@ndshm/{}/{name}", nix::unistd::geteuid()));
    assert_eq!(SharedMemoryManager::connect(&name).unwrap().server_pid(), manager.server_pid());
    assert_kind(builder.clone().start(), ErrorKind::AlreadyExists, &[manager.address()]);
    assert_kind(builder.clone().bind(), ErrorKind::AlreadyExists, &[manager.address()]);
    drop(manager);
    drop(builder.start().unwrap());
    for bad in ["", "a b", "a/b", &"x".repeat(65)] {
        assert_kind(SharedMemoryManager::builder().name(bad).start(), ErrorKind::InvalidName, &["manager's name"]);
        assert_kind(SharedMemoryManager::connect(bad), ErrorKind::InvalidName, &["manager's name"]);
    }
}

#[test]
fn threads_may_share_a_manager() {
    let manager = start();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let manager = &manager;
            scope.spawn(move || {
                for i in 0..25 {
                    let label = format!("{thread}/{i}");
                    manager.options().label(&label).array::<u32, _>(4).unwrap().write().unwrap().fill(thread);
                    // SAFETY: whoever writes here does so through guards.
                    let again = unsafe { manager.attach_array::<u32, Ix1>(&label) }.unwrap();
                    assert_eq!(again.read().unwrap().to_vec(), [thread; 4]);
                }
            });
        }
    });
    assert_eq!(manager.list().unwrap().len(), 100);
}

#[test]
fn a_list_of_many_blocks_arrives_whole() {
    let manager = start();
    let mut memory = SharedMemory::anonymous(1).unwrap();
    let long = "x".repeat(200);
    for i in 0..600 {
        manager.publish(&format!("{long}{i:03}"), &mut memory).unwrap();
    }
    let blocks = manager.list().unwrap();
    assert_eq!(blocks.len(), 600);
    assert!(blocks.iter().enumerate().all(|(i, block)| block.label() == format!("{long}{i:03}") && block.size() == 1));
}

#[test]
fn a_server_in_this_process_serves_until_it_is_told() {
    let server = SharedMemoryManager::builder().bind().unwrap();
    let address = server.address().to_owned();
    let serving = std::thread::spawn(|| server.run());
    let manager = SharedMemoryManager::connect(&address).unwrap();
    assert_eq!(manager.server_pid(), std::process::id());
    let memory = manager.shared_memory(10).unwrap();
    let left = BlocksLeft::watch([memory.name().unwrap()]);
    // Whoever connects owns nothing.
    drop(manager);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(left.left().len(), 1);
    SharedMemoryManager::connect(&address).unwrap().shutdown().unwrap();
    let ended = serving.join().unwrap().unwrap();
    assert!(ended.problems().is_empty());
    left.assert_gone();
}
