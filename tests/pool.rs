//! Calls to a pool that succeed: every kind of argument, results in order, settings of a call.

#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the numbers are small")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use ndarray::{Array2, Axis, Ix2, ShapeBuilder, s};
use ndshm::{Each, ErrorKind, Param, Pool, SharedArray};
use serde::{Deserialize, Serialize};

ndshm::init_before_main!();

fn two() -> Pool {
    Pool::builder().workers(2).build().unwrap()
}

#[test]
fn tasks_write_their_own_rows_in_place() {
    let pool = two();
    let mut array = SharedArray::<u64, _>::zeros((100, 7)).unwrap();
    pool.for_each(array.chunks_mut().rows(9), |mut rows, chunk| {
        for (mut row, index) in rows.outer_iter_mut().zip(chunk.rows()) {
            row.fill(index as u64);
        }
    })
    .unwrap();
    let expected = Array2::from_shape_fn((100, 7), |(i, _)| i as u64);
    assert_eq!(*array.read().unwrap(), expected);
}

#[test]
fn results_come_in_chunk_order() {
    let pool = two();
    let array = SharedArray::<i32, _>::from_shape_fn(1000, |i| i as i32).unwrap();
    let firsts = pool.map(array.chunks().rows(1), |rows, chunk| (chunk.index(), rows[0])).unwrap();
    assert_eq!(firsts.len(), 1000);
    assert!(firsts.iter().enumerate().all(|(i, &first)| first == (i, i as i32)));
}

#[test]
fn results_of_every_kind_arrive_as_they_were() {
    #[derive(Serialize, Deserialize, Debug, PartialEq)]
    #[serde(untagged)]
    enum Either {
        Whole(i64),
        Part(f64),
    }

    for pool in [two(), Pool::serial()] {
        let array = SharedArray::<u8, _>::zeros(300).unwrap();
        let rows = || array.chunks().rows(1);
        let numbers = pool.map(rows(), |_, chunk| -1.5 * chunk.index() as f64).unwrap();
        assert!(numbers.iter().enumerate().all(|(i, &number)| number == -1.5 * i as f64));
        let few = pool.map(rows(), |_, chunk| (chunk.index(), chunk.index() % 3 == 0, -7_i8, [0.5_f32; 2])).unwrap();
        assert!(few.iter().enumerate().all(|(i, few)| *few == (i, i % 3 == 0, -7, [0.5; 2])));
        let some = pool.map(rows(), |_, chunk| (chunk.index() % 2 == 0).then(|| chunk.index())).unwrap();
        assert!(some.iter().enumerate().all(|(i, &some)| some == (i % 2 == 0).then_some(i)));
        let texts = pool.map(rows(), |_, chunk| "x".repeat(chunk.index() % 5)).unwrap();
        assert!(texts.iter().enumerate().all(|(i, text)| *text == "x".repeat(i % 5)));
        let either = pool
            .map(rows(), |_, chunk| match chunk.index() {
                whole @ 0..200 => Either::Whole(-(whole as i64)),
                part => Either::Part(part as f64 / 2.0),
            })
            .unwrap();
        assert_eq!((&either[199], &either[299]), (&Either::Whole(-199), &Either::Part(149.5)));
    }
}

/// More than the place that they are written to takes.
#[test]
fn very_many_numbers_arrive() {
    let pool = Pool::builder().workers(1).build().unwrap();
    let array = SharedArray::<u8, _>::zeros(33_500).unwrap();
    let numbers = pool.map(array.chunks().rows(1), |_, chunk| chunk.index()).unwrap();
    assert!(numbers.into_iter().eq(0..33_500));
}

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Options {
    factor: f64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    label: Option<String>,
    #[serde(flatten)]
    more: std::collections::BTreeMap<String, i32>,
}

#[test]
fn all_kinds_of_argument_nest() {
    let pool = two();
    let mut out = SharedArray::<f64, _>::zeros((6, 4)).unwrap();
    let mut counts = SharedArray::<u8, _>::zeros(6).unwrap();
    let src = SharedArray::<f64, _>::from_elem((6, 4), 3.0).unwrap();
    let table = SharedArray::<f64, _>::from_shape_fn((2, 2), |(i, j)| (i + j) as f64).unwrap().freeze().unwrap();
    let options = Options { factor: 2.0, label: None, more: [("a".to_owned(), 7)].into() };
    let names: Vec<String> = (0..6).map(|i| format!("n{i}")).collect();
    let results = pool
        .map(
            (
                (out.chunks_mut(), counts.chunks_mut()),
                [src.chunks()],
                vec![&table],
                (Param(&options), Each(&names)),
                &src,
            ),
            |((mut out, mut counts), [src], tables, (options, name), whole), chunk| {
                out.assign(&(&src * options.factor));
                counts.fill(chunk.index() as u8);
                (name, tables[0].sum() + whole.sum(), options.more["a"])
            },
        )
        .unwrap();
    assert_eq!(results.len(), 6);
    assert_eq!(results[4], ("n4".to_owned(), 4.0 + 72.0, 7));
    assert_eq!(out.read().unwrap().sum(), 144.0);
    assert_eq!(counts.read().unwrap().to_vec(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn arguments_of_different_lengths_go_together_by_chunks() {
    let pool = two();
    let mask = SharedArray::<u8, _>::from_elem((120, 4), 1).unwrap();
    let mut tiles = SharedArray::<u32, _>::zeros((10, 2)).unwrap();
    let rows = pool
        .map((tiles.chunks_mut().rows(1), mask.chunks().rows(12)), |(mut tile, mask), chunk| {
            tile.fill(mask.iter().map(|&m| u32::from(m)).sum());
            chunk.rows()
        })
        .unwrap();
    assert_eq!(rows[9], 9..10);
    assert!(tiles.read().unwrap().iter().all(|&sum| sum == 48));
    let wrong = pool.for_each((tiles.chunks_mut().rows(1), mask.chunks().rows(11)), |_, _| ()).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::ShapeMismatch);
    assert!(wrong.to_string().contains("10 rows by 1 are 10, but 120 rows by 11 are 11"), "{wrong}");

    // Items that lead take their parts of arrays of any length.
    let widths = pool.map((Each(&['a', 'b', 'c', 'd', 'e']), mask.chunks(), tiles.chunks()), |(_, mask, tiles), _| {
        (mask.nrows(), tiles.nrows())
    });
    assert_eq!(widths.unwrap(), [(24, 2); 5]);
}

#[test]
fn arrays_of_different_lengths_are_not_paired_by_chance() {
    let pool = Pool::serial();
    let (short, long) = (SharedArray::<u8, _>::zeros(1000).unwrap(), SharedArray::<u8, _>::zeros(1001).unwrap());
    let same = SharedArray::<u8, _>::zeros(1000).unwrap();
    let refused = |result: ndshm::Result<()>, expected: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ShapeMismatch);
        assert!(error.to_string().contains(expected), "{error}");
    };
    let advice = "have 1000 and 1001 rows; set .rows(n) on both to pair chunks of different sizes";
    refused(pool.for_each((short.chunks(), long.chunks()), |_, _| ()), advice);
    refused(pool.for_each((short.chunks().rows(500), long.chunks()), |_, _| ()), advice);
    refused(pool.for_each((short.chunks(), long.chunks().rows(501)), |_, _| ()), advice);
    refused(pool.for_each((short.chunks(), same.chunks(), long.chunks()), |_, _| ()), advice);
    let advice = "have 1000 rows and 8 items; set .rows(n) on the array";
    refused(pool.for_each((short.chunks(), Each(&[0; 8])), |_, _| ()), advice);

    // Where the call says how, they are; the rows of one are those of all that are as long.
    let sizes = |result: ndshm::Result<Vec<(usize, usize)>>| result.unwrap();
    let both = pool.map((short.chunks().rows(500), long.chunks().rows(501)), |(a, b), _| (a.len(), b.len()));
    assert_eq!(sizes(both), [(500, 501), (500, 500)]);
    let third =
        pool.map((short.chunks(), long.chunks().rows(501), same.chunks().rows(500)), |(a, b, _), _| (a.len(), b.len()));
    assert_eq!(sizes(third), [(500, 501), (500, 500)]);
    let items = pool.map((short.chunks().rows(125), Each(&[0; 8])), |(a, _), chunk| (a.len(), chunk.rows().len()));
    assert_eq!(sizes(items), [(125, 125); 8]);
}

#[test]
fn chunks_run_along_any_axis_in_any_order_of_memory() {
    let pool = two();
    for fortran in [false, true] {
        let mut array = SharedArray::<i16, _>::zeros((5, 30).set_f(fortran)).unwrap();
        let shapes = pool
            .map(array.chunks_mut().axis(Axis(1)).rows(7), |mut columns, chunk| {
                columns.fill(chunk.index() as i16);
                columns.dim()
            })
            .unwrap();
        assert_eq!(shapes, [(5, 7), (5, 7), (5, 7), (5, 7), (5, 2)]);
        let guard = array.read().unwrap();
        assert!(guard.slice(s![.., 28..]).iter().all(|&x| x == 4));
        assert!(guard.slice(s![.., ..7]).iter().all(|&x| x == 0));
    }
    let array = SharedArray::<i16, Ix2>::zeros((5, 30)).unwrap();
    let wrong = pool.for_each(array.chunks().axis(Axis(2)), |_, _| ());
    assert_eq!(wrong.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn one_task_runs_where_nothing_splits_and_none_where_nothing_is() {
    let pool = two();
    assert_eq!(pool.map((), |(), chunk| (chunk.count(), chunk.rows())).unwrap(), [(1, 0..1)]);
    let mut empty = SharedArray::<f32, _>::zeros((0, 5)).unwrap();
    assert_eq!(pool.map(empty.chunks_mut(), |_, _| 1).unwrap(), []);
    assert_eq!(pool.map(Each::<u8>(&[]), |_, _| 1).unwrap(), []);
}

#[test]
fn large_parameters_and_results_arrive_whole() {
    let pool = two();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let back = pool.map((Param(&bytes), Each(&[1_u8, 2, 3])), |(bytes, _), _| bytes).unwrap();
    assert!(back.len() == 3 && back.iter().all(|b| *b == bytes));
}

#[test]
fn progress_counts_up_to_all_rows() {
    let pool = two();
    let array = SharedArray::<u8, _>::zeros(50).unwrap();
    let mut seen = Vec::new();
    pool.call().progress(|p| seen.push(p)).for_each(array.chunks().rows(3), |_, _| ()).unwrap();
    let last = seen.last().unwrap();
    assert_eq!((last.chunks_done, last.chunks, last.rows_done, last.rows), (17, 17, 50, 50));
    assert!(seen.is_sorted_by_key(|p| p.chunks_done));
}

#[test]
fn many_small_chunks_in_many_calls() {
    let pool = two();
    let mut array = SharedArray::<u32, _>::zeros(4096).unwrap();
    for _ in 0..20 {
        pool.for_each(array.chunks_mut().rows(1), |mut one, _| one[0] += 1).unwrap();
    }
    assert!(array.read().unwrap().iter().all(|&n| n == 20));
}
