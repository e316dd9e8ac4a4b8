//! What does it take to hand out many small chunks in one call?
//!
//! The limit is rayon over the same chunks of a `Vec`, with as many threads as the pool has workers.

use criterion::{Criterion, Throughput};
use ndarray::Ix1;
use ndshm::SharedArray;
use rayon::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Group, Result, group, measure, pool, threads};

const CHUNKS: usize = 4096;
const CHUNK_LEN: usize = (4 << 10) / size_of::<u64>();
const LEN: usize = CHUNKS * CHUNK_LEN;
const WORKERS: usize = 2;

/// Chunks that are changed where they lie.
pub(crate) fn in_place(criterion: &mut Criterion) -> Result<()> {
    changed(criterion, "4096 chunks in place", WORKERS)
}

/// The same where nobody waits for anybody else: what is left is what a chunk costs.
pub(crate) fn in_place_alone(criterion: &mut Criterion) -> Result<()> {
    changed(criterion, "4096 chunks in place, one worker", 1)
}

fn changed(criterion: &mut Criterion, name: &str, workers: usize) -> Result<()> {
    let mut group = group(criterion, name, Throughput::Elements(CHUNKS as u64));
    let made = || Ok((threads(workers)?, vec![0_u64; LEN]));
    measure(&mut group, "rayon", made, |bencher, (threads, elements)| {
        bencher.iter(|| threads.install(|| elements.par_chunks_mut(CHUNK_LEN).for_each(increment)));
    })?;
    let made = || Ok((pool(workers)?, SharedArray::<u64, Ix1>::zeros(LEN)?));
    measure(&mut group, "pool", made, |bencher, (pool, array)| {
        bencher.iter(|| {
            let chunks = array.chunks_mut().rows(CHUNK_LEN);
            pool.for_each(chunks, |mut chunk, _| chunk.as_slice_mut().map_or((), increment))
                .expect("the workers answer");
        });
    })?;
    group.finish();
    Ok(())
}

/// Chunks that are read, each for a result of its own.
pub(crate) fn with_results(criterion: &mut Criterion) -> Result<()> {
    with_results_of::<f64>(criterion, "4096 chunks with results", (CHUNKS, CHUNK_LEN), true)?;
    with_results_of::<Summary>(criterion, "4096 chunks with structs", (CHUNKS, CHUNK_LEN), false)?;
    with_results_of::<String>(criterion, "4096 chunks with strings", (CHUNKS, CHUNK_LEN), false)?;
    with_results_of::<f64>(criterion, "100000 chunks with results", (100_000, 16), true)
}

/// What is asked of each chunk.
trait Asked: Serialize + DeserializeOwned + Send {
    fn of(chunk: &[u64]) -> Self;
}

impl Asked for f64 {
    fn of(chunk: &[u64]) -> Self {
        sum(chunk) as Self
    }
}

#[derive(Serialize, Deserialize)]
struct Summary {
    mean: f64,
    sum: u64,
    len: usize,
}

impl Asked for Summary {
    fn of(chunk: &[u64]) -> Self {
        let sum = sum(chunk);
        Self { mean: sum as f64 / chunk.len() as f64, sum, len: chunk.len() }
    }
}

impl Asked for String {
    fn of(chunk: &[u64]) -> Self {
        format!("the sum is {}", sum(chunk))
    }
}

fn with_results_of<R: Asked>(
    criterion: &mut Criterion,
    name: &str,
    (count, len): (usize, usize),
    by_hand: bool,
) -> Result<()> {
    let mut group = group(criterion, name, Throughput::Elements(count as u64));
    let made = || Ok((threads(WORKERS)?, vec![1_u64; count * len]));
    measure(&mut group, "rayon", made, |bencher, (threads, elements)| {
        bencher.iter(|| {
            let results: Vec<R> = threads.install(|| elements.par_chunks(len).map(R::of).collect());
            assert_eq!(results.len(), count);
            results
        });
    })?;
    let made = || Ok((pool(WORKERS)?, SharedArray::<u64, Ix1>::from_elem(count * len, 1)?));
    measure(&mut group, "pool", made, |bencher, (pool, array)| {
        bencher.iter(|| {
            let results = pool.map(array.chunks().rows(len), |chunk, _| R::of(chunk.as_slice().unwrap_or_default()));
            let results = results.expect("the workers answer");
            assert_eq!(results.len(), count);
            results
        });
    })?;
    if by_hand {
        numbers_by_hand(&mut group, count, len)?;
    }
    group.finish();
    Ok(())
}

/// What is left where nothing comes back but through an array that the caller lends and copies from.
fn numbers_by_hand(group: &mut Group<'_>, count: usize, len: usize) -> Result<()> {
    let made = || {
        let results = SharedArray::<f64, Ix1>::zeros(count)?;
        Ok((pool(WORKERS)?, SharedArray::<u64, Ix1>::from_elem(count * len, 1)?, results))
    };
    measure(group, "pool, numbers into an array", made, |bencher, (pool, array, results)| {
        bencher.iter(|| {
            let chunks = (results.chunks_mut().rows(1), array.chunks().rows(len));
            pool.for_each(chunks, |(mut result, chunk), _| {
                result.fill(f64::of(chunk.as_slice().unwrap_or_default()));
            })
            .expect("the workers answer");
            results.read().expect("nobody has poisoned it").to_vec()
        });
    })
}

fn increment(chunk: &mut [u64]) {
    for element in chunk {
        *element += 1;
    }
}

fn sum(chunk: &[u64]) -> u64 {
    chunk.iter().sum()
}
