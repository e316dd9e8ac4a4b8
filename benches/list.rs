//! What does a `ShareableList` cost beside a `Vec<Value>` of this process?
//!
//! `cargo bench --bench list` takes about a minute, `cargo bench --bench list -- --quick` a few seconds;
//! `python3 benches/list.py` afterwards runs the same in CPython and prints the ratios.

#![allow(clippy::unwrap_used, reason = "a benchmark has nothing to say without its list")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndshm::{ShareableList, Value};

const SIZES: [usize; 2] = [10, 100_000];

/// Short enough for a slot of one word, and too long for it.
const TEXTS: [(&str, &str); 2] = [("short", "seven c"), ("long", "a text of forty characters, or so it was")];

fn ints(len: usize) -> Vec<Value> {
    (0..).map(Value::Int).take(len).collect()
}

fn get(c: &mut Criterion) {
    let mut group = c.benchmark_group("list_get");
    group.throughput(Throughput::Elements(1));
    for len in SIZES {
        let values = ints(len);
        let list = ShareableList::new(&values).unwrap();
        let mut at = (0..len).cycle();
        group.bench_function(BenchmarkId::new("ndshm", len), |b| b.iter(|| list.get(at.next().unwrap()).unwrap()));
        group.bench_function(BenchmarkId::new("vec", len), |b| {
            b.iter(|| black_box(&values)[at.next().unwrap()].clone());
        });
    }
    for (name, text) in TEXTS {
        let list = ShareableList::new([text; 10]).unwrap();
        let mut at = (0..10).cycle();
        group.bench_function(BenchmarkId::new("ndshm", name), |b| b.iter(|| list.get(at.next().unwrap()).unwrap()));
    }
}

fn set(c: &mut Criterion) {
    let mut group = c.benchmark_group("list_set");
    group.throughput(Throughput::Elements(1));
    for len in SIZES {
        let mut values = ints(len);
        let list = ShareableList::new(&values).unwrap();
        let mut at = (0..len).cycle();
        group.bench_function(BenchmarkId::new("ndshm", len), |b| b.iter(|| list.set(at.next().unwrap(), 7).unwrap()));
        group.bench_function(BenchmarkId::new("vec", len), |b| {
            b.iter(|| black_box(&mut values)[at.next().unwrap()] = Value::from(7));
        });
    }
    let list = ShareableList::new([0; 10]).unwrap();
    let mut values = [Value::from(1), Value::from(2.5)].into_iter().cycle();
    group.bench_function(BenchmarkId::new("ndshm", "other type"), |b| {
        b.iter(|| list.set(3, values.next().unwrap()).unwrap());
    });
    for (name, text) in TEXTS {
        let list = ShareableList::new([text; 10]).unwrap();
        let mut at = (0..10).cycle();
        group.bench_function(BenchmarkId::new("ndshm", name), |b| {
            b.iter(|| list.set(at.next().unwrap(), text).unwrap());
        });
    }
}

fn iterate(c: &mut Criterion) {
    let mut group = c.benchmark_group("list_iterate");
    for len in SIZES {
        group.throughput(Throughput::Elements(len as u64));
        let values = ints(len);
        let list = ShareableList::new(&values).unwrap();
        group.bench_function(BenchmarkId::new("ndshm", len), |b| {
            b.iter(|| list.iter().filter_map(|value| value.unwrap().as_int()).sum::<i64>());
        });
        group.bench_function(BenchmarkId::new("vec", len), |b| {
            b.iter(|| black_box(&values).iter().filter_map(Value::as_int).sum::<i64>());
        });
    }
}

fn create(c: &mut Criterion) {
    let mut group = c.benchmark_group("list_create");
    for len in SIZES {
        group.throughput(Throughput::Elements(len as u64));
        let values = ints(len);
        group.bench_function(BenchmarkId::new("ndshm", len), |b| b.iter(|| ShareableList::new(&values).unwrap()));
        group.bench_function(BenchmarkId::new("vec", len), |b| b.iter(|| black_box(&values).clone()));
    }
}

fn attach(c: &mut Criterion) {
    let mut group = c.benchmark_group("list_attach");
    for len in SIZES {
        group.throughput(Throughput::Elements(len as u64));
        let list = ShareableList::new(ints(len)).unwrap();
        let name = list.shm().name().unwrap().to_owned();
        group.bench_function(BenchmarkId::new("ndshm", len), |b| b.iter(|| ShareableList::attach(&name).unwrap()));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = get, set, iterate, create, attach
}
criterion_main!(benches);
