//! What the benchmarks share: how one is run, and how something is measured that costs a lot to make.
#![allow(dead_code, reason = "not every benchmark uses all of it")]

pub(crate) mod processors;

use std::error::Error;
use std::ffi::OsStr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{Bencher, BenchmarkGroup, Criterion, SamplingMode, Throughput};
use ndshm::Pool;

use crate::peer;

pub(crate) type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;
pub(crate) type Group<'c> = BenchmarkGroup<'c, WallTime>;

/// A benchmark's `main`: this program is also what its pools' workers are, and its peers, which are told by `answer` what
/// their kind does with its arguments.
pub(crate) fn run(
    criterion: Criterion,
    answer: impl FnOnce(&str, &[&str]) -> Result<()>,
    measure: impl FnOnce(&mut Criterion) -> Result<()>,
) -> Result<()> {
    if was_peer(answer)? {
        return Ok(());
    }
    // Drawing takes longer than measuring.
    let mut criterion = criterion.without_plots().configure_from_args();
    measure(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

/// Early in `main`: this program is also what its pools' workers are, and its peers. Did it answer as one of these?
pub(crate) fn was_peer(answer: impl FnOnce(&str, &[&str]) -> Result<()>) -> Result<bool> {
    ndshm::init();
    let Some(role) = peer::role()? else { return Ok(false) };
    let arguments: Vec<_> = role.arguments.iter().map(String::as_str).collect();
    answer(&role.kind, &arguments)?;
    Ok(true)
}

/// A group in which every sample has the same number of iterations, so that all of them are short.
pub(crate) fn group<'c>(criterion: &'c mut Criterion, name: &str, throughput: Throughput) -> Group<'c> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat).throughput(throughput);
    group
}

/// Measures what `run` does with a subject that is made when it is first needed and dropped right after: what a filter
/// leaves out costs nothing, and no process is about that is not measured.
pub(crate) fn measure<S>(
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

/// A pool as a program gets it that sets nothing but its size.
pub(crate) fn pool(workers: usize) -> Result<Pool> {
    Ok(Pool::builder().workers(workers).build()?)
}

/// The same number of threads beside the caller as such a pool has processes.
pub(crate) fn threads(threads: usize) -> Result<rayon::ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?)
}

/// What `iters` runs say that they took, for those of which only a part counts.
pub(crate) fn total(iters: u64, mut run: impl FnMut() -> Duration) -> Duration {
    (0..iters).map(|_| run()).sum()
}

/// How long `run` takes, and what it makes, to be dropped by the caller when the clock has stopped.
pub(crate) fn timed<R>(run: impl FnOnce() -> R) -> (Duration, R) {
    let start = Instant::now();
    let made = run();
    (start.elapsed(), made)
}

/// The value of an environment variable, with which whoever measures can ask for more than the default.
pub(crate) fn variable<T: FromStr>(name: impl AsRef<OsStr>, default: T) -> Result<T> {
    let name = name.as_ref();
    let Some(value) = std::env::var_os(name) else { return Ok(default) };
    let parsed = value.to_str().and_then(|value| value.parse().ok());
    parsed.ok_or_else(|| format!("{} = {} is not what it can be", name.display(), value.display()).into())
}

/// Bytes as people say them; a power of two, at least one KiB.
pub(crate) fn size_name(bytes: usize) -> String {
    [(30, "GiB"), (20, "MiB")]
        .into_iter()
        .find(|(shift, _)| bytes >> shift > 0)
        .map_or_else(|| format!("{} KiB", bytes >> 10), |(shift, unit)| format!("{} {unit}", bytes >> shift))
}
