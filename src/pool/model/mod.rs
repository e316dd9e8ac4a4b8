//! The pool's protocol under a model checker: how parent and workers use the [control page](super::control), whatever the
//! order of their steps, and whoever dies at whichever of them.
//!
//! | file | idea |
//! |---|---|
//! | `memory` | a page of the checker's memory, and futexes on it |
//! | `life` | the steps of a process, and its death between two of them |
//! | `machine` | processes, the news of their ends, a clock |
//! | `stage` | what tasks do, and what is expected of calls |
//! | `scenario` | what is looked at: workers, calls, deaths, bounds |
//! | `trace` | what happened, where a check has failed |
//!
//! # What runs
//!
//! The pool's own code, over another [`System`](super::system::System): `control` with its words and records, `crew`,
//! `smooth`, `running` and `tally` as the parent, `worker` with its messages and tasks as the workers, which are threads of
//! [loom](https://docs.rs/loom). It runs every scenario again and again until it has seen every execution: every order of
//! steps that matters with so many preemptions at most, and every older value that a load may still return by the
//! orderings of the C++ memory model.
//!
//! # What is imitated
//!
//! - A futex: a sleeper compares and sleeps in one step, and is woken by a wake alone. No timeout ever ends, so a wake-up that
//!   is lost is a deadlock, which the checker reports. Nobody spins.
//! - A death by `kill -9`: the thread takes no more steps. What unwinds then touches nothing shared, which is checked. Its
//!   end can be seen by the parent from then on, after everything that it did; some time later the parent has news and is
//!   rung, as the thread that watches does. The next worker in its place lives in the same thread of the checker.
//! - Descriptions and outcomes are bytes that the checker is told of: a use that no ordering keeps apart from another's is
//!   found, and so is one of a row (below). The areas are small, so that what does not fit is seen too.
//! - Sockets are real ones. A message is there as soon as it is sent; nobody has to wait for room.
//! - The parent's calls are those of `call`, without arrays, locks and cancelling.
//!
//! # What is expected
//!
//! - Every chunk's outcome arrives once, in calls that end well and in those that fail, and is that chunk's.
//! - A row belongs to the task of its chunk, and to the caller between calls. So no chunk is run by two workers at a time, a
//!   late worker takes nothing from the next call, a call is settled only when every participant has finished or was
//!   reaped, and a lost chunk runs again only after that.
//! - Without a death every chunk runs once; with retries no more often than the call allows, and fewer deaths than that end
//!   no call. A call that fails names what was run by the dead; a chunk that was taken and not begun runs anyway.
//! - The next call works.
//! - No description is read while it is written, nobody waits for ever, and the pool ends.
//!
//! # Bounds
//!
//! One or two workers, up to three chunks a call and three calls, and one death: at every step that the worker has. With so many
//! preemptions as each test says; more of them with `NDSHM_MODEL_PREEMPTIONS=2 cargo test --lib pool::model`, or `all`, which
//! takes hours where there are two workers. Where *strong* memory is said, loads return what was stored last.
//!
//! Not looked at: tasks that fail, deadlines and cancelling, workers that are killed by the parent, descriptions that go
//! by mail (but for late workers), and the wrap-around of a call's bits in a range. The checker takes fences for stronger
//! than they are: each one comes after all that was done before earlier ones. It knows no loads that return what is stored
//! later.
mod life;
mod machine;
mod memory;
mod scenario;
mod stage;
mod trace;

use scenario::Returns::{Little, Much, Nothing};
use scenario::{Memory, Scenario, check_deaths};

#[test]
fn a_worker_does_what_it_is_told() {
    Scenario::new(1, &[&[Nothing, Nothing]]).preemptions(2).check();
}

#[test]
fn outcomes_arrive_by_every_way() {
    Scenario::new(1, &[&[Little, Much]]).preemptions(1).check();
    let scenario = Scenario::new(1, &[&[Nothing, Much, Nothing]]).preemptions(1).news_after_each_chunk();
    scenario.memory(Memory::Strong).check();
}

#[test]
fn one_call_follows_another() {
    Scenario::new(1, &[&[Nothing], &[Nothing], &[Nothing]]).preemptions(1).memory(Memory::Strong).check();
    Scenario::new(1, &[&[Nothing], &[Nothing], &[Nothing]]).watched().preemptions(1).memory(Memory::Strong).check();
    Scenario::new(1, &[&[Nothing], &[Little]]).preemptions(1).check();
}

#[test]
fn a_late_worker_takes_nothing_from_the_next_call() {
    Scenario::new(2, &[&[Nothing], &[Nothing]]).preemptions(1).check();
    Scenario::new(2, &[&[Nothing, Nothing], &[Nothing]]).preemptions(1).memory(Memory::Strong).check();
    Scenario::new(2, &[&[Nothing, Nothing], &[Nothing]]).watched().preemptions(1).memory(Memory::Strong).check();
}

#[test]
fn workers_take_from_each_other() {
    Scenario::new(2, &[&[Nothing, Nothing, Nothing]]).preemptions(1).memory(Memory::Strong).check();
}

#[test]
fn workers_draw_several_tickets_at_a_time() {
    Scenario::new(2, &[&[Nothing, Nothing, Nothing]]).preemptions(1).memory(Memory::Strong).portion(2).check();
    Scenario::new(1, &[&[Nothing, Little, Nothing]]).preemptions(1).portion(3).check();
}

#[test]
fn a_worker_dies_with_tickets_in_its_hands() {
    let nothing = |workers| Scenario::new(workers, &[&[Nothing, Nothing, Nothing]]).preemptions(0).portion(3);
    check_deaths(0, || nothing(1));
    check_deaths(1, || nothing(2).memory(Memory::Strong));
    check_deaths(1, || nothing(2).memory(Memory::Strong).retries(1));
}

#[test]
fn the_pool_ends() {
    Scenario::new(1, &[&[Nothing]]).preemptions(1).and_farewell().check();
}

#[test]
fn the_only_worker_dies_at_any_step() {
    check_deaths(0, || Scenario::new(1, &[&[Nothing], &[Nothing]]).preemptions(1).memory(Memory::Strong));
    check_deaths(0, || Scenario::new(1, &[&[Nothing], &[Nothing]]).watched().preemptions(0).memory(Memory::Strong));
    check_deaths(0, || Scenario::new(1, &[&[Nothing, Little]]).preemptions(0));
}

#[test]
fn one_of_two_workers_dies_at_any_step() {
    for worker in [0, 1] {
        check_deaths(worker, || Scenario::new(2, &[&[Nothing, Nothing, Nothing]]).preemptions(0));
    }
}

#[test]
fn a_worker_dies_with_outcomes_on_their_way() {
    let scenario = || Scenario::new(1, &[&[Much, Nothing, Little]]).preemptions(0).news_after_each_chunk();
    check_deaths(0, || scenario().memory(Memory::Strong));
}

#[test]
fn lost_chunks_run_again() {
    check_deaths(0, || Scenario::new(1, &[&[Nothing, Nothing]]).preemptions(1).memory(Memory::Strong).retries(1));
    check_deaths(1, || Scenario::new(2, &[&[Nothing, Little]]).preemptions(0).memory(Memory::Strong).retries(1));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_orderings_what_was_written_is_not_there() {
    Scenario::new(1, &[&[Little]]).watched().preemptions(1).memory(Memory::Relaxed).check();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_orderings_rows_are_not_there_after_a_smooth_call() {
    Scenario::new(1, &[&[Nothing]]).preemptions(1).memory(Memory::Relaxed).check();
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_fences_wake_ups_are_lost() {
    Scenario::new(1, &[&[Nothing]]).preemptions(1).memory(Memory::WithoutFences).check();
}
