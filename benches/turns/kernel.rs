//! What does a kernel over a warm array lose to threads when it runs in worker processes?
//!
//! The limit is rayon with as many threads on a `Vec` of the same size, cut into the same chunks; with small pages against a
//! `Vec` as it comes, and with huge ones, which shared arrays have unless they are told otherwise, against memory of this
//! process that the kernel was advised to give them, too.

use std::rc::Rc;
use std::time::Duration;

use memmap2::{Advice, MmapMut};
use ndarray::Ix1;
use ndshm::{HugePages, SharedArray};
use nix::sched::sched_getaffinity;
use rayon::ThreadPool;
use rayon::prelude::*;

use super::subject::{Group, Subject, Turns};
use crate::common::processors::{processors, this_thread};
use crate::common::{Result, pool, threads, variable};
use crate::place::Place;

/// Elements of a chunk: 4 MiB, which no processor's own cache holds.
const CHUNK_LEN: usize = (4 << 20) / size_of::<f64>();

/// Steps for each element in the kernel bound by arithmetic, enough for memory not to matter.
const STEPS: usize = 32;

pub(crate) fn kernels(is_test: bool) -> Result<Vec<Group>> {
    let mib: usize = variable("NDSHM_BENCH_KERNEL_MIB", if is_test { 16 } else { 512 })?;
    let len = (mib << 20) / size_of::<f64>();
    let workers = variable("NDSHM_BENCH_WORKERS", default_workers()?)?;
    let mut groups = Vec::new();
    for workers in workers.split(',') {
        let workers = workers.trim().parse().map_err(|_| format!("NDSHM_BENCH_WORKERS: {workers} is no number"))?;
        groups.push(group::<Memory>(len, workers)?);
        groups.push(group::<Arithmetic>(len, workers)?);
    }
    Ok(groups)
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

fn group<K: Kernel>(len: usize, workers: usize) -> Result<Group> {
    let name = format!("kernel bound by {}, {workers} workers", K::BOUND_BY);
    let turns = Turns { calls: 1, warm: 1, rounds: variable("NDSHM_BENCH_ROUNDS", 60)?, time: Duration::from_secs(15) };
    Ok(Group::new(name, turns, move || Ok((subjects::<K>(len, workers)?, Place::Anywhere.put(std::process::id())?))))
}

fn subjects<K: Kernel>(len: usize, workers: usize) -> Result<Vec<Subject>> {
    let (threads, mut elements) = (Rc::new(threads(workers)?), vec![1.0; len]);
    let mut subjects = vec![by_threads::<K>("rayon", &threads, move |run| run(&mut elements))];

    let map = MmapMut::map_anon(len * size_of::<f64>())?;
    // Before it is touched. Where the kernel has none, it says so, or gives small ones: that is what there is.
    let _ = map.advise(Advice::HugePage);
    let mut advised = Advised(map);
    advised.elements().fill(1.0);
    subjects.push(by_threads::<K>("rayon, huge pages", &threads, move |run| run(advised.elements())));

    // Tells what is due to the memory from what is due to the processes.
    let mut array = SharedArray::<f64, Ix1>::from_elem(len, 1.0)?;
    subjects.push(by_threads::<K>("rayon, shared array", &threads, move |run| {
        let mut elements = array.write().expect("nobody else has it");
        run(elements.as_slice_mut().unwrap_or_default());
    }));

    for (name, pages) in [("pool", HugePages::default()), ("pool, small pages", HugePages::Never)] {
        let mut array = SharedArray::<f64, Ix1>::options().huge_pages(pages).from_elem(len, 1.0)?;
        let pool = pool(workers)?;
        subjects.push(Subject::new(name, move || {
            let chunks = array.chunks_mut().rows(CHUNK_LEN);
            Ok(pool.for_each(chunks, |mut chunk, _| chunk.as_slice_mut().map_or((), K::run))?)
        }));
    }
    Ok(subjects)
}

/// The kernel over elements that `of` gives to what it is given.
fn by_threads<K: Kernel>(
    name: &str,
    threads: &Rc<ThreadPool>,
    mut of: impl FnMut(&mut dyn FnMut(&mut [f64])) + 'static,
) -> Subject {
    let threads = Rc::clone(threads);
    Subject::new(name, move || {
        of(&mut |elements| threads.install(|| elements.par_chunks_mut(CHUNK_LEN).for_each(K::run)));
        Ok(())
    })
}

/// Memory of this process alone.
struct Advised(MmapMut);

impl Advised {
    fn elements(&mut self) -> &mut [f64] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
