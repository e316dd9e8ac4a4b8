//! What does not fit is a `NoSpace` error when it is made: never a bus error, a SIGXFSZ or an out-of-memory kill later.
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod reexec;

use std::fs;
use std::path::{Path, PathBuf};

use ndarray::Ix1;
use ndshm::{ErrorKind, HugePages, Reserve, SharedArray, SharedMemory, spare};
use nix::sys::resource::{Resource, setrlimit};
use reexec::{role, shm_names};

const MIB: usize = 1 << 20;

/// Makes all of `memory` be touched, which would be a kill if it had not been reserved.
fn fill(memory: &SharedMemory) {
    for offset in (0..memory.size()).step_by(1 << 12) {
        memory.write_at(offset, &[7]).unwrap();
    }
}

fn assert_no_space(result: ndshm::Result<SharedMemory>, words: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is missing in: {error}");
    }
}

#[test]
fn a_small_dev_shm_refuses_what_is_too_large_and_keeps_nothing_of_it() {
    if role().is_none() {
        let name = "a_small_dev_shm_refuses_what_is_too_large_and_keeps_nothing_of_it";
        reexec::with_own_shm("size=8m", name, "child");
        return;
    }
    // The process's ledger takes a page; where there is none left for it, there is no block.
    assert_no_space(SharedMemory::create_named("all", 8 * MIB), &["/dev/shm", "owns a block"]);
    assert_eq!(shm_names(), [""; 0]);
    let first = SharedMemory::create_named("first", 6 * MIB - 4096).unwrap();
    for options in [
        SharedMemory::options(),
        SharedMemory::options().huge_pages(HugePages::Try),
        SharedMemory::options().huge_pages(HugePages::Require),
        SharedMemory::options().reserve(Reserve::Lazily).populate(true),
    ] {
        let words = ["no room for 4 MiB", "2 MiB free in /dev/shm", "which holds 8 MiB", "--shm-size", "ask for less"];
        assert_no_space(options.create(4 * MIB), &words);
        assert_no_space(options.create_named("second", 4 * MIB), &words);
    }
    assert_eq!(shm_names(), ["first"]);
    fill(&first);

    // What fits, fits to the last byte; anonymous memory is not limited by it.
    let second = SharedMemory::create(2 * MIB).unwrap();
    fill(&second);
    assert_no_space(SharedMemory::create(1), &["0 bytes free"]);
    fill(&SharedMemory::anonymous(16 * MIB).unwrap());
    drop(first);
    drop(second);
    assert!(SharedMemory::options().reserve(Reserve::Lazily).create(64 * MIB).is_ok(), "nothing is taken");
    assert_eq!(shm_names(), [""; 0]);
}

#[test]
fn a_dev_shm_without_inodes_refuses_too() {
    if role().is_none() {
        reexec::with_own_shm("size=8m,nr_inodes=3", "a_dev_shm_without_inodes_refuses_too", "child");
        return;
    }
    let mut held = Vec::new();
    let error = loop {
        match SharedMemory::create(1) {
            Ok(memory) => held.push(memory),
            Err(error) => break error,
        }
        assert!(held.len() < 4);
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.to_string().contains("inodes"), "{error}");
    assert_eq!(shm_names().len(), held.len());
}

#[test]
fn a_file_size_limit_is_an_error_and_no_signal() {
    if role().is_none() {
        reexec::run("a_file_size_limit_is_an_error_and_no_signal", "child");
        return;
    }
    setrlimit(Resource::RLIMIT_FSIZE, MIB as u64, MIB as u64).unwrap();
    for reserve in [Reserve::Now, Reserve::Lazily] {
        let options = SharedMemory::options().reserve(reserve);
        assert_no_space(options.create(MIB + 1), &["1 MiB free in this process's file size limit", "ulimit -f"]);
        assert_no_space(options.anonymous(MIB + 1), &["ulimit -f"]);
    }
    fill(&SharedMemory::create(MIB).unwrap());
    fill(&SharedMemory::anonymous(MIB).unwrap());
}

#[test]
fn an_address_space_limit_is_an_error() {
    if role().is_none() {
        reexec::run("an_address_space_limit_is_an_error", "child");
        return;
    }
    setrlimit(Resource::RLIMIT_AS, 512 * MIB as u64, 512 * MIB as u64).unwrap();
    for huge_pages in [HugePages::Never, HugePages::Try] {
        let options = SharedMemory::options().reserve(Reserve::Lazily).huge_pages(huge_pages);
        assert_no_space(options.anonymous(600 * MIB), &["ulimit -v"]);
        assert!(options.anonymous(MIB).is_ok());
    }
}

#[test]
fn more_than_the_machine_has_is_refused_at_once() {
    for size in [1 << 46, 1 << 60, isize::MAX as usize - (1 << 12)] {
        assert_no_space(SharedMemory::create(size), &["free in"]);
        assert_no_space(SharedMemory::anonymous(size), &["free in"]);
        let lazily = SharedMemory::options().reserve(Reserve::Lazily).huge_pages(HugePages::Try);
        assert_no_space(lazily.anonymous(size), &[]);
    }
}

/// A control group below this process's own, and one inside it; both go when this does.
struct Group {
    outer: PathBuf,
    inner: PathBuf,
}

impl Group {
    /// `None` where control groups cannot be made.
    fn limited_to(bytes: usize) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = |marker: &str| {
            let line = groups.lines().find(|line| line.contains(marker))?;
            Some(line.splitn(3, ':').nth(2)?.trim_start_matches('/').to_owned())
        };
        let name = format!("ndshm-test-{}-{bytes}", std::process::id());
        let version_1 =
            own(":memory:").map(|path| (Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes"));
        let version_2 = own("0::").map(|path| (Path::new("/sys/fs/cgroup").join(path), "memory.max"));
        version_1.into_iter().chain(version_2).find_map(|(parent, limit)| {
            let outer = parent.join(&name);
            fs::create_dir(&outer).ok()?;
            let group = Self { inner: outer.join("inner"), outer };
            // Where no controller is mounted it is a folder like any other.
            group.outer.join("cgroup.procs").exists().then_some(())?;
            fs::write(group.outer.join(limit), bytes.to_string()).ok()?;
            // Needed in version 2 for the inner group to have figures; a file that is not there in version 1.
            let _ = fs::write(group.outer.join("cgroup.subtree_control"), "+memory");
            fs::create_dir(&group.inner).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group whose last process has just ended takes a moment to become empty.
        for dir in [&self.inner, &self.outer] {
            for _ in 0..100 {
                if fs::remove_dir(dir).is_ok() || !dir.exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

#[test]
fn a_control_group_s_limit_is_an_error_and_no_kill() {
    let name = "a_control_group_s_limit_is_an_error_and_no_kill";
    if role().is_none() {
        let Some(group) = Group::limited_to(96 * MIB) else {
            println!("skipped: no permission to make a control group that limits memory");
            return;
        };
        for dir in [&group.outer, &group.inner] {
            let join = format!("echo $$ > '{}/cgroup.procs'", dir.display());
            // Version 2 does not let processes into a group that has groups; the inner one is what counts there.
            let output = reexec::after(&join, name, "child");
            if dir == &group.outer && String::from_utf8_lossy(&output.stderr).contains("busy") {
                continue;
            }
            reexec::succeeded(&output);
        }
        return;
    }
    let words = ["no room for 256 MiB", "free in the control group", "limited to 96 MiB", "--memory"];
    assert_no_space(SharedMemory::anonymous(256 * MIB), &words);
    assert_no_space(SharedMemory::create(256 * MIB), &words);

    // What is cached from files counts as used, but gives way.
    let cached = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cached-{}", std::process::id()));
    fs::write(&cached, vec![1; 32 * MIB]).unwrap();
    for _ in 0..2 {
        fs::read(&cached).unwrap();
    }
    let memory = SharedMemory::create(48 * MIB);
    fs::remove_file(&cached).unwrap();
    fill(&memory.unwrap());
}

#[test]
fn who_attaches_and_populates_is_refused_what_does_not_fit_and_not_killed() {
    let name = "who_attaches_and_populates_is_refused_what_does_not_fit_and_not_killed";
    if role().is_none() {
        let Some(group) = Group::limited_to(64 * MIB) else {
            println!("skipped: no permission to make a control group that limits memory");
            return;
        };
        let join = format!("echo $$ > '{}/cgroup.procs'", group.inner.display());
        reexec::succeeded(&reexec::after(&join, name, "child"));
        return;
    }
    let populate = SharedMemory::options().populate(true);
    let lazily = SharedMemory::options().reserve(Reserve::Lazily);
    let large = lazily.create(256 * MIB).unwrap();
    large.write_at(0, &vec![7; MIB]).unwrap();
    for read_only in [false, true] {
        let attached = populate.clone().read_only(read_only).attach(large.name().unwrap());
        assert_no_space(attached, &["no room for 255 MiB", "free in the control group", "limited to 64 MiB"]);
    }

    // What is there already needs no room.
    let whole = SharedMemory::create(32 * MIB).unwrap();
    let half = lazily.create(16 * MIB).unwrap();
    for memory in [&whole, &half] {
        fill(&populate.attach(memory.name().unwrap()).unwrap());
    }
}

#[test]
fn what_is_kept_for_reuse_is_given_back_before_anything_is_refused() {
    let name = "what_is_kept_for_reuse_is_given_back_before_anything_is_refused";
    if role().is_none() {
        let Some(group) = Group::limited_to(128 * MIB) else {
            println!("skipped: no permission to make a control group that limits memory");
            return;
        };
        reexec::succeeded(&reexec::after(
            &format!("echo $$ > '{}/cgroup.procs'", group.inner.display()),
            name,
            "child",
        ));
        return;
    }
    drop(SharedArray::<u8, _>::zeros(8 * MIB).unwrap());
    assert!(spare::bytes() > 8 * MIB, "{} bytes are kept", spare::bytes());
    let mut held = Vec::new();
    while spare::bytes() > 0 {
        held.push(SharedMemory::create(4 * MIB).unwrap());
        assert!(held.len() < 128 / 4, "the limit does not hold");
    }
    assert_eq!(SharedMemory::anonymous(64 * MIB).unwrap_err().kind(), ErrorKind::NoSpace);
    held.iter().for_each(fill);

    // Where memory is short, nothing is kept.
    drop(SharedArray::<u8, _>::zeros(2 * MIB).unwrap());
    std::thread::sleep(std::time::Duration::from_millis(150));
    drop(SharedArray::<u8, _>::zeros(2 * MIB - 4096).unwrap());
    assert_eq!(spare::bytes(), 0);
}

#[test]
fn arrays_and_files_that_do_not_fit_are_refused_in_every_way_of_making_them() {
    if role().is_none() {
        let name = "arrays_and_files_that_do_not_fit_are_refused_in_every_way_of_making_them";
        reexec::with_own_shm("size=8m", name, "child");
        return;
    }
    // 16 MiB with nothing in them, so that they fit themselves.
    let sparse = SharedArray::<u8, _>::options().reserve(Reserve::Lazily).name("sparse").zeros(16 * MIB).unwrap();
    let named = || SharedArray::<u8, Ix1>::options().name("large");
    let error: ndshm::Error = named().fill_with(16 * MIB, |_| Ok(())).unwrap_err();
    for error in [
        named().zeros(16 * MIB).unwrap_err(),
        named().from_elem(16 * MIB, 1).unwrap_err(),
        error,
        named().load_npy("/dev/shm/sparse").unwrap_err(),
        SharedArray::<u8, Ix1>::create_npy("/dev/shm/large.npy", 16 * MIB).unwrap_err(),
        SharedArray::<u8, _>::zeros(16 * MIB).unwrap().save_npy("/dev/shm/large.npy").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    }
    assert_eq!(shm_names(), ["sparse"]);
    drop(sparse);
    named().from_elem(4 * MIB, 1).unwrap();
    assert_eq!(shm_names(), [""; 0]);
}

#[test]
fn as_many_addresses_as_a_block_takes_are_enough() {
    // 64 MiB were refused where there was room for 65, since huge pages are aligned in a range 2 MiB longer.
    if role().is_none() {
        reexec::run("as_many_addresses_as_a_block_takes_are_enough", "child");
        return;
    }
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let limit = pages * 4096 + 65 * MIB as u64;
    setrlimit(Resource::RLIMIT_AS, limit, limit).unwrap();
    fill(&SharedMemory::anonymous(64 * MIB).unwrap());
    let named = SharedMemory::create(64 * MIB).unwrap();
    let name = named.name().unwrap().to_owned();
    assert_no_space(SharedMemory::anonymous(64 * MIB), &["addresses", "ulimit -v"]);
    let required = SharedMemory::options().huge_pages(HugePages::Require).anonymous(64 * MIB);
    assert_eq!(required.unwrap_err().kind(), ErrorKind::NoSpace);
    drop(named);
    assert_eq!(SharedMemory::attach(&name).unwrap_err().kind(), ErrorKind::NotFound);
}
