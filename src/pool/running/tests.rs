//! Calls at moments that only this side can bring about.

use ndarray::Ix1;

use super::*;
use crate::SharedArray;
use crate::pool::Chunk;
use crate::pool::args::{Args, Each, Param};
use crate::pool::control::MAX_CALL;
use crate::pool::crew::CrewOptions;
use crate::pool::plan::Plan;
use crate::pool::schedule::Schedule;
use crate::pool::scope::{Scope, Unit};
use crate::pool::task::{Plain, TaskRef};

fn crew(workers: usize) -> Crew {
    Crew::start(CrewOptions { workers, ..CrewOptions::default() }).unwrap()
}

/// A call of a task that takes and returns numbers.
fn asked<'a, A: Args>(crew: &Crew, plan: &'a mut Plan<'_>, task: fn(A::Views<'_>, &Chunk) -> u32) -> Asked<'a> {
    let division = plan.divide(crew.len()).unwrap();
    let task = TaskRef::new::<A, u32, Plain>(task);
    Asked {
        task,
        scope: Scope { division, unit: Unit::Rows, only: None },
        schedule: Schedule::Dynamic,
        blocks: &plan.blocks,
        leaves: &plan.leaves,
        splits: &plan.splits,
    }
}

/// A plan for a call over the items 0 to 5.
fn six<'p>() -> Plan<'p> {
    let items: Vec<u32> = (0..6).collect();
    let mut plan = Plan::new();
    plan.push_items(&items).unwrap();
    plan
}

/// Whose tasks double theirs.
fn doubling<'a>(crew: &Crew, plan: &'a mut Plan<'_>) -> Asked<'a> {
    asked::<Each<'_, u32>>(crew, plan, |item, _| 2 * item)
}

fn stop(crew: &Crew, index: usize) {
    let process = crew.member(index).unwrap().process();
    process.pidfd.kill(libc::SIGSTOP).unwrap();
    let stat = format!("/proc/{}/stat", process.pid);
    while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
        std::thread::yield_now();
    }
}

fn go_on(crew: &Crew, index: usize) {
    crew.member(index).unwrap().process().pidfd.kill(libc::SIGCONT).unwrap();
}

fn results(running: Running<'_>) -> Vec<u32> {
    let settled = running.finish(None).unwrap();
    assert!(settled.failure.is_none() && !settled.cut_short, "{:?}", settled.failure);
    settled.results.decode().unwrap()
}

/// Runs a call in which the second worker draws a ticket and dies before its *current* word says so.
fn lose_a_ticket(crew: &mut Crew) -> Vec<u32> {
    let page = Arc::clone(crew.page());
    stop(crew, 0);
    stop(crew, 1);
    let mut plan = six();
    let doubling = doubling(crew, &mut plan);
    let running = Running::start(crew, &doubling, Limits::default()).unwrap();
    let call = running.round.call;
    assert_eq!(page.draw(1, call, 2, 1), Some(3..4));
    page.clear(1);
    running.crew.member(1).unwrap().process().pidfd.kill(libc::SIGKILL).unwrap();
    go_on(running.crew, 0);
    results(running)
}

#[test]
fn what_went_by_mail_is_kept_no_longer_than_its_call() {
    let mut crew = crew(1);
    let mut plan = Plan::new();
    plan.push_value(&vec![1_u8; 1 << 20]).unwrap();
    let long = asked::<Param<'_, Vec<u8>>>(&crew, &mut plan, |bytes, _| bytes.len().try_into().unwrap());
    let running = Running::start(&mut crew, &long, Limits::default()).unwrap();
    assert_eq!(running.crew.message().leaves.len(), 1);
    assert_eq!(results(running), [1 << 20]);
    assert!(crew.message().leaves.is_empty());
}

#[test]
fn chunks_whose_worker_died_before_it_began_them_run_without_retries() {
    assert_eq!(lose_a_ticket(&mut crew(2)), [0, 2, 4, 6, 8, 10]);
}

/// The call failed: with the numbers it was forgotten what it was about.
#[test]
fn lost_chunks_run_where_call_numbers_begin_again_in_the_middle_of_a_call() {
    let mut crew = crew(2);
    crew.skip_to_call(MAX_CALL - 1);
    assert_eq!(lose_a_ticket(&mut crew), [0, 2, 4, 6, 8, 10]);
}

#[test]
fn a_crew_that_has_used_all_call_numbers_starts_afresh_and_goes_on() {
    let mut crew = crew(2);
    crew.skip_to_call(MAX_CALL - 2);
    let mut calls = Vec::new();
    let mut crews = Vec::new();
    for _ in 0..4 {
        crew.replace_dead().unwrap();
        crews.push(crew.pids());
        let mut plan = six();
        let doubling = doubling(&crew, &mut plan);
        let running = Running::start(&mut crew, &doubling, Limits::default()).unwrap();
        calls.push(running.round.call);
        assert_eq!(results(running), [0, 2, 4, 6, 8, 10]);
    }
    assert_eq!(calls, [MAX_CALL - 1, MAX_CALL, 1, 2]);
    assert!(crews[0] == crews[1] && crews[1] != crews[2] && crews[2] == crews[3], "{crews:?}");
}

/// How often this process has mapped memory that the crate made.
fn mappings() -> u32 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("memfd:ndshm")).count().try_into().unwrap()
}

/// A call whose task tells that.
fn looking<'a>(crew: &Crew, plan: &'a mut Plan<'_>) -> Asked<'a> {
    asked::<()>(crew, plan, |(), _| mappings())
}

fn empty(crew: &mut Crew) -> Vec<u32> {
    let mut plan = Plan::new();
    let looking = looking(crew, &mut plan);
    results(Running::start(crew, &looking, Limits::default()).unwrap())
}

#[test]
fn a_dropped_array_is_unmapped_after_the_call_that_is_announced() {
    let mut crew = crew(1);
    let array = SharedArray::<u8, Ix1>::zeros(1 << 20).unwrap();
    let args = &array;
    let mut with_array = Plan::new();
    args.describe(&mut with_array).unwrap();
    let without = empty(&mut crew);
    let lending = asked::<&SharedArray<u8, Ix1>>(&crew, &mut with_array, |_, _| mappings());
    let with = results(Running::start(&mut crew, &lending, Limits::default()).unwrap());
    assert_eq!((without.len(), with.clone()), (1, vec![without[0] + 1]));

    stop(&crew, 0);
    let serial = array.core().memory().lock().block().serial();
    crew.forget(&mut vec![serial]);
    let mut plan = Plan::new();
    let asked = asked::<()>(&crew, &mut plan, |(), _| mappings());
    let running = Running::start(&mut crew, &asked, Limits::default()).unwrap();
    go_on(running.crew, 0);
    assert_eq!(results(running), with, "the call did not have to wait");
    assert_eq!(empty(&mut crew), without);
}

/// The worker waited for its next call in its task, and went on there.
#[test]
fn a_dropped_array_is_unmapped_while_the_same_calls_go_on() {
    let spin = std::time::Duration::from_secs(60);
    let mut crew = Crew::start(CrewOptions { workers: 1, spin, ..CrewOptions::default() }).unwrap();
    let array = SharedArray::<u8, Ix1>::zeros(1 << 20).unwrap();
    let args = &array;
    let mut with_array = Plan::new();
    args.describe(&mut with_array).unwrap();
    let without = empty(&mut crew);
    let lending = asked::<&SharedArray<u8, Ix1>>(&crew, &mut with_array, |_, _| mappings());
    let with = results(Running::start(&mut crew, &lending, Limits::default()).unwrap());
    assert_eq!(empty(&mut crew), with);

    stop(&crew, 0);
    let serial = array.core().memory().lock().block().serial();
    crew.forget(&mut vec![serial]);
    let mut plan = Plan::new();
    let looking = looking(&crew, &mut plan);
    let running = Running::start(&mut crew, &looking, Limits::default()).unwrap();
    go_on(running.crew, 0);
    assert_eq!(results(running), with, "the call did not have to wait");
    assert_eq!(empty(&mut crew), without);
}
