//! What is measured, and what one would use instead.

use std::hint::black_box;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ndarray::{ArrayView1, Ix1};
use ndshm::{Pool, SharedArray, SharedMemory};

use super::rival::Rival;
use crate::terminal::Terminal;
use crate::text::Bytes;

/// How long ours takes to do something, and others.
pub(super) struct Comparison {
    pub(super) what: String,
    pub(super) ours: Duration,
    pub(super) rivals: Vec<(&'static str, Duration)>,
}

/// How much is put into each measurement.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    runs: usize,
    time: Duration,
}

impl Effort {
    pub(super) const FULL: Self = Self { runs: 7, time: Duration::from_millis(1500) };
    pub(super) const QUICK: Self = Self { runs: 3, time: Duration::from_millis(50) };

    /// The middle one of several runs, after one that does not count.
    fn median(self, mut run: impl FnMut() -> Result<()>) -> Result<Duration> {
        run()?;
        let mut took = Vec::new();
        let begin = Instant::now();
        while took.len() < self.runs || begin.elapsed() < self.time {
            let start = Instant::now();
            run()?;
            took.push(start.elapsed());
        }
        took.sort_unstable();
        Ok(took[took.len() / 2])
    }
}

const SMALL: usize = 4 << 10;

/// All of them, with arrays of `bytes` bytes.
pub(super) fn all(bytes: usize, effort: Effort, terminal: Terminal) -> Result<Vec<Comparison>> {
    type Step = fn(usize, Effort) -> Result<Comparison>;
    let steps: [(usize, Step); 6] = [
        (bytes, handoff),
        (bytes, made_anew),
        (SMALL, handoff),
        (SMALL, made_anew),
        (bytes, create_and_fill),
        (bytes, saxpy),
    ];
    let bar = terminal.steps("measuring", steps.len() as u64);
    room_for(bytes)?;
    let measured = steps.into_iter().map(|(bytes, step)| {
        let comparison = step(bytes, effort);
        bar.inc(1);
        comparison
    });
    let measured = measured.collect();
    bar.finish_and_clear();
    measured
}

/// An array and what it is compared with lie side by side. Plain memory that there is no room for would end the process.
fn room_for(bytes: usize) -> Result<()> {
    let room = SharedMemory::anonymous(bytes.saturating_mul(3));
    room.map(drop).with_context(|| format!("too little memory to measure with arrays of {} MiB", bytes >> 20))
}

pub(super) fn sum(numbers: &[u64]) -> u64 {
    numbers.iter().fold(0, |sum, &number| sum.wrapping_add(number))
}

fn numbers(bytes: usize) -> Vec<u64> {
    (0..(bytes / size_of::<u64>()) as u64).collect()
}

fn worker() -> Result<Pool> {
    Ok(Pool::builder().workers(1).build()?)
}

fn lend(pool: &Pool, array: &SharedArray<u64, Ix1>, expected: u64) -> Result<()> {
    let sums = pool.map((array,), |(numbers,), _| numbers.as_slice().map_or(0, sum))?;
    ensure!(sums == [expected], "a worker added up to {sums:?}, expected {expected}");
    Ok(())
}

/// An array that the worker has seen before.
fn handoff(bytes: usize, effort: Effort) -> Result<Comparison> {
    let message = numbers(bytes);
    let expected = sum(&message);
    let pool = worker()?;
    let array = SharedArray::from_array(&ArrayView1::from(&message))?;
    let ours = effort.median(|| lend(&pool, &array, expected))?;
    let rivals = vec![
        ("pipe of 1 MiB", sent(Rival::at_pipe(bytes)?, &message, effort)?),
        ("socket pair", sent(Rival::at_socket_pair(bytes)?, &message, effort)?),
    ];
    Ok(Comparison { what: format!("hand {} to a worker that reads it", Bytes(bytes as u64)), ours, rivals })
}

/// An array that is made for one message and dropped.
fn made_anew(bytes: usize, effort: Effort) -> Result<Comparison> {
    let message = numbers(bytes);
    let expected = sum(&message);
    let pool = worker()?;
    let ours = effort.median(|| lend(&pool, &SharedArray::from_array(&ArrayView1::from(&message))?, expected))?;
    let rivals = vec![("socket pair", sent(Rival::at_socket_pair(bytes)?, &message, effort)?)];
    Ok(Comparison { what: format!("the same, {} in a new array each time", Bytes(bytes as u64)), ours, rivals })
}

fn sent(mut rival: Rival, message: &[u64], effort: Effort) -> Result<Duration> {
    let expected = sum(message);
    let took = effort.median(|| {
        let answer = rival.hand_over(message)?;
        ensure!(answer == expected, "the other process added up to {answer}, expected {expected}");
        Ok(())
    })?;
    rival.finish()?;
    Ok(took)
}

fn create_and_fill(bytes: usize, effort: Effort) -> Result<Comparison> {
    let len = bytes / size_of::<u64>();
    let ours = effort.median(|| {
        black_box(SharedArray::<u64, Ix1>::from_elem(len, 7)?);
        Ok(())
    })?;
    let vec = effort.median(|| {
        black_box(vec![7_u64; len]);
        Ok(())
    })?;
    let what = format!("create, fill and drop {}", Bytes(bytes as u64));
    Ok(Comparison { what, ours, rivals: vec![("Vec", vec)] })
}

/// In place over warm arrays, by as many workers as threads.
fn saxpy(bytes: usize, effort: Effort) -> Result<Comparison> {
    let len = bytes / size_of::<f64>();
    let pool = Pool::new()?;
    let workers = pool.workers();
    let mut y = SharedArray::<f64, Ix1>::from_elem(len, 1.0)?;
    let x = SharedArray::<f64, Ix1>::from_elem(len, 0.5)?;
    let ours = effort.median(|| {
        let arguments = (y.chunks_mut().rows(rows(len, workers)), x.chunks());
        let done = pool.for_each(arguments, |(mut y, x), _| {
            if let (Some(y), Some(x)) = (y.as_slice_mut(), x.as_slice()) {
                add_scaled(y, x);
            }
        });
        Ok(done?)
    })?;
    drop((y, x));
    let (mut y, x) = (vec![1.0; len], vec![0.5; len]);
    let threads = on_threads(&mut y, &x, workers, effort)?;
    let alone = effort.median(|| {
        add_scaled(&mut y, &x);
        Ok(())
    })?;
    let what = format!("saxpy over {} by {workers} workers", Bytes(bytes as u64));
    Ok(Comparison { what, ours, rivals: vec![("threads, Vec", threads), ("one thread", alone)] })
}

fn rows(len: usize, workers: usize) -> usize {
    len.div_ceil(workers).max(1)
}

fn add_scaled(y: &mut [f64], x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += 0.5 * x;
    }
}

/// Threads that are there before the clock starts, as the pool's workers are.
fn on_threads(y: &mut [f64], x: &[f64], workers: usize, effort: Effort) -> Result<Duration> {
    let rows = rows(y.len(), workers);
    thread::scope(|scope| {
        let (done, each_done) = channel();
        let mut begin = Vec::new();
        for (y, x) in y.chunks_mut(rows).zip(x.chunks(rows)) {
            let (sender, told) = channel::<()>();
            let done = done.clone();
            let run = move || {
                for () in told {
                    add_scaled(y, x);
                    // Nobody listens any more where the measurement has failed.
                    let _ = done.send(());
                }
            };
            thread::Builder::new().spawn_scoped(scope, run).context("cannot start a thread")?;
            begin.push(sender);
        }
        // The threads end when `begin` is dropped.
        effort.median(|| {
            begin.iter().try_for_each(|begin| begin.send(()))?;
            Ok(begin.iter().try_for_each(|_| each_done.recv())?)
        })
    })
}
