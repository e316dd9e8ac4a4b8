//! What does a kernel over a warm array lose to threads when it runs in worker processes?
//!
//! The limit is rayon with as many threads on a `Vec` of the same size, cut into the same chunks; with small pages against a
//! `Vec` as it comes, and with huge ones, which shared arrays have unless they are told otherwise, against memory of this
//! process that the kernel was advised to give them, too.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use memmap2::{Advice, MmapMut};
use ndarray::Ix1;
use ndshm::{HugePages, SharedArray};
use nix::sched::sched_getaffinity;
use rayon::prelude::*;

use crate::common::processors::{processors, this_thread};
use crate::{Result, group, measure, pool, threads, variable};

/// Elements of a chunk: 4 MiB, which no processor's own cache holds.
const CHUNK_LEN: usize = (4 << 20) / size_of::<f64>();

/// Steps for each element in the kernel bound by arithmetic, enough for memory not to matter.
const STEPS: usize = 32;

pub(crate) fn kernels(criterion: &mut Criterion) -> Result<()> {
    let len = (variable("NDSHM_BENCH_KERNEL_MIB", 128_usize)? << 20) / size_of::<f64>();
    let workers = variable("NDSHM_BENCH_WORKERS", default_workers()?)?;
    for workers in workers.split(',') {
        let workers = workers.trim().parse().map_err(|_| format!("NDSHM_BENCH_WORKERS: {workers} is no number"))?;
        compare::<Memory>(criterion, len, workers)?;
        compare::<Arithmetic>(criterion, len, workers)?;
    }
    Ok(())
}

/// Powers of two below the number of processors that this process may use, and that number.
fn default_workers() -> Result<String> {
    let processors = processors(&sched_getaffinity(this_thread())?)?.len();
    let powers = (0..).map(|power| 1 << power).take_while(|&power| power < processors);
    let numbers: Vec<_> = powers.chain([processors]).map(|number| number.to_string()).collect();
    Ok(numbers.join(","))
}

/// A task captures nothing: what it is to do comes in as a type.
trait Kernel {
    const BOUND_BY: &str;

    fn run(elements: &mut [f64]);
}

struct Memory;

impl Kernel for Memory {
    const BOUND_BY: &str = "memory";

    // Compiled once, so that threads and workers run the same code.
    #[inline(never)]
    fn run(elements: &mut [f64]) {
        for element in elements {
            *element += 1.0;
        }
    }
}

struct Arithmetic;

impl Kernel for Arithmetic {
    const BOUND_BY: &str = "arithmetic";

    #[inline(never)]
    fn run(elements: &mut [f64]) {
        for element in elements {
            // Stays near 2: neither infinite nor subnormal.
            *element = (0..STEPS).fold(*element, |x, _| x * 0.5 + 1.0);
        }
    }
}

fn compare<K: Kernel>(criterion: &mut Criterion, len: usize, workers: usize) -> Result<()> {
    let name = format!("kernel bound by {}, {workers} workers", K::BOUND_BY);
    let mut group = group(criterion, &name, Throughput::Bytes((len * size_of::<f64>()) as u64));
    // Iterations are long, and chunks go to workers as it happens: it takes several for each of them to have every page.
    group.sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));

    let made = || Ok((threads(workers)?, vec![1.0; len]));
    measure(&mut group, "rayon", made, |bencher, (threads, elements)| {
        bencher.iter(|| threads.install(|| elements.par_chunks_mut(CHUNK_LEN).for_each(K::run)));
    })?;
    let made = || {
        let map = MmapMut::map_anon(len * size_of::<f64>())?;
        // Before it is touched. Where the kernel has none, it says so, or gives small ones: that is what there is.
        let _ = map.advise(Advice::HugePage);
        let mut advised = Advised(map);
        advised.elements().fill(1.0);
        Ok((threads(workers)?, advised))
    };
    measure(&mut group, "rayon, huge pages", made, |bencher, (threads, advised)| {
        bencher.iter(|| threads.install(|| advised.elements().par_chunks_mut(CHUNK_LEN).for_each(K::run)));
    })?;
    // Tells what is due to the memory from what is due to the processes.
    let made = || Ok((threads(workers)?, SharedArray::<f64, Ix1>::from_elem(len, 1.0)?));
    measure(&mut group, "rayon, shared array", made, |bencher, (threads, array)| {
        bencher.iter(|| {
            let mut elements = array.write().expect("nobody else has it");
            let elements = elements.as_slice_mut().unwrap_or_default();
            threads.install(|| elements.par_chunks_mut(CHUNK_LEN).for_each(K::run));
        });
    })?;
    for (name, pages) in [("pool", HugePages::default()), ("pool, small pages", HugePages::Never)] {
        let made = || {
            let array = SharedArray::<f64, Ix1>::options().huge_pages(pages).from_elem(len, 1.0)?;
            Ok((pool(workers)?, array))
        };
        measure(&mut group, name, made, |bencher, (pool, array)| {
            bencher.iter(|| {
                let chunks = array.chunks_mut().rows(CHUNK_LEN);
                let done = pool.for_each(chunks, |mut chunk, _| chunk.as_slice_mut().map_or((), K::run));
                done.expect("the workers answer");
            });
        })?;
    }
    group.finish();
    Ok(())
}

/// Memory of this process alone.
struct Advised(MmapMut);

impl Advised {
    fn elements(&mut self) -> &mut [f64] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
