//! What do four common kernels take in a pool over shared arrays?
//!
//! The limit is rayon over `Vec`s of the same size, cut into the same chunks, with as many threads as the pool has workers;
//! beside it stands one thread. `benches/compute.py` adds Python's process pool with NumPy over shared memory. Everything is
//! warm: pages are mapped and processes have run before.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `NDSHM_BENCH_COMPUTE_MIB` | size of each array | 64 |
//! | `NDSHM_BENCH_WORKERS` | number of threads and of worker processes | one for each CPU |

#[path = "../common/mod.rs"]
mod common;
mod kernels;
#[path = "../peer/mod.rs"]
mod peer;

use std::thread::available_parallelism;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use ndarray::{ArrayView2, ArrayViewMut2, Ix2};
use ndshm::{Chunk, Pool, SharedArray};
use rayon::prelude::*;

use common::{Group, Result, measure, pool, threads, variable};
use kernels::{COLUMNS, Kernel, Reduction, Saxpy, Sort, Stencil};

fn main() -> Result<()> {
    let criterion = Criterion::default()
        .sample_size(20)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1));
    let no_peers = |kind: &str, _: &[&str]| Err(format!("no peer is called {kind}").into());
    common::run(criterion, no_peers, |criterion| {
        let machine = Machine {
            rows: (variable("NDSHM_BENCH_COMPUTE_MIB", 64_usize)? << 20) / (COLUMNS * size_of::<f64>()),
            workers: variable("NDSHM_BENCH_WORKERS", available_parallelism().map_or(1, usize::from))?,
        };
        compare::<Saxpy>(criterion, machine)?;
        compare::<Stencil>(criterion, machine)?;
        compare::<Reduction>(criterion, machine)?;
        compare::<Sort>(criterion, machine)
    })
}

type Array = SharedArray<f64, Ix2>;

/// Rows of a chunk: 1 MiB of each array.
const CHUNK_ROWS: usize = (1 << 20) / (COLUMNS * size_of::<f64>());

#[derive(Clone, Copy)]
struct Machine {
    rows: usize,
    workers: usize,
}

fn compare<K: Kernel>(criterion: &mut Criterion, Machine { rows, workers }: Machine) -> Result<()> {
    let bytes = rows * COLUMNS * size_of::<f64>();
    let mut group = common::group(criterion, K::NAME, Throughput::Bytes(bytes as u64));
    let vectors = || Vectors { out: vec![1.0; rows * COLUMNS], source: source(rows) };
    measure(
        &mut group,
        "one thread",
        || Ok(vectors()),
        |bencher, Vectors { out, source }| {
            bencher.iter(|| {
                let chunks = out.chunks_mut(CHUNK_ROWS * COLUMNS).enumerate();
                chunks.map(|(index, out)| K::run(out, source, index * CHUNK_ROWS)).sum::<f64>()
            });
        },
    )?;
    measure(
        &mut group,
        "rayon",
        || Ok((threads(workers)?, vectors())),
        |bencher, (threads, vectors)| {
            let Vectors { out, source } = vectors;
            bencher.iter(|| {
                threads.install(|| {
                    let chunks = out.par_chunks_mut(CHUNK_ROWS * COLUMNS).enumerate();
                    chunks.map(|(index, out)| K::run(out, source, index * CHUNK_ROWS)).sum::<f64>()
                })
            });
        },
    )?;
    in_pool::<K>(&mut group, "pool", rows, workers)?;
    group.finish();
    Ok(())
}

struct Vectors {
    out: Vec<f64>,
    source: Vec<f64>,
}

/// Numbers without order, the same every time.
fn source(rows: usize) -> Vec<f64> {
    let mut state = 1_u64;
    let mut next = || {
        // Knuth's linear congruential generator; the high bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..rows * COLUMNS).map(|_| next()).collect()
}

fn in_pool<K: Kernel>(group: &mut Group<'_>, name: &str, rows: usize, workers: usize) -> Result<()> {
    let made = || {
        let numbers = ndarray::Array2::from_shape_vec((rows, COLUMNS), source(rows))?;
        Ok((pool(workers)?, Array::from_elem((rows, COLUMNS), 1.0)?, Array::from_array(&numbers)?))
    };
    measure(group, name, made, |bencher, (pool, out, source): &mut (Pool, Array, Array)| {
        bencher.iter(|| {
            let sums = pool.map((out.chunks_mut().rows(CHUNK_ROWS), &*source), |views, chunk| task::<K>(views, chunk));
            sums.expect("the workers answer").into_iter().sum::<f64>()
        });
    })
}

fn task<K: Kernel>((mut out, source): (ArrayViewMut2<'_, f64>, ArrayView2<'_, f64>), chunk: &Chunk) -> f64 {
    match (out.as_slice_mut(), source.as_slice()) {
        (Some(out), Some(source)) => K::run(out, source, chunk.rows().start),
        _ => f64::NAN,
    }
}
