//! How a pool fits the machine and the program: its size, its workers' threads, CPUs, names and output.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]

mod reexec;
mod workers;

use std::fs::{self, File};
use std::thread;
use std::time::{Duration, Instant};

use ndshm::{Each, ErrorKind, Pool, WorkerOutput};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, raise as raise_signal};
use workers::{PATIENCE, assert_reaped, assert_whole, signal, wait_until_gone, wait_until_replaced};

ndshm::init_before_main!();

/// What this test, run again after that shell script, prints behind `found:`.
fn found(before: &str, test: &str) -> String {
    let output = reexec::succeeded(&reexec::after(before, test, "program"));
    output.lines().find_map(|line| line.split_once("found:")).unwrap().1.trim().to_owned()
}

// Size

#[test]
fn the_number_of_workers_is_the_least_of_affinity_and_slurm() {
    const TEST: &str = "the_number_of_workers_is_the_least_of_affinity_and_slurm";
    if reexec::role().is_some() {
        let pool = Pool::new().unwrap();
        assert_eq!(pool.worker_pids().len(), pool.workers());
        let asked = Pool::builder().workers(3).build().unwrap().workers();
        println!("found: {} {asked}", pool.workers());
        return;
    }
    let all = thread::available_parallelism().unwrap().get();
    assert_eq!(found("unset SLURM_CPUS_PER_TASK", TEST), format!("{all} 3"));
    assert_eq!(found("export SLURM_CPUS_PER_TASK=1", TEST), "1 3");
    assert_eq!(found("export SLURM_CPUS_PER_TASK=100000", TEST), format!("{all} 3"));
    assert_eq!(found("export SLURM_CPUS_PER_TASK=none", TEST), format!("{all} 3"));
    let first = fs::read_to_string("/proc/self/status").unwrap();
    let first = first.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let first = first.split(['-', ',']).next().unwrap();
    assert_eq!(found(&format!("unset SLURM_CPUS_PER_TASK; taskset -pc {first} $$ >&2"), TEST), "1 3");
}

#[test]
fn a_pool_in_a_task_is_as_large_as_the_share_of_its_worker() {
    let pool = Pool::builder().workers(2).threads_per_worker(1).build().unwrap();
    let sizes = pool.map(Each(&[0, 1]), |_, _| {
        let inner = Pool::new().unwrap();
        (inner.workers(), inner.map(Each(&[3, 4]), |item, _| item).unwrap())
    });
    assert_eq!(sizes.unwrap(), [(1, vec![3, 4]), (1, vec![3, 4])]);
}

// Threads

fn threads_of(pool: &Pool) -> [String; 3] {
    let names = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"].map(String::from);
    let values = pool.map(Each(&names), |name, _| std::env::var(name).unwrap_or_else(|_| "none".to_owned()));
    values.unwrap().try_into().unwrap()
}

#[test]
fn thread_pools_in_workers_are_capped_unless_told_otherwise() {
    const TEST: &str = "thread_pools_in_workers_are_capped_unless_told_otherwise";
    if reexec::role().is_none() {
        reexec::succeeded(&reexec::after(
            "unset MKL_NUM_THREADS; export RAYON_NUM_THREADS=1 OMP_NUM_THREADS=500",
            TEST,
            "program",
        ));
        return;
    }
    let all = thread::available_parallelism().unwrap().get();
    let pool = Pool::builder().workers(all).build().unwrap();
    assert_eq!(threads_of(&pool), ["1", "1", "1"]);
    let pool = Pool::builder().workers(1).threads_per_worker(7).build().unwrap();
    assert_eq!(threads_of(&pool), ["7", "7", "7"], "what was asked for goes before what is inherited");
    let pool = Pool::builder().workers(1).env("OMP_NUM_THREADS", "9").env_remove("MKL_NUM_THREADS").build().unwrap();
    assert_eq!(threads_of(&pool), ["1", "9", "none"]);
    let refused = Pool::builder().threads_per_worker(0).build().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}

// Places

fn cpus_of(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
}

#[test]
fn pinned_workers_have_places_of_their_own_and_replacements_take_them_over() {
    let everywhere = cpus_of(std::process::id());
    let loose = Pool::builder().workers(2).build().unwrap();
    assert!(loose.worker_pids().into_iter().all(|pid| cpus_of(pid) == everywhere));

    let pool = Pool::builder().workers(2).pin(true).build().unwrap();
    // A worker takes its place before its first call.
    assert_whole(&pool);
    let before = pool.worker_pids();
    let places: Vec<_> = before.iter().map(|&pid| cpus_of(pid)).collect();
    if thread::available_parallelism().unwrap().get() > 1 {
        assert_ne!(places[0], places[1]);
    }
    signal(before[1], Signal::SIGKILL);
    wait_until_replaced(&pool, &before[1..]);
    assert_whole(&pool);
    let after = pool.worker_pids();
    assert_ne!(after[1], before[1]);
    assert_eq!(after.iter().map(|&pid| cpus_of(pid)).collect::<Vec<_>>(), places);
    assert_eq!(cpus_of(std::process::id()), everywhere);
}

// Names

#[test]
fn workers_are_told_apart_in_a_list_of_processes() {
    let pool = Pool::builder().workers(2).build().unwrap();
    let program = fs::read("/proc/self/cmdline").unwrap();
    let program = program.split(|byte| *byte == 0).next().unwrap().to_owned();
    for (index, pid) in pool.worker_pids().into_iter().enumerate() {
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim(), format!("ndshm worker {index}"));
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        assert_eq!(words[..2], [program.as_slice(), format!("--ndshm-worker={index}").as_bytes()]);
    }
}

// Output

#[test]
fn workers_print_where_they_are_told_to_and_their_replacements_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("printed");
    let errors = dir.path().join("errors");
    let pool = Pool::builder()
        .workers(1)
        .stdout(File::create(&path).unwrap())
        .stderr(File::create(&errors).unwrap())
        .build()
        .unwrap();
    for round in 0..2 {
        pool.for_each(Each(&[round]), |round, _| {
            println!("round {round}");
            eprintln!("error {round}");
        })
        .unwrap();
        let pid = pool.worker_pids()[0];
        let died = pool.for_each((), |(), _| raise_signal(Signal::SIGKILL).unwrap());
        assert_eq!(died.unwrap_err().kind(), ErrorKind::WorkerDied);
        assert_reaped([pid]);
    }
    assert_eq!(fs::read_to_string(path).unwrap(), "round 0\nround 1\n");
    assert_eq!(fs::read_to_string(errors).unwrap(), "error 0\nerror 1\n");
}

#[test]
fn workers_print_where_their_parent_does_or_nowhere() {
    const TEST: &str = "workers_print_where_their_parent_does_or_nowhere";
    if reexec::role().is_none() {
        let output = reexec::after("", TEST, "program");
        let stdout = reexec::succeeded(&output);
        assert!(stdout.contains("to be seen") && !stdout.contains("not for anybody"), "{stdout}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("an error to be seen"));
        return;
    }
    let pool = Pool::builder().workers(1).build().unwrap();
    pool.for_each((), |(), _| {
        println!("to be seen");
        eprintln!("an error to be seen");
    })
    .unwrap();
    let quiet = Pool::builder().workers(1).stdout(WorkerOutput::null()).stderr(WorkerOutput::null()).build().unwrap();
    quiet.for_each((), |(), _| println!("not for anybody")).unwrap();
}

// Limits and namespaces

#[test]
fn a_pool_goes_on_with_the_workers_that_are_left_where_no_more_can_be_started() {
    const TEST: &str = "a_pool_goes_on_with_the_workers_that_are_left_where_no_more_can_be_started";
    if reexec::role().is_none() {
        // The limit does not hold for root.
        let other = if nix::unistd::geteuid().is_root() {
            "exec setpriv --reuid=61234 --regid=61234 --clear-groups -- \"$@\""
        } else {
            ""
        };
        let output = reexec::after(other, TEST, "program");
        if output.status.code() == Some(126) || output.status.code() == Some(127) {
            println!("skipped: another user cannot run this program");
            return;
        }
        reexec::succeeded(&output);
        return;
    }
    let pool = Pool::builder().workers(2).build().unwrap();
    let workers = pool.worker_pids();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NPROC).unwrap();
    setrlimit(Resource::RLIMIT_NPROC, 1, hard).unwrap();
    let outcome = pool.call().retries(1).map(Each(&[workers[0]; 6]), |victim, chunk| {
        if std::process::id() == victim {
            raise_signal(Signal::SIGKILL).unwrap();
        }
        // Leaves a chunk for it.
        wait_until_gone(&[victim]);
        chunk.index()
    });
    assert_eq!(outcome.unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(pool.worker_pids(), workers[1..]);
    // The last one as well: now there is nobody to run anything.
    signal(workers[1], Signal::SIGKILL);
    wait_until_gone(&workers);
    let error = pool.for_each(Each(&[1, 2]), |_, _| ()).unwrap_err();
    // Known to be dead by now, or found dead by the call.
    assert!(error.to_string().contains("Resource temporarily unavailable"), "{error}");
    assert_eq!(error.rows(), std::slice::from_ref(&(0..2)));
    setrlimit(Resource::RLIMIT_NPROC, soft, hard).unwrap();
    pool.for_each((), |(), _| ()).unwrap();
    assert_whole(&pool);
}

#[test]
fn a_pool_works_in_a_process_namespace_of_its_own() {
    const TEST: &str = "a_pool_works_in_a_process_namespace_of_its_own";
    if reexec::role().is_none() {
        let program = std::env::current_exe().unwrap();
        for flags in ["-pf", "-pfm --mount-proc"] {
            let output = std::process::Command::new("unshare")
                .args(flags.split(' '))
                .arg(&program)
                .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
                .env("NDSHM_TEST_ROLE", "program")
                .output()
                .unwrap();
            if String::from_utf8_lossy(&output.stderr).contains("unshare failed") {
                println!("skipped: no permission to make a namespace");
                return;
            }
            reexec::succeeded(&output);
        }
        return;
    }
    let pool = Pool::builder().workers(2).build().unwrap();
    let start = Instant::now();
    let call = pool.call().retries(1).deadline(PATIENCE);
    assert_eq!(call.map(Each(&[1, 2, 3]), |item, _| item * 2).unwrap(), [2, 4, 6]);
    let stuck = pool.call().deadline(Duration::from_millis(20)).for_each((), |(), _| thread::sleep(3 * PATIENCE));
    assert_eq!(stuck.unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(pool.map((), |(), _| 5).unwrap(), [5]);
    assert!(start.elapsed() < PATIENCE);
}
