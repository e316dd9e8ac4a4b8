//! A worker that dies for lack of memory: the error says so, as far as the kernel tells.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]

mod reexec;
mod workers;

use std::fs;
use std::path::{Path, PathBuf};

use ndshm::{ErrorKind, Param, Pool};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{Signal, raise};
use workers::assert_whole;

ndshm::init_before_main!();

/// Takes that much memory and touches all of it.
fn take(megabytes: usize) -> usize {
    let memory = vec![1_u8; megabytes << 20];
    memory.iter().step_by(4096).map(|&byte| usize::from(byte)).sum()
}

/// A control group of a test's own, with so much memory; `None` where this user may not make one.
struct Group(PathBuf);

impl Group {
    fn make(limit: &str) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = |controller: &str| {
            groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                (fields.next()? == controller).then(|| fields.next())?
            })
        };
        let name = format!("ndshm-test-{}", std::process::id());
        let v1 = own("memory").map(|group| (format!("/sys/fs/cgroup/memory{group}"), "memory.limit_in_bytes"));
        let v2 = own("").map(|group| (format!("/sys/fs/cgroup{group}"), "memory.max"));
        [v1, v2].into_iter().flatten().find_map(|(parent, file)| {
            let dir = Path::new(&parent).join(&name);
            fs::create_dir(&dir).ok()?;
            let group = Self(dir);
            // Where no controller is mounted it is a folder like any other.
            group.0.join("cgroup.procs").exists().then_some(())?;
            fs::write(group.0.join(file), limit).ok()?;
            // Without this, what does not fit goes to disk.
            let _ = fs::write(group.0.join("memory.swap.max"), "0");
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_worker_that_the_kernel_killed_for_lack_of_memory_is_told_from_others() {
    const TEST: &str = "a_worker_that_the_kernel_killed_for_lack_of_memory_is_told_from_others";
    if reexec::role().is_none() {
        let Some(group) = Group::make("100M") else {
            println!("skipped: no permission to make a control group with a limit");
            return;
        };
        let enter = format!("echo $$ > '{}'", group.0.join("cgroup.procs").display());
        reexec::succeeded(&reexec::after(&enter, TEST, "program"));
        return;
    }
    let pool = Pool::builder().workers(1).build().unwrap();
    for _ in 0..2 {
        let killed = pool.for_each((), |(), _| raise(Signal::SIGKILL).unwrap()).unwrap_err().to_string();
        assert!(killed.contains("SIGKILL") && !killed.contains("memory"), "{killed}");
        let error = pool.map((), |(), _| take(300)).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
        assert!(message.contains("(SIGKILL) (probably for lack of memory"), "{message}");
        assert!(message.contains("the control group /sys/fs/cgroup"), "{message}");
    }
    assert_whole(&pool);
}

#[test]
fn a_worker_that_aborted_under_a_limit_of_its_memory_is_told_with_the_limit() {
    const TEST: &str = "a_worker_that_aborted_under_a_limit_of_its_memory_is_told_with_the_limit";
    if reexec::role().is_none() {
        // 1 GiB of addresses.
        reexec::succeeded(&reexec::after("ulimit -v 1048576", TEST, "program"));
        let pool = Pool::builder().workers(1).build().unwrap();
        let aborted = pool.for_each((), |(), _| std::process::abort()).unwrap_err().to_string();
        let limited = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_AS).unwrap().0;
        if limited == nix::sys::resource::RLIM_INFINITY {
            assert!(aborted.contains("(SIGABRT)") && !aborted.contains("memory"), "{aborted}");
        }
        return;
    }
    let pool = Pool::builder().workers(1).build().unwrap();
    let message = pool.map((), |(), _| take(4096)).unwrap_err().to_string();
    assert!(message.contains("SIGABRT") && message.contains("perhaps for lack of memory"), "{message}");
    assert!(message.contains("its address space is limited to 1 GiB (ulimit -v)"), "{message}");
    assert_whole(&pool);
}

#[test]
fn a_limit_of_the_size_of_files_is_an_error_and_no_signal() {
    const TEST: &str = "a_limit_of_the_size_of_files_is_an_error_and_no_signal";
    if reexec::role().is_none() {
        // It ended the program with SIGXFSZ: memory without a name is a file to the kernel.
        reexec::run(TEST, "program");
        return;
    }
    let limit = |bytes| setrlimit(Resource::RLIMIT_FSIZE, bytes, RLIM_INFINITY).unwrap();
    limit(100_000);
    let error = Pool::builder().workers(1).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("ulimit -f"), "{error}");
    limit(2_000_000);
    let pool = Pool::builder().workers(1).build().unwrap();
    let large = vec![1_u8; 3_000_000];
    let error = pool.map(Param(&large), |large, _| large.len()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    let error = pool.map((), |(), _| vec![1_u8; 3_000_000]).unwrap_err();
    assert!(
        error.to_string().contains("its result cannot be handed over") && error.to_string().contains("ulimit -f"),
        "{error}"
    );
    assert_whole(&pool);
}
