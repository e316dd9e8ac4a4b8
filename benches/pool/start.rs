//! What does it take to start a worker?
//!
//! The limit is a program that does nothing, started with `posix_spawn` and waited for. Both from a small parent and from
//! one with a large heap, which must not matter.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

use crate::{Result, group, measure, pool, variable};

pub(crate) fn start(criterion: &mut Criterion) -> Result<()> {
    from(criterion, "start", 0)?;
    let gib = variable("NDSHM_BENCH_HEAP_GIB", 1_usize)?;
    from(criterion, &format!("start from a heap of {gib} GiB"), gib << 30)
}

fn from(criterion: &mut Criterion, name: &str, heap: usize) -> Result<()> {
    let mut group = group(criterion, name, Throughput::Elements(1));
    // Made by whoever is measured first: a filter may leave all of them out.
    let mut touched = None;
    let mut touch = || {
        // Anything but zeros, which would take no memory.
        touched.get_or_insert_with(|| black_box(vec![1_u8; heap]));
        Ok(())
    };
    let program = ["/bin/true", "/usr/bin/true"].into_iter().find(|path| Path::new(path).exists());
    let program = program.ok_or("no program `true` in /bin or /usr/bin")?;

    measure(&mut group, "posix_spawn", &mut touch, |bencher, ()| {
        bencher.iter(|| {
            let status = Command::new(program).status().expect("the program starts");
            assert!(status.success());
        });
    })?;
    measure(&mut group, "worker", &mut touch, |bencher, ()| {
        bencher.iter_custom(|iters| {
            let mut total = Duration::ZERO;
            for _ in 0..iters {
                let start = Instant::now();
                let pool = pool(1);
                total += start.elapsed();
                drop(pool.expect("the worker starts"));
            }
            total
        });
    })?;
    measure(&mut group, "worker and its end", &mut touch, |bencher, ()| {
        bencher.iter(|| drop(pool(1).expect("the worker starts")));
    })?;
    group.finish();
    Ok(())
}
