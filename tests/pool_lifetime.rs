//! What is left when pools, arrays and programs end, however they end: no process, no memory, no lock too early.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the numbers are small")]
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![allow(clippy::single_range_in_vec_init, reason = "rows that were not finished are a list of ranges")]
#![expect(unsafe_code, reason = "attaching, forking, and init_before_main")]

mod reexec;
mod workers;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ndarray::{ArrayViewMut1, Ix1};
use ndshm::{Chunk, Each, ErrorKind, Param, Pool, SharedArray, SharedMemory};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, raise as raise_signal, signal as signal_action};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use workers::{
    Flags, KillAtEnd, PATIENCE, assert_reaped, assert_whole, is_alive, is_raised, raise, signal, stop, tell, wait_for,
    wait_until_gone, wait_until_stopped,
};

ndshm::init_before_main!();

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

// Pools that end

#[test]
fn a_pool_that_is_dropped_leaves_no_process() {
    let pool = two();
    let pids = pool.worker_pids();
    assert_whole(&pool);
    drop(pool);
    assert_reaped(pids);
}

#[test]
fn a_pool_that_is_dropped_in_a_panic_leaves_no_process() {
    let mut pids = Vec::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let pool = two();
        pids = pool.worker_pids();
        panic!("with a pool at hand");
    }));
    assert!(panicked.is_err());
    assert_eq!(pids.len(), 2);
    assert_reaped(pids);
}

#[test]
fn a_pool_is_dropped_though_a_worker_is_stopped() {
    let pool = two();
    let pids = pool.worker_pids();
    stop(pids[0]);
    drop(pool);
    assert_reaped(pids);
}

// Programs that end

const FLAGS: &str = "NDSHM_TEST_FLAGS";

/// This test once more in a process of its own, which finds the flags with [`flags_here`].
fn start(test: &str, role: &str, flags: &Flags) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("NDSHM_TEST_ROLE", role)
        .env(FLAGS, flags.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn flags_here() -> PathBuf {
    std::env::var_os(FLAGS).unwrap().into()
}

/// As `kill -9` does it: from here on the child is gone, its workers are another matter.
fn kill_hard(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn workers_end_when_the_parent_is_killed_in_the_middle_of_a_task_even_stopped_ones() {
    const TEST: &str = "workers_end_when_the_parent_is_killed_in_the_middle_of_a_task_even_stopped_ones";
    if reexec::role().is_some() {
        let pool = Pool::builder().workers(3).build().unwrap();
        let mut array = SharedArray::<u64, _>::zeros(3).unwrap();
        let _ = pool.for_each((array.chunks_mut().rows(1), Param(&flags_here())), |(mut rows, flags), chunk| {
            tell(&flags, &chunk.index().to_string(), &std::process::id().to_string());
            let start = Instant::now();
            while start.elapsed() < 3 * PATIENCE {
                rows += 1;
            }
        });
        return;
    }
    let flags = Flags::new();
    let parent = start(TEST, "parent", &flags);
    let pids: Vec<u32> = (0..3).map(|chunk| wait_for(&flags.path(), &chunk.to_string()).parse().unwrap()).collect();
    let _end = KillAtEnd(pids.clone());
    stop(pids[1]);
    assert!(pids.iter().all(|&pid| is_alive(pid)));
    let killed = Instant::now();
    kill_hard(parent);
    wait_until_gone(&pids);
    assert!(killed.elapsed() < Duration::from_secs(5), "they took {:?}", killed.elapsed());
}

#[test]
fn idle_workers_end_when_the_parent_is_killed() {
    const TEST: &str = "idle_workers_end_when_the_parent_is_killed";
    if reexec::role().is_some() {
        let pool = two();
        let pids = pool.worker_pids();
        tell(&flags_here(), "pids", &format!("{} {}", pids[0], pids[1]));
        thread::sleep(3 * PATIENCE);
    }
    let flags = Flags::new();
    let parent = start(TEST, "parent", &flags);
    let pids: Vec<u32> = wait_for(&flags.path(), "pids").split(' ').map(|pid| pid.parse().unwrap()).collect();
    let _end = KillAtEnd(pids.clone());
    stop(pids[1]);
    kill_hard(parent);
    wait_until_gone(&pids);
}

// Locks that outlive the parent

/// Would survive its parent, stops, and writes once it is continued.
fn stop_and_write_late((mut rows, flags): (ArrayViewMut1<'_, u32>, PathBuf), _: &Chunk) {
    // As if the kernel took its time to deliver the death of the parent.
    nix::sys::prctl::set_pdeathsig(None).unwrap();
    rows.fill(1);
    tell(&flags, "worker", &std::process::id().to_string());
    raise_signal(Signal::SIGSTOP).unwrap();
    // The parent is gone, and still nobody else has the array.
    rows.fill(2);
    raise(&flags, "wrote late");
    wait_for(&flags, "go");
}

/// What a third process sees of an array whose writer's parent is killed while the writer is stopped.
fn assert_locked_until_the_worker_is_gone(parent: Child, flags: &Flags, mut array: SharedArray<u32, Ix1>) {
    let worker: u32 = wait_for(&flags.path(), "worker").parse().unwrap();
    let _end = KillAtEnd(vec![worker]);
    wait_until_stopped(worker);
    let busy = |array: &mut SharedArray<u32, Ix1>| {
        assert_eq!(array.try_read().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(array.try_write().unwrap_err().kind(), ErrorKind::WouldBlock);
    };
    busy(&mut array);
    kill_hard(parent);
    assert_eq!(array.write_timeout(Duration::from_millis(200)).unwrap_err().kind(), ErrorKind::WouldBlock);
    busy(&mut array);
    assert!(!is_raised(&flags.path(), "wrote late"));
    signal(worker, Signal::SIGCONT);
    wait_for(&flags.path(), "wrote late");
    busy(&mut array);
    raise(&flags.path(), "go");
    // Waits for the lock, and finds what the dead left.
    assert_eq!(array.write_timeout(PATIENCE).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(array.read_timeout(PATIENCE).unwrap_err().kind(), ErrorKind::Poisoned);
    wait_until_gone(&[worker]);
    array.clear_poison().unwrap();
    assert!(array.read().unwrap().iter().all(|&x| x == 2));
}

#[test]
fn a_named_array_stays_locked_until_the_last_worker_of_a_killed_parent_is_gone() {
    const TEST: &str = "a_named_array_stays_locked_until_the_last_worker_of_a_killed_parent_is_gone";
    if reexec::role().is_some() {
        let name = wait_for(&flags_here(), "name");
        let pool = Pool::builder().workers(1).build().unwrap();
        let mut array = SharedArray::<u32, _>::options().name(name).zeros(4).unwrap();
        raise(&flags_here(), "made");
        let _ = pool.for_each((array.chunks_mut().rows(4), Param(&flags_here())), |v, c| stop_and_write_late(v, c));
        return;
    }
    let flags = Flags::new();
    let name = format!("ndshm-test-rule-4-{}", std::process::id());
    tell(&flags.path(), "name", &name);
    let parent = start(TEST, "parent", &flags);
    wait_for(&flags.path(), "made");
    // SAFETY: the two processes write under the array's lock alone.
    let array = unsafe { SharedArray::<u32, Ix1>::attach(&name) };
    SharedMemory::unlink_name(&name).unwrap();
    assert_locked_until_the_worker_is_gone(parent, &flags, array.unwrap());
}

#[test]
fn an_array_that_was_shared_after_workers_had_mapped_it_stays_locked_just_as_long() {
    const TEST: &str = "an_array_that_was_shared_after_workers_had_mapped_it_stays_locked_just_as_long";
    if reexec::role().is_some() {
        let pool = Pool::builder().workers(1).build().unwrap();
        let mut array = SharedArray::<u32, _>::zeros(4).unwrap();
        // Mapped while nobody else can reach it, and no lock of the kernel is needed.
        pool.for_each(array.chunks_mut(), |mut rows, _| rows.fill(0)).unwrap();
        let fd = array.share_fd().unwrap().as_raw_fd();
        tell(&flags_here(), "made", &fd.to_string());
        wait_for(&flags_here(), "attached");
        let _ = pool.for_each((array.chunks_mut().rows(4), Param(&flags_here())), |v, c| stop_and_write_late(v, c));
        return;
    }
    let flags = Flags::new();
    let parent = start(TEST, "parent", &flags);
    let fd = wait_for(&flags.path(), "made");
    let file = File::options().read(true).write(true).open(format!("/proc/{}/fd/{fd}", parent.id())).unwrap();
    // SAFETY: the two processes write under the array's lock alone.
    let array = unsafe { SharedArray::<u32, Ix1>::attach_fd(file.as_fd()) }.unwrap();
    raise(&flags.path(), "attached");
    assert_locked_until_the_worker_is_gone(parent, &flags, array);
}

// Forked children

/// Is there a lock on the file that keeps a writer out?
fn is_locked(path: &Path) -> bool {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut lock = libc::flock { l_type: libc::F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 1 << 62, l_pid: 0 };
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    lock.l_type != libc::F_UNLCK as i16
}

/// Runs `child` in a forked child, which says whether it found what it expected.
fn in_forked_child(child: impl FnOnce()) {
    // SAFETY: the test runs in a process of its own whose other thread only waits for it.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            assert!(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))), "see the child's message");
        }
        ForkResult::Child => {
            let failed = catch_unwind(AssertUnwindSafe(child)).is_err();
            // SAFETY: ends the process, runs nothing of it.
            unsafe { libc::_exit(i32::from(failed)) }
        }
    }
}

#[test]
fn what_a_forked_child_drops_stays_with_its_parent() {
    const TEST: &str = "what_a_forked_child_drops_stays_with_its_parent";
    if reexec::role().is_none() {
        reexec::run(TEST, "alone");
        return;
    }
    let pool = two();
    let pids = pool.worker_pids();
    let name = format!("ndshm-test-fork-{}", std::process::id());
    let path = Path::new("/dev/shm").join(&name);
    let memory_name = format!("{name}-memory");
    let memory = SharedMemory::create_named(&memory_name, 100).unwrap();
    let mut array = SharedArray::<u32, _>::options().name(&name).zeros(40).unwrap();
    let mut quiet = SharedArray::<u32, _>::zeros(40).unwrap();
    pool.for_each((array.chunks_mut(), quiet.chunks_mut()), |(mut a, mut b), _| {
        a += 1;
        b += 1;
    })
    .unwrap();
    let guard = array.write().unwrap();
    // SAFETY: this process's other thread only waits for this one.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            drop(guard);
            drop(array);
            drop(quiet);
            drop(memory);
            drop(pool);
            // SAFETY: ends the process, runs nothing of it.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            assert!(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))));
            assert!(is_locked(&path), "the child unlocked its parent's array");
            drop(guard);
            assert!(!is_locked(&path));
            assert!(path.exists() && Path::new("/dev/shm").join(&memory_name).exists());
            assert!(!array.is_poisoned());
            pool.for_each((array.chunks_mut(), quiet.chunks_mut()), |(mut a, mut b), _| {
                a += 1;
                b += 1;
            })
            .unwrap();
            assert_eq!((array.read().unwrap().sum(), quiet.read().unwrap().sum()), (80, 80));
            assert_eq!(pool.worker_pids(), pids);
            assert_whole(&pool);
        }
    }
}

#[test]
fn a_forked_child_finds_pool_and_arrays_closed() {
    const TEST: &str = "a_forked_child_finds_pool_and_arrays_closed";
    if reexec::role().is_none() {
        reexec::run(TEST, "alone");
        return;
    }
    let pool = two();
    let mut array = SharedArray::<u32, _>::zeros(40).unwrap();
    pool.for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap();
    in_forked_child(|| {
        assert_eq!(pool.for_each((), |(), _| ()).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(pool.for_each(array.chunks_mut(), |_, _| ()).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(Pool::serial().for_each(array.chunks_mut(), |_, _| ()).unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(array.read().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(array.write().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(pool.worker_pids(), [0; 0]);
        // What it makes itself works.
        let own = two();
        let mut fresh = SharedArray::<u32, _>::zeros(40).unwrap();
        own.for_each(fresh.chunks_mut(), |mut rows, _| rows += 1).unwrap();
        assert_eq!(fresh.read().unwrap().sum(), 40);
        let pids = own.worker_pids();
        drop(own);
        assert_reaped(pids);
    });
    assert_eq!(array.read().unwrap().sum(), 40);
    assert_whole(&pool);
}

#[test]
fn a_child_forked_in_a_progress_callback_leaves_the_call_to_its_parent() {
    const TEST: &str = "a_child_forked_in_a_progress_callback_leaves_the_call_to_its_parent";
    // It went on with the call, read the parent's messages from the workers' sockets, and the parent waited for ever.
    if reexec::role().is_none() {
        reexec::run(TEST, "alone");
        return;
    }
    // Parent and child are ended if they wait for ever.
    let end_later = || nix::unistd::alarm::set(20);
    end_later();
    let pool = two();
    let pids = pool.worker_pids();
    let home = std::process::id();
    for panics in [false, true] {
        let mut array = SharedArray::<u32, _>::zeros(40).unwrap();
        let mut child = None;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let fork_once = |_| {
                if child.is_none() {
                    // SAFETY: this process's other thread only waits for this one.
                    match unsafe { fork() }.unwrap() {
                        ForkResult::Parent { child: pid } => child = Some(pid),
                        ForkResult::Child => {
                            end_later();
                            child = Some(nix::unistd::getpid());
                            if panics {
                                std::panic::resume_unwind(Box::new("in the child"));
                            }
                        }
                    }
                }
            };
            pool.call().progress(fork_once).for_each(array.chunks_mut().rows(1), |mut row, _| {
                // Longer than outcomes are kept back, so that each is sent at once.
                thread::sleep(Duration::from_millis(6));
                row += 1;
            })
        }));
        if std::process::id() != home {
            let as_expected = match ended {
                Ok(outcome) => !panics && outcome.unwrap_err().kind() == ErrorKind::Closed,
                Err(_) => panics,
            };
            // SAFETY: ends the process, runs nothing of it.
            unsafe { libc::_exit(i32::from(!as_expected)) }
        }
        ended.unwrap().unwrap();
        assert!(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))));
        assert!(array.read().unwrap().iter().all(|&count| count == 1));
        assert_eq!(pool.worker_pids(), pids);
        assert_whole(&pool);
    }
}

// Surroundings

#[test]
fn where_exit_statuses_are_lost_a_death_is_of_unknown_cause_and_no_hang() {
    const TEST: &str = "where_exit_statuses_are_lost_a_death_is_of_unknown_cause_and_no_hang";
    if reexec::role().is_none() {
        reexec::run(TEST, "alone");
        return;
    }
    // SAFETY: ignoring a signal runs no code.
    unsafe { signal_action(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
    let pool = two();
    let pids = pool.worker_pids();
    let mut array = SharedArray::<u32, _>::zeros(2).unwrap();
    let error = pool.for_each(array.chunks_mut().rows(2), |_, _| raise_signal(Signal::SIGKILL).unwrap()).unwrap_err();
    assert_eq!((error.kind(), error.rows()), (ErrorKind::WorkerDied, [0..2].as_slice()));
    assert!(error.to_string().contains("cause unknown"), "{error}");
    assert!(array.is_poisoned());
    assert_ne!(pool.worker_pids(), pids);
    assert_whole(&pool);
    signal(pool.worker_pids()[0], Signal::SIGKILL);
    pool.for_each((), |(), _| ()).unwrap();
    assert_whole(&pool);
    let pids = pool.worker_pids();
    drop(pool);
    assert_reaped(pids);
}

/// Runs `body` while this process can open only so many more descriptors.
fn with_descriptors_left<R>(left: u64, body: impl FnOnce() -> R) -> R {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // The numbers up to the first free one are taken.
    let first_free = u64::from(File::open("/dev/null").unwrap().as_raw_fd().unsigned_abs());
    setrlimit(Resource::RLIMIT_NOFILE, first_free + left, hard).unwrap();
    let result = body();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    result
}

#[test]
fn a_parent_out_of_descriptors_says_so_and_loses_nothing() {
    const TEST: &str = "a_parent_out_of_descriptors_says_so_and_loses_nothing";
    if reexec::role().is_none() {
        reexec::run(TEST, "alone");
        return;
    }
    let pool = two();
    let mut known = SharedArray::<u32, _>::zeros(40).unwrap();
    pool.for_each(known.chunks_mut(), |mut rows, _| rows += 1).unwrap();
    let mut fresh = SharedArray::<u32, _>::zeros(40).unwrap();
    let pids = pool.worker_pids();

    let error = with_descriptors_left(0, || pool.for_each(fresh.chunks_mut(), |mut rows, _| rows += 1)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
    assert!(!fresh.is_poisoned() && fresh.read().unwrap().sum() == 0);
    // What workers have needs no descriptor any more.
    with_descriptors_left(0, || pool.for_each(known.chunks_mut(), |mut rows, _| rows += 1)).unwrap();
    assert_eq!(with_descriptors_left(0, Pool::new).unwrap_err().raw_os_error(), Some(libc::EMFILE));
    assert_eq!(
        with_descriptors_left(0, || SharedArray::<u32, _>::zeros(4)).unwrap_err().raw_os_error(),
        Some(libc::EMFILE)
    );
    pool.for_each(fresh.chunks_mut(), |mut rows, _| rows += 1).unwrap();
    assert_eq!((known.read().unwrap().sum(), fresh.read().unwrap().sum()), (80, 40));
    assert_eq!(pool.worker_pids(), pids);

    // A worker that cannot be replaced is an error of the call that would need it, and none of the one after it.
    for left in 0..4 {
        let victim = pool.worker_pids()[0];
        signal(victim, Signal::SIGKILL);
        wait_until_gone(&[victim]);
        let outcome = with_descriptors_left(left, || pool.for_each(known.chunks_mut(), |mut rows, _| rows += 1));
        if let Err(error) = outcome {
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{error}");
        }
        assert!(!known.is_poisoned());
        pool.for_each((), |(), _| ()).unwrap();
        assert_whole(&pool);
    }
}

#[test]
fn a_worker_that_a_task_left_without_descriptors_is_replaced_in_the_call_that_needs_one() {
    // A large parameter travels in a file: the call itself was lost where its descriptor was cut off, and nobody answered.
    for len in [0, 100_000] {
        let pool = Pool::builder().workers(1).build().unwrap();
        let pids = pool.worker_pids();
        let mut array = SharedArray::<u32, _>::zeros(40).unwrap();
        pool.for_each((), |(), _| {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
        })
        .unwrap();
        assert_eq!(pool.worker_pids(), pids);
        let values = vec![1_u64; len];
        if len > 0 {
            assert_eq!(pool.map(Param(&values), |values: Vec<u64>, _| values.len()).unwrap(), [len]);
            assert_reaped(pids.clone());
        }
        pool.for_each(array.chunks_mut(), |mut rows, _| rows += 1).unwrap();
        assert_eq!(array.read().unwrap().sum(), 40);
        assert_reaped(pids);
        assert_whole(&pool);
    }
}

#[test]
fn a_result_that_finds_no_descriptor_is_an_error_that_says_so() {
    const TEST: &str = "a_result_that_finds_no_descriptor_is_an_error_that_says_so";
    if reexec::role().is_none() {
        reexec::run(TEST, "alone");
        return;
    }
    let pool = two();
    // Too large for a packet: it travels in a file whose descriptor comes along.
    let large = |len: &usize| pool.map((Each(&[0_u8]), Param(len)), |(_, len), _| "x".repeat(len));
    assert_eq!(large(&1_000_000).unwrap()[0].len(), 1_000_000);
    let error = with_descriptors_left(0, || large(&1_000_000)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.to_string().contains("limit of open files"), "{error}");
    assert_eq!(error.rows(), [0..1]);
    assert_eq!(large(&1_000_000).unwrap()[0].len(), 1_000_000);
    assert_whole(&pool);
}
