//! What does it take to hand out many small chunks in one call?
//!
//! The limit is rayon over the same chunks of a `Vec`, with as many threads as the pool has workers.

use criterion::{Criterion, Throughput};
use ndarray::Ix1;
use ndshm::SharedArray;
use rayon::prelude::*;

use crate::{Result, group, measure, pool, threads};

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
    let mut group = group(criterion, "4096 chunks with results", Throughput::Elements(CHUNKS as u64));
    let made = || Ok((threads(WORKERS)?, vec![1_u64; LEN]));
    measure(&mut group, "rayon", made, |bencher, (threads, elements)| {
        bencher.iter(|| {
            let sums: Vec<u64> = threads.install(|| elements.par_chunks(CHUNK_LEN).map(sum).collect());
            assert_eq!((sums.len(), sums[CHUNKS - 1]), (CHUNKS, CHUNK_LEN as u64));
        });
    })?;
    let made = || Ok((pool(WORKERS)?, SharedArray::<u64, Ix1>::from_elem(LEN, 1)?));
    measure(&mut group, "pool", made, |bencher, (pool, array)| {
        bencher.iter(|| {
            let sums = pool.map(array.chunks().rows(CHUNK_LEN), |chunk, _| chunk.as_slice().map_or(0, sum));
            let sums = sums.expect("the workers answer");
            assert_eq!((sums.len(), sums[CHUNKS - 1]), (CHUNKS, CHUNK_LEN as u64));
        });
    })?;
    group.finish();
    Ok(())
}

fn increment(chunk: &mut [u64]) {
    for element in chunk {
        *element += 1;
    }
}

fn sum(chunk: &[u64]) -> u64 {
    chunk.iter().sum()
}
