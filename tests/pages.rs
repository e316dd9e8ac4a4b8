//! What arrays are made of: huge pages where they pay, no more memory than was asked for, none before it is time.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "attaches to blocks")]

use std::fs;
use std::os::fd::AsFd;

use ndarray::Ix1;
use ndshm::{ErrorKind, HugePages, Pool, Reserve, SharedArray, SharedMemory};
use nix::sys::stat::fstat;

ndshm::init_before_main!();

const MIB: usize = 1 << 20;
/// Three huge pages and some small ones, with header and trailer.
const LEN: usize = 7 * MIB;
const HUGE_KIB: usize = 6 << 10;
/// More than is made in one step, and half a huge page.
const LARGE: usize = 71 * MIB;

/// What the kernel says that the process has mapped of the block at `address` by huge pages, in KiB.
fn mapped_huge(address: usize) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{address:x}-");
    let mapping = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let line = mapping.skip(1).find_map(|line| line.strip_prefix("ShmemPmdMapped:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Where the block begins whose elements begin there.
fn block_of(elements: *const u8) -> usize {
    elements.addr() - 4096
}

fn mapped_huge_of(array: &SharedArray<u8, Ix1>) -> usize {
    let guard = array.read().unwrap();
    assert!(guard.iter().step_by(4096).all(|&byte| byte == 0));
    mapped_huge(block_of(guard.as_ptr()))
}

/// Bytes of memory that the block takes, whoever has it mapped.
fn taken(array: &mut SharedArray<u8, Ix1>) -> usize {
    usize::try_from(fstat(array.share_fd().unwrap().as_fd()).unwrap().st_blocks).unwrap() * 512
}

fn no_huge_pages_here() -> bool {
    let required = SharedMemory::options().huge_pages(HugePages::Require).anonymous(LEN);
    let none = required.is_err_and(|error| error.kind() == ErrorKind::Unsupported);
    if none {
        println!("skipped: this machine has no huge pages to give");
    }
    none
}

#[test]
fn a_large_array_is_made_of_huge_pages_and_takes_what_was_asked_for() {
    let name = format!("ndshm-test-{}-pages", std::process::id());
    let named = SharedArray::<u8, _>::options().name(name).zeros(LEN).unwrap();
    let huge = !no_huge_pages_here();
    for mut array in [SharedArray::<u8, _>::zeros(LEN).unwrap(), named] {
        if huge {
            assert_eq!(mapped_huge_of(&array), HUGE_KIB);
        }
        assert_eq!(taken(&mut array), LEN + 2 * 4096);
    }
}

#[test]
fn a_block_that_several_threads_make_is_huge_from_end_to_end_where_that_is_required() {
    if no_huge_pages_here() {
        return;
    }
    let mut array = SharedArray::<u8, _>::options().huge_pages(HugePages::Require).zeros(LARGE).unwrap();
    assert_eq!(mapped_huge_of(&array), 70 << 10);
    assert_eq!(taken(&mut array), LARGE + 2 * 4096);
}

#[test]
fn small_pages_are_to_be_had_and_lazy_memory_is_not_taken() {
    let mut small = SharedArray::<u8, _>::options().huge_pages(HugePages::Never).zeros(LEN).unwrap();
    assert_eq!(mapped_huge_of(&small), 0);
    assert_eq!(taken(&mut small), LEN + 2 * 4096);

    let mut lazy = SharedArray::<u8, _>::options().reserve(Reserve::Lazily).zeros(LEN).unwrap();
    assert!(taken(&mut lazy) < MIB, "{} bytes", taken(&mut lazy));
    lazy.write().unwrap()[5 * MIB] = 1;
    assert!(taken(&mut lazy) < LEN, "{} bytes", taken(&mut lazy));
}

#[test]
fn workers_and_attached_handles_have_the_same_huge_pages() {
    if no_huge_pages_here() {
        return;
    }
    let name = format!("ndshm-test-{}-shared-pages", std::process::id());
    let mut array = SharedArray::<u8, _>::options().name(&name).zeros(LEN).unwrap();
    // SAFETY: nobody writes.
    let attached = unsafe { SharedArray::<u8, Ix1>::attach(&name) }.unwrap();
    assert_eq!(mapped_huge_of(&attached), HUGE_KIB);

    let pool = Pool::builder().workers(1).build().unwrap();
    let mapped = pool.map(&array, |all, _| {
        assert!(all.iter().step_by(4096).all(|&byte| byte == 0));
        mapped_huge(block_of(all.as_ptr()))
    });
    assert_eq!(mapped.unwrap(), [HUGE_KIB]);
    let mapped = pool.map(array.chunks_mut().rows(LEN), |mut all, _| {
        all.fill(1);
        mapped_huge(block_of(all.as_ptr()))
    });
    assert_eq!(mapped.unwrap(), [HUGE_KIB]);
}

/// How much of the block whose elements begin there the process has mapped, in KiB.
fn mapped(elements: *const u8) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-", block_of(elements));
    let mapping = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let line = mapping.skip(1).find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_worker_has_the_rows_that_it_is_going_to_write_mapped_and_no_memory_made_for_them() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let mut lazy = SharedArray::<u8, _>::options().reserve(Reserve::Lazily).zeros(LEN).unwrap();
    let mut small = SharedArray::<u8, _>::options().huge_pages(HugePages::Never).zeros(LEN).unwrap();
    let seen = |array: &mut SharedArray<u8, Ix1>| {
        // The first row of each chunk alone is touched.
        pool.map(array.chunks_mut().rows(MIB), |mut rows, chunk| {
            let before = if chunk.index() == 0 { mapped(rows.as_ptr()) } else { 0 };
            rows[0] = 1;
            before
        })
    };
    assert!(seen(&mut lazy).unwrap()[0] < 64);
    assert!(taken(&mut lazy) < MIB, "{} bytes", taken(&mut lazy));
    let before = seen(&mut small).unwrap()[0];
    assert!(before == 0 || before >= 1024, "{before} KiB: all of the chunk, or nothing where the kernel cannot");
    assert_eq!(small.read().unwrap().iter().map(|&byte| usize::from(byte)).sum::<usize>(), LEN / MIB);
}

#[test]
fn who_attaches_has_all_pages_mapped_if_asked_for_and_else_none_and_takes_no_memory() {
    let name = format!("ndshm-test-{}-attached-pages", std::process::id());
    let options = SharedArray::<u8, _>::options().name(&name);
    let _small = options.clone().huge_pages(HugePages::Never).zeros(LEN).unwrap();
    let mapped_when_attached = |options: ndshm::ArrayOptions<u8, Ix1>, read_only: bool| {
        let attached = if read_only {
            // SAFETY: nobody writes.
            unsafe { options.attach_read_only(&name) }
        } else {
            // SAFETY: nobody writes.
            unsafe { options.attach(&name) }
        };
        let attached = attached.unwrap();
        let elements = attached.read().unwrap().as_ptr();
        mapped(elements)
    };
    for read_only in [false, true] {
        // What the header and the trailer lie in, and what comes with them.
        let plain = mapped_when_attached(SharedArray::options(), read_only);
        assert!(plain < 256, "{plain} KiB");
        let populated = mapped_when_attached(SharedArray::options().populate(true), read_only);
        assert!(
            populated >= LEN >> 10 || populated == plain,
            "{populated} KiB: all, or nothing where the kernel cannot"
        );
    }

    // SAFETY: nobody writes.
    let error = unsafe { SharedArray::<u8, Ix1>::options().name("other").attach(&name) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);

    let name = format!("{name}-lazy");
    let mut lazy = SharedArray::<u8, _>::options().name(&name).reserve(Reserve::Lazily).zeros(LEN).unwrap();
    // SAFETY: nobody else writes.
    let mut attached = unsafe { SharedArray::<u8, Ix1>::attach(&name) }.unwrap();
    attached.write().unwrap()[3 * MIB] = 1;
    assert!(taken(&mut lazy) < MIB, "{} bytes", taken(&mut lazy));
}
