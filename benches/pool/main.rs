//! What does a process boundary cost a pool, held against the least that the machine allows?
//!
//! Each group asks one question and has its limits beside it, so that the ratio can be read off; `benches/ratios.py` prints
//! all of them. Everything is warm: processes have run before and pages are in the page tables.
//!
//! | file | question | limit |
//! |---|---|---|
//! | `call.rs` | an empty call, and with it an array of any size | one word passed between two processes |
//! | `chunks.rs` | many small chunks | rayon over the same chunks |
//! | `kernel.rs` | a kernel in place | rayon on a `Vec` |
//! | `start.rs` | starting a worker | `posix_spawn` of `true` |
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `NDSHM_BENCH_KERNEL_MIB` | size of the kernels' array | 128 |
//! | `NDSHM_BENCH_WORKERS` | numbers of workers for the kernels, such as `1,2,4,8,16` | 2 |
//! | `NDSHM_BENCH_HEAP_GIB` | what the parent has touched that starts workers from a large heap | 1 |

mod call;
mod chunks;
mod kernel;
mod peer;
mod place;
mod start;

use std::error::Error;
use std::ffi::OsStr;
use std::str::FromStr;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{Bencher, BenchmarkGroup, Criterion, SamplingMode, Throughput};
use ndshm::Pool;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;
type Group<'c> = BenchmarkGroup<'c, WallTime>;

fn main() -> Result<()> {
    ndshm::init();
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(peer::ARGUMENT) {
        return peer::answer(&arguments.collect::<Vec<_>>());
    }
    let mut criterion = Criterion::default()
        // Drawing takes longer than measuring.
        .without_plots()
        // Many short samples: other work on the machine spares some of them, and `ratios.py` looks at the fastest, too.
        .sample_size(100)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    call::calls(&mut criterion)?;
    chunks::in_place(&mut criterion)?;
    chunks::with_results(&mut criterion)?;
    kernel::kernels(&mut criterion)?;
    start::start(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

/// A group in which every sample has the same number of iterations, so that all of them are short.
fn group<'c>(criterion: &'c mut Criterion, name: &str, throughput: Throughput) -> Group<'c> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat).throughput(throughput);
    group
}

/// Measures what `run` does with a subject that is made when it is first needed and dropped right after: what a filter
/// leaves out costs nothing, and no process is about that is not measured.
fn measure<S>(
    group: &mut Group<'_>,
    name: &str,
    make: impl FnOnce() -> Result<S>,
    mut run: impl FnMut(&mut Bencher<'_>, &mut S),
) -> Result<()> {
    let mut make = Some(make);
    let mut subject = None;
    let mut failure = None;
    group.bench_function(name, |bencher| {
        if let Some(make) = make.take() {
            match make() {
                Ok(new) => subject = Some(new),
                Err(error) => failure = Some(error),
            }
        }
        match &mut subject {
            Some(subject) => run(bencher, subject),
            // Criterion has no way to give up on a function.
            None => bencher.iter(|| ()),
        }
    });
    failure.map_or(Ok(()), |error| Err(format!("{name}: {error}").into()))
}

/// Settings that a pool gets to be measured with belong here.
fn pool(workers: usize) -> Result<Pool> {
    Ok(Pool::builder().workers(workers).build()?)
}

/// The same number of threads beside the caller as the pool has processes.
fn threads(threads: usize) -> Result<rayon::ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?)
}

fn variable<T: FromStr>(name: impl AsRef<OsStr>, default: T) -> Result<T> {
    let name = name.as_ref();
    let Some(value) = std::env::var_os(name) else { return Ok(default) };
    let parsed = value.to_str().and_then(|value| value.parse().ok());
    parsed.ok_or_else(|| format!("{} = {} is not what it can be", name.display(), value.display()).into())
}
