//! A `SharedMemory` is created, found, copied in and out of, kept and removed as documented, and bad input of every
//! kind is an error that leaves nothing in `/dev/shm`.
#![allow(unsafe_code, reason = "fork and setuid")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod common;
mod reexec;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::assert_kind;
use ndshm::{ErrorKind, HugePages, Reserve, SharedMemory};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Uid, fork};
use proptest::prelude::*;
use reexec::{role, shm_names};

/// A name that no other test and no other run uses.
fn unique(what: &str) -> String {
    format!("ndshm-test-{}-{what}", std::process::id())
}

fn path(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

fn bytes_of(memory: &SharedMemory) -> Vec<u8> {
    let mut bytes = vec![0xee; memory.size()];
    memory.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Removes what a test has planted, also when it fails.
struct Planted(PathBuf);

impl Drop for Planted {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0).or_else(|_| fs::remove_dir(&self.0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_range_is_copied_in_and_out_and_nothing_beside_it(
        size in 1_usize..70,
        writes in prop::collection::vec((0_usize..70, prop::collection::vec(any::<u8>(), 0..40)), 1..8),
    ) {
        let memory = SharedMemory::anonymous(size).unwrap();
        let mut model = vec![0; size];
        for (offset, bytes) in writes {
            if offset + bytes.len() <= size {
                memory.write_at(offset, &bytes).unwrap();
                model[offset..offset + bytes.len()].copy_from_slice(&bytes);
                let mut back = vec![0; bytes.len()];
                memory.read_at(offset, &mut back).unwrap();
                prop_assert_eq!(back, bytes);
            } else {
                prop_assert_eq!(memory.write_at(offset, &bytes).unwrap_err().kind(), ErrorKind::InvalidSize);
            }
            prop_assert_eq!(bytes_of(&memory), &model[..]);
        }
    }
}

#[test]
fn threads_that_write_bytes_of_one_word_do_not_undo_each_other() {
    let name = unique("word");
    let memory = SharedMemory::create_named(&name, 8).unwrap();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let own = SharedMemory::attach(&name).unwrap();
            scope.spawn(move || {
                for n in 0..=250 {
                    own.write_at(i, &[n]).unwrap();
                    let mut back = [0];
                    own.read_at(i, &mut back).unwrap();
                    assert_eq!(back, [n]);
                }
            });
        }
    });
    assert_eq!(bytes_of(&memory), [250; 8]);
}

#[test]
fn a_block_has_the_size_that_was_asked_for_and_is_zero() {
    for (size, capacity) in [(1, 4096), (4096, 4096), (4097, 8192), (100_000, 102_400)] {
        for memory in [SharedMemory::create(size).unwrap(), SharedMemory::anonymous(size).unwrap()] {
            assert_eq!((memory.size(), memory.capacity()), (size, capacity));
            assert!(bytes_of(&memory).iter().all(|&byte| byte == 0));
            assert!(!memory.is_read_only());
            if let Some(name) = memory.name() {
                assert_eq!(fs::metadata(path(name)).unwrap().len(), size as u64);
                assert_eq!(SharedMemory::attach(name).unwrap().size(), size);
            }
        }
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let name = unique("size");
    for options in [SharedMemory::options(), SharedMemory::options().reserve(Reserve::Lazily)] {
        for (size, word) in [(0, "0 bytes"), (usize::MAX, "18446744073709551615"), (isize::MAX as usize, "at most")] {
            assert_kind(options.create_named(&name, size), ErrorKind::InvalidSize, &[word]);
            assert_kind(options.create(size), ErrorKind::InvalidSize, &[word]);
            assert_kind(options.anonymous(size), ErrorKind::InvalidSize, &[word]);
        }
    }
    assert!(!path(&name).exists());
}

#[test]
fn a_failed_call_leaves_nothing_in_dev_shm() {
    if role().is_none() {
        reexec::with_own_shm("size=1g", "a_failed_call_leaves_nothing_in_dev_shm", "child");
        return;
    }
    let taken = SharedMemory::create_named("taken", 8).unwrap();
    for _ in 0..3 {
        assert_kind(SharedMemory::create(0), ErrorKind::InvalidSize, &[]);
        assert_kind(
            SharedMemory::create_named("taken", 8),
            ErrorKind::AlreadyExists,
            &["/dev/shm/taken", "attach", "ndshm rm"],
        );
        assert_kind(SharedMemory::create_named("a/b", 8), ErrorKind::InvalidName, &[]);
        assert_kind(SharedMemory::options().read_only(true).create(8), ErrorKind::InvalidArgument, &["read-only"]);
        assert_kind(SharedMemory::options().mode(0o4600).create(8), ErrorKind::InvalidArgument, &["0o4600"]);
        assert_kind(SharedMemory::create(2 << 30), ErrorKind::NoSpace, &[]);
        let huge = SharedMemory::options().huge_pages(HugePages::Require);
        assert_kind(huge.create(4096), ErrorKind::Unsupported, &["2097152", "4096 bytes"]);
    }
    assert_eq!(shm_names(), ["taken"]);
    drop(taken);
    assert_eq!(shm_names(), [""; 0]);
}

#[test]
fn bad_names_are_refused_everywhere() {
    let long = "x".repeat(256);
    for (name, word) in [
        ("", "empty"),
        (".", "directory"),
        ("..", "directory"),
        ("/climate", "`/`"),
        ("a/../b", "`/`"),
        ("a\0b", "NUL"),
        (".ndshm.0123", "reserved"),
        (&long, "longer than 255"),
    ] {
        assert_kind(SharedMemory::create_named(name, 8), ErrorKind::InvalidName, &[word, "expected 1 to 255"]);
        assert_kind(SharedMemory::attach(name), ErrorKind::InvalidName, &[word]);
        assert_kind(SharedMemory::unlink_name(name), ErrorKind::InvalidName, &[word]);
    }
    let longest = format!("{:x<255}", unique("longest"));
    assert_eq!(SharedMemory::create_named(&longest, 8).unwrap().name(), Some(&*longest));
}

#[test]
fn a_missing_block_is_not_found() {
    let name = unique("missing");
    assert_kind(SharedMemory::attach(&name), ErrorKind::NotFound, &[&name, "/dev/shm"]);
    assert_kind(SharedMemory::unlink_name(&name), ErrorKind::NotFound, &[&name]);
}

#[test]
fn what_goes_past_the_end_is_refused_and_nothing_is_written() {
    let memory = SharedMemory::anonymous(100).unwrap();
    for (offset, len) in [(0, 101), (100, 1), (99, 2), (usize::MAX, 1), (usize::MAX - 3, 8), (101, 0)] {
        let words = [&*format!("{len} bytes"), &*format!("offset {offset}"), "100 bytes"];
        assert_kind(memory.write_at(offset, &vec![1; len]), ErrorKind::InvalidSize, &words);
        assert_kind(memory.read_at(offset, &mut vec![1; len]), ErrorKind::InvalidSize, &words);
    }
    memory.write_at(100, &[]).unwrap();
    memory.read_at(100, &mut []).unwrap();
    assert_eq!(bytes_of(&memory), [0; 100]);
}

/// Puts something where a block could be.
type Plant<'a> = &'a dyn Fn(&Path);

#[test]
fn what_others_have_planted_under_a_name_is_named_and_never_waited_for() {
    let make_fifo = |path: &Path| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    let make_dir = |path: &Path| fs::create_dir(path).unwrap();
    let make_link = |path: &Path| symlink("/etc/passwd", path).unwrap();
    let make_dangling = |path: &Path| symlink("/nonexistent", path).unwrap();
    let make_socket = |path: &Path| drop(UnixListener::bind(path).unwrap());
    let plants: [(&str, Plant<'_>); 5] = [
        ("FIFO", &make_fifo),
        ("directory", &make_dir),
        ("symbolic link", &make_link),
        ("symbolic link", &make_dangling),
        ("socket", &make_socket),
    ];
    for (i, (word, plant)) in plants.into_iter().enumerate() {
        let name = unique(&format!("planted-{i}"));
        let planted = Planted(path(&name));
        plant(&planted.0);
        for read_only in [false, true] {
            let result = SharedMemory::options().read_only(read_only).attach(&name);
            assert_kind(result, ErrorKind::Layout, &[word, "expected a regular file"]);
        }
        assert_kind(
            SharedMemory::create_named(&name, 8),
            ErrorKind::AlreadyExists,
            &[&name, "SharedMemory::unlink_name"],
        );
        assert!(planted.0.symlink_metadata().is_ok(), "the {word} is somebody else's");
    }
}

#[test]
fn a_block_that_its_creator_has_not_sized_yet_says_so() {
    let name = unique("empty");
    let planted = Planted(path(&name));
    fs::write(&planted.0, "").unwrap();
    assert_kind(SharedMemory::attach(&name), ErrorKind::Layout, &[&name, "no size", "not given it one yet"]);
    fs::write(&planted.0, "now").unwrap();
    assert_eq!(bytes_of(&SharedMemory::attach(&name).unwrap()), b"now");
}

#[test]
fn the_mode_is_what_was_asked_whatever_the_umask() {
    if role().is_none() {
        reexec::run("the_mode_is_what_was_asked_whatever_the_umask", "child");
        return;
    }
    nix::sys::stat::umask(Mode::from_bits_truncate(0o777));
    for (asked, expected) in [(None, 0o600), (Some(0o666), 0o666), (Some(0o440), 0o440), (Some(0), 0)] {
        let options = asked.map_or(SharedMemory::options(), |mode| SharedMemory::options().mode(mode));
        let memory = options.create(8).unwrap();
        assert_eq!(fs::metadata(path(memory.name().unwrap())).unwrap().mode() & 0o7777, expected);
        options.anonymous(8).unwrap();
    }
}

#[test]
fn another_user_gets_what_the_mode_allows() {
    let name = "another_user_gets_what_the_mode_allows";
    if let Some(role) = role() {
        let (secret, public) = (format!("{role}-secret"), format!("{role}-public"));
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setgid(65534.into()).unwrap();
        nix::unistd::setuid(65534.into()).unwrap();
        assert_kind(SharedMemory::attach(&secret), ErrorKind::Permission, &[&secret, "reading and writing"]);
        assert_kind(SharedMemory::options().read_only(true).attach(&secret), ErrorKind::Permission, &["for reading"]);
        assert_kind(SharedMemory::attach(&public), ErrorKind::Permission, &[&public]);
        assert_kind(SharedMemory::unlink_name(&public), ErrorKind::Permission, &[&public]);
        assert_kind(SharedMemory::create_named(&public, 8), ErrorKind::AlreadyExists, &[&public]);

        let mut memory = SharedMemory::options().read_only(true).populate(true).attach(&public).unwrap();
        assert!(memory.is_read_only());
        assert_eq!(bytes_of(&memory), b"hello");
        assert_kind(memory.write_at(0, b"x"), ErrorKind::Permission, &["read-only"]);
        assert_kind(memory.unlink(), ErrorKind::Permission, &[]);
        memory.share_fd().unwrap();

        // Its own, as an ordinary user, with a mode that would keep it from opening its own block again.
        let own = SharedMemory::options().mode(0o000).create(8).unwrap();
        own.write_at(0, b"is mine.").unwrap();
        assert_kind(SharedMemory::attach(own.name().unwrap()), ErrorKind::Permission, &[]);
        return;
    }
    if !Uid::effective().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let base = unique("user");
    let secret = SharedMemory::create_named(&format!("{base}-secret"), 8).unwrap();
    let public = SharedMemory::options().mode(0o644).create_named(&format!("{base}-public"), 5).unwrap();
    public.write_at(0, b"hello").unwrap();
    reexec::run(name, &base);
    assert!(path(secret.name().unwrap()).exists() && path(public.name().unwrap()).exists());
}

#[test]
fn without_descriptors_there_is_an_error_and_nothing_is_left() {
    if role().is_none() {
        reexec::with_own_shm("size=8m", "without_descriptors_there_is_an_error_and_nothing_is_left", "child");
        return;
    }
    let kept = SharedMemory::create_named("kept", 8).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
    let mut used = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        used.push(file);
    }
    // A call takes several descriptors, and fails at another step in each round.
    let calls: [&dyn Fn() -> ndshm::Result<SharedMemory>; 4] = [
        &|| SharedMemory::create(8),
        &|| SharedMemory::create_named("new", 8),
        &|| SharedMemory::anonymous(8),
        &|| SharedMemory::attach("kept"),
    ];
    for call in calls {
        while let Err(error) = call() {
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert!(error.to_string().contains("ulimit -n"), "{error}");
            drop(used.pop().unwrap());
            assert_eq!(shm_names(), ["kept"]);
        }
        while let Ok(file) = fs::File::open("/dev/null") {
            used.push(file);
        }
    }
    drop(used);
    kept.write_at(0, b"in place").unwrap();
    assert_eq!(shm_names(), ["kept"]);
}

#[test]
fn the_creator_removes_the_name_and_who_attached_does_not() {
    let name = unique("owner");
    let memory = SharedMemory::create_named(&name, 8).unwrap();
    let attached = SharedMemory::attach(&name).unwrap();
    drop(SharedMemory::attach(&name).unwrap());
    assert!(path(&name).exists());
    drop(memory);
    assert!(!path(&name).exists());
    attached.write_at(0, b"remains!").unwrap();
    assert_eq!(bytes_of(&attached), b"remains!");

    // A panic is no different.
    let panicked = std::thread::spawn({
        let name = name.clone();
        move || {
            let _memory = SharedMemory::create_named(&name, 8).unwrap();
            std::panic::resume_unwind(Box::new(()));
        }
    });
    assert!(panicked.join().is_err());
    assert!(!path(&name).exists());
}

#[test]
fn a_kept_block_outlives_its_creator_until_it_is_unlinked() {
    let name = unique("keep");
    let mut memory = SharedMemory::create_named(&name, 5).unwrap();
    memory.write_at(0, b"hello").unwrap();
    memory.keep();
    drop(memory);
    let mut later = SharedMemory::attach(&name).unwrap();
    later.keep();
    assert_eq!(bytes_of(&later), b"hello");
    SharedMemory::unlink_name(&name).unwrap();
    assert_kind(SharedMemory::unlink_name(&name), ErrorKind::NotFound, &[&name]);
    assert_kind(later.unlink(), ErrorKind::NotFound, &[&name]);
    assert_eq!(later.name(), None);
}

#[test]
fn unlinking_removes_the_name_once() {
    let name = unique("unlink");
    for owner_unlinks in [true, false] {
        let mut memory = SharedMemory::create_named(&name, 8).unwrap();
        let mut attached = SharedMemory::attach(&name).unwrap();
        let (first, second) = if owner_unlinks { (&mut memory, &mut attached) } else { (&mut attached, &mut memory) };
        first.unlink().unwrap();
        assert_eq!(first.name(), None);
        assert!(!path(&name).exists());
        assert_kind(first.unlink(), ErrorKind::NotFound, &["no name"]);
        assert_kind(second.unlink(), ErrorKind::NotFound, &[&name]);
        memory.write_at(0, b"the same").unwrap();
        assert_eq!(bytes_of(&attached), b"the same");
    }
    assert_kind(SharedMemory::anonymous(8).unwrap().unlink(), ErrorKind::NotFound, &["anonymous", "no name"]);
}

#[test]
fn a_name_that_has_become_another_block_s_is_left_alone() {
    let name = unique("reused");
    let mut first = SharedMemory::create_named(&name, 8).unwrap();
    let also_first = SharedMemory::create(8).unwrap();
    SharedMemory::unlink_name(&name).unwrap();
    let second = SharedMemory::create_named(&name, 16).unwrap();
    assert_kind(first.unlink(), ErrorKind::NotFound, &["another block"]);
    drop(first);
    assert_eq!(SharedMemory::attach(&name).unwrap().size(), 16);

    // The same where it was moved there: `mv` in a shell, `os.replace` in Python.
    let moved = also_first.name().unwrap().to_owned();
    fs::rename(path(&name), path(&moved)).unwrap();
    drop(also_first);
    assert_eq!(SharedMemory::attach(&moved).unwrap().size(), 16);
    drop(second);
    SharedMemory::unlink_name(&moved).unwrap();
}

#[test]
fn in_a_forked_child_calls_are_errors_and_drops_do_nothing() {
    if role().is_none() {
        reexec::run("in_a_forked_child_calls_are_errors_and_drops_do_nothing", "child");
        return;
    }
    let mut memory = SharedMemory::create(4096).unwrap();
    let huge = SharedMemory::options().huge_pages(HugePages::Try).anonymous(4 << 20).unwrap();
    let name = memory.name().unwrap().to_owned();
    memory.write_at(0, b"parent").unwrap();
    // SAFETY: this process was started to run this test alone, so no other thread holds a lock that the child needs.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                assert_kind(memory.read_at(0, &mut [0; 4]), ErrorKind::Closed, &["forked"]);
                assert_kind(memory.write_at(0, b"child"), ErrorKind::Closed, &[]);
                assert_kind(memory.unlink(), ErrorKind::Closed, &[]);
                assert_kind(memory.share_fd().map(|fd| fd.as_raw_fd()), ErrorKind::Closed, &[]);
                drop(memory);
                drop(huge);
                // Attaching anew is the way.
                assert_eq!(bytes_of(&SharedMemory::attach(&name).unwrap())[..6], *b"parent");
            }));
            // SAFETY: _exit runs no destructors and no exit handlers, which are the parent's to run.
            unsafe { nix::libc::_exit(i32::from(outcome.is_err())) };
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            assert_eq!(bytes_of(&SharedMemory::attach(&name).unwrap())[..6], *b"parent");
        }
    }
}

/// The line that begins with `key` of the mapping of `memory` in `/proc/self/smaps`.
fn smaps(memory: &SharedMemory, key: &str) -> String {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-", memory.as_ptr().addr());
    let mapping = smaps.lines().skip_while(|line| !line.starts_with(&start));
    mapping.skip(1).find(|line| line.starts_with(key)).unwrap().to_owned()
}

#[test]
fn mappings_stay_out_of_core_dumps_and_forked_children() {
    let flags = |memory: &SharedMemory| -> Vec<String> {
        smaps(memory, "VmFlags:").split_ascii_whitespace().map(String::from).collect()
    };
    let memory = SharedMemory::create(8).unwrap();
    let attached = SharedMemory::attach(memory.name().unwrap()).unwrap();
    for memory in [&memory, &attached, &SharedMemory::anonymous(8).unwrap()] {
        assert!(flags(memory).contains(&"dc".to_owned()), "MADV_DONTFORK");
        assert!(flags(memory).contains(&"dd".to_owned()), "MADV_DONTDUMP");
    }
    let dumped = SharedMemory::options().core_dump(true).anonymous(8).unwrap();
    assert!(!flags(&dumped).contains(&"dd".to_owned()));
}

#[test]
fn memory_is_there_from_the_start_unless_asked_otherwise() {
    let size = 1 << 20;
    let blocks = |memory: &SharedMemory| fs::metadata(path(memory.name().unwrap())).unwrap().blocks() * 512;
    assert_eq!(blocks(&SharedMemory::create(size).unwrap()), size as u64);
    let lazily = SharedMemory::options().reserve(Reserve::Lazily);
    assert_eq!(blocks(&lazily.create(size).unwrap()), 0);

    let populated = lazily.populate(true).create(size).unwrap();
    assert_eq!(blocks(&populated), size as u64);
    let attached = SharedMemory::options().populate(true).attach(populated.name().unwrap()).unwrap();
    for memory in [populated, attached] {
        assert_eq!(smaps(&memory, "Rss:").split_ascii_whitespace().nth(1), Some("1024"));
    }
}

#[test]
fn huge_pages_are_used_where_the_machine_has_them() {
    // A few bytes more than 3 huge pages: those at the end lie in small ones.
    let size = (6 << 20) + 5;
    for named in [false, true] {
        let make = |huge_pages| {
            let options = SharedMemory::options().huge_pages(huge_pages);
            if named { options.create(size) } else { options.anonymous(size) }
        };
        let memory = make(HugePages::Try).unwrap();
        assert!(memory.as_ptr().addr().is_multiple_of(2 << 20));
        assert_eq!((memory.size(), memory.capacity()), (size, (6 << 20) + 4096));
        memory.write_at(size - 3, b"end").unwrap();
        match make(HugePages::Require) {
            Ok(memory) => {
                memory.write_at(0, &vec![1; size]).unwrap();
                assert_eq!(smaps(&memory, "ShmemPmdMapped:").split_ascii_whitespace().nth(1), Some("6144"));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                println!("no huge pages here (named: {named}): {error}");
            }
        }
    }
}

#[test]
fn a_shared_descriptor_is_a_description_of_its_own_and_sealed() {
    let mut memory = SharedMemory::anonymous(10).unwrap();
    memory.write_at(0, b"from Rust!").unwrap();
    let number = memory.share_fd().unwrap().as_raw_fd();
    assert_eq!(memory.share_fd().unwrap().as_raw_fd(), number, "one is enough");
    let fd = memory.share_fd().unwrap();
    let seals = SealFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GET_SEALS).unwrap());
    assert!(seals.contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW));
    assert!(nix::unistd::ftruncate(fd, 5).is_err());
    assert!(nix::unistd::ftruncate(fd, 50).is_err());

    let reached = format!("/proc/{}/fd/{number}", std::process::id());
    python(&format!("f = open({reached:?}, 'r+b'); assert f.read() == b'from Rust!'; f.seek(5); f.write(b'snake')"));
    assert_eq!(bytes_of(&memory), b"from snake");
}

/// Runs a script, which must succeed; gives what it printed.
fn python(script: &str) -> String {
    let output = Command::new("python3").args(["-c", script]).output().expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Before 3.13 Python removes what it attaches to when it ends, unless it is told not to.
const UNTRACK: &str = "
from multiprocessing import resource_tracker, shared_memory
def untracked(name):
    shm = shared_memory.SharedMemory(name=name)
    resource_tracker.unregister(shm._name, 'shared_memory')
    return shm
";

#[test]
fn python_attaches_to_a_block_made_here() {
    let memory = SharedMemory::create(1000).unwrap();
    let name = memory.name().unwrap();
    memory.write_at(990, b"from Rust!").unwrap();
    let script = format!(
        "{UNTRACK}
shm = untracked({name:?})
assert shm.size == 1000, shm.size
assert bytes(shm.buf[990:]) == b'from Rust!' and bytes(shm.buf[:990]) == bytes(990)
shm.buf[3:9] = b'python'
shm.close()"
    );
    python(&script);
    assert!(path(name).exists());
    assert_eq!(bytes_of(&memory)[3..9], *b"python");
}

#[test]
fn a_block_made_by_python_is_attached_here() {
    let name = unique("python");
    let script = format!(
        "{UNTRACK}
shm = shared_memory.SharedMemory(name={name:?}, create=True, size=1001)
resource_tracker.unregister(shm._name, 'shared_memory')
shm.buf[995:1001] = b'python'
shm.close()"
    );
    python(&script);
    let memory = SharedMemory::attach(&name).unwrap();
    let _planted = Planted(path(&name));
    assert_eq!((memory.size(), memory.capacity()), (1001, 4096));
    assert_eq!(bytes_of(&memory)[995..], *b"python");
    memory.write_at(998, b"!!!").unwrap();
    python(&format!("{UNTRACK}\nshm = untracked({name:?}); assert bytes(shm.buf[995:]) == b'pyt!!!'"));
    assert_kind(SharedMemory::create_named(&name, 8), ErrorKind::AlreadyExists, &[&name]);
}

#[test]
fn slices_see_what_was_written() {
    let mut memory = SharedMemory::anonymous(100).unwrap();
    memory.write_at(50, b"copied in").unwrap();
    // SAFETY: nobody else has this block.
    assert_eq!(unsafe { memory.as_slice() }[50..59], *b"copied in");
    // SAFETY: as above, and the slice before is not used any more.
    let slice = unsafe { memory.as_mut_slice() };
    slice[0] = 9;
    assert_eq!((slice.len(), bytes_of(&memory)[0]), (100, 9));
}

#[test]
fn handles_go_between_threads_and_print() {
    fn assert_send_sync<T: Send + Sync + 'static>(_: &T) {}
    let memory = SharedMemory::create_named(&unique("debug"), 12).unwrap();
    assert_send_sync(&memory);
    let printed = format!("{memory:?}");
    assert!(printed.contains(&unique("debug")) && printed.contains("size: 12"), "{printed}");
}
