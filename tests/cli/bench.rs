//! The short benchmark: it measures everything in its fast mode, says what spoils the numbers, and draws.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;

use crate::run;

fn measured(args: &[&str]) -> Value {
    let args = [&["bench", "--quick", "--size", "1", "--json"], args].concat();
    serde_json::from_str(&run(&args).stdout()).expect("it prints JSON")
}

#[test]
fn every_comparison_has_times_for_ours_and_for_what_stands_instead() {
    let found = measured(&[]);
    let comparisons = found["comparisons"].as_array().unwrap();
    let takes_time = |value: &Value| value["seconds"].as_f64().unwrap() > 0.0;
    assert_eq!(comparisons.len(), 6, "{found:#}");
    for comparison in comparisons {
        let instead = comparison["instead"].as_array().unwrap();
        assert!(takes_time(comparison) && !instead.is_empty() && instead.iter().all(takes_time), "{comparison:#}");
    }
    let topics: Vec<_> = found["conditions"].as_array().unwrap().iter().map(|one| &one["topic"]).collect();
    assert_eq!(topics.contains(&&Value::from("build")), cfg!(debug_assertions), "{topics:?}");
}

#[test]
fn who_may_use_one_cpu_only_is_told() {
    let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let first = (0..CpuSet::count()).find(|&cpu| before.is_set(cpu).unwrap()).unwrap();
    let mut one = CpuSet::new();
    one.set(first).unwrap();
    // Of this thread, from which the tool inherits it.
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
    let found = measured(&[]);
    let conditions = found["conditions"].as_array().unwrap();
    let condition = conditions.iter().find(|one| one["topic"] == "CPUs").expect("it is pinned");
    assert!(condition["found"].as_str().unwrap().starts_with("this process may use 1 of "), "{condition}");
}

#[test]
fn the_table_and_the_chart_show_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chart.svg");
    let table = run(&["bench", "--quick", "--size", "1", "--chart", path.to_str().unwrap()]).stdout();
    let lines = table.lines().skip_while(|line| !line.starts_with("WHAT ")).skip(1);
    // What has disturbed the measurement comes after it.
    let rows: Vec<_> = lines.take_while(|line| !line.starts_with("warning ")).collect();
    assert!(rows.iter().all(|row| row.ends_with(" ahead") || row.ends_with(" behind")), "{table}");
    let chart = std::fs::read_to_string(path).unwrap();
    assert_eq!((chart.matches("class=\"bar\"").count(), chart.matches("class=\"ours\"").count()), (rows.len(), 6));
    assert!(chart.starts_with("<svg ") && chart.contains("prefers-color-scheme: dark"));
}

#[test]
fn a_chart_that_cannot_be_written_is_an_error_before_anything_is_measured() {
    let ran = run(&["bench", "--chart", "/nowhere/chart.svg"]);
    assert_eq!(ran.stdout, "");
    assert!(ran.error().contains("cannot write the chart /nowhere/chart.svg"));
}

#[test]
fn what_is_larger_than_memory_is_one_line() {
    let error = run(&["bench", "--quick", "--size", "1048576"]).error();
    assert!(error.contains("1048576 MiB"), "{error}");
}
