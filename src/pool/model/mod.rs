//! The pool's protocol under a model checker: how parent and workers use the [control page](super::control), whatever the
//! order of their steps, and whoever dies at whichever of them.
//!
//! | file | idea |
//! |---|---|
//! | `checker` | words, threads and sleep of either checker |
//! | `steps` | the second checker: every order of steps, every death |
//! | `memory` | a page of the checker's memory, and futexes on it |
//! | `life` | the steps of a process, and its death between two of them |
//! | `machine` | processes, the news of their ends, a clock, what ends calls |
//! | `stage` | what tasks do, and what is expected of calls |
//! | `scenario` | what is looked at: workers, calls, deaths, bounds |
//! | `trace` | what happened, where a check has failed |
//!
//! # What runs
//!
//! The pool's own code, over another [`System`](super::system::System): `control` with its words and records, `crew`,
//! `smooth`, `running` and `tally` as the parent, `worker` with its messages and tasks as the workers. Two checkers run every scenario
//! again and again until they have seen every execution within its bounds:
//!
//! - [loom](https://docs.rs/loom) (`check`, `check_deaths`): every order of steps that matters, and every older value that a
//!   load may still return by the orderings of the C++ memory model. Who dies, and before which of its steps, is set for
//!   each exploration.
//! - `steps` (`check_steps`): every order of steps and so many deaths of whoever it may be, each at any step, but loads
//!   return what was stored last. It knows states again, and so gets much further.
//!
//! # What is imitated
//!
//! - A futex: a sleeper compares and sleeps in one step, and is woken by a wake alone. No timeout ever ends, so a wake-up that
//!   is lost is a deadlock, which the checkers report, unless a time comes that somebody waits for. Nobody spins: a
//!   worker in its task looks once for the next call.
//! - A death by `kill -9`: the thread takes no more steps. What unwinds then touches nothing shared, which is checked. Its
//!   end can be seen by the parent from then on, after everything that it did; some time later the parent has news and is
//!   rung, as the thread that watches does. The next worker in its place lives in the same thread of the checker. Whom the
//!   parent kills lives on for as many steps as the kernel likes.
//! - Descriptions and outcomes are bytes: loom is told of each use, and finds one that no ordering keeps apart from another's.
//!   The areas are small, so that what does not fit is seen too.
//! - Sockets are real ones. A message is there as soon as it is sent; nobody has to wait for room. Loom is told that it is
//!   there before it is counted.
//! - A task may close its worker's socket, which the thread that watches hears of some time later. The worker lives until it
//!   is killed, or woken for nothing.
//! - An array that is lent is a real file, which workers map. Somebody may cut it short at any time of a call: then workers
//!   refuse that call. Otherwise the array is dropped when the call is over, and workers are told to forget it.
//! - Some workers cannot be started, said by number, as where descriptors are short.
//! - The parent's calls are those of `call`, without locks. A token that is cancelled and a deadline are events that come at
//!   any time of the first call or never, or when nothing else can happen; the end of the tasks' time is another one, where
//!   tasks do not end.
//!
//! # What is expected
//!
//! - Every chunk's outcome arrives once, in calls that end well and in those that fail, and is that chunk's. The rows that an
//!   error names are those of chunks that were not done, or whose worker died before it had said so.
//! - A row belongs to the task of its chunk, and to the caller between calls. So no chunk is run by two workers at a time, a
//!   late worker takes nothing from the next call, a call is settled only when every participant has finished or was
//!   reaped, and a lost chunk runs again only after that.
//! - A chunk runs once, and once more for each worker that died over it, and never more often than the call allows; fewer
//!   deaths than that end no call. A call that fails names what was run by the dead; a chunk that was taken and not begun
//!   runs anyway.
//! - Where shares are their workers' own and nobody dies, nobody else runs them. A worker ends by itself only when its socket
//!   is closed.
//! - Nobody is killed who is well, but for those who are still at work when a call has to end and their time is over.
//! - A chunk that was lost too often was lost so often by deaths of its own. Without deaths a call is one round; each death
//!   makes one more at most, in its call or, where nobody has heard of it by then, in the next.
//! - A call that failed or was told to end before it was done says why. The next call works.
//! - When nothing else can happen while a task does not end, the caller was told of every other chunk that is done, and a
//!   failure is known.
//! - No description is read while it is written, nobody waits for ever, and the pool ends.
//!
//! # Bounds
//!
//! One or two workers, up to three chunks a call, in a few places five, and three calls; by steps two deaths, with loom one. With so many preemptions
//! as each test says, where it does; what ends a call counts as one where it stops somebody, a death does not. More of them
//! with `NDSHM_MODEL_PREEMPTIONS=2 cargo test --lib pool::model`, or `all`, which takes hours where there are two workers.
//! Where *strong* memory is said, loom's loads return what was stored last. Two workers of which two die are looked at without
//! preemptions: with one it takes longer than three minutes.
//!
//! Not looked at: the parent's death, callbacks that panic, workers that die before they are there, freezing (where workers answer that they have let go of an array),
//! locks, spinning, timeouts, full sockets, whether an array that was dropped is unmapped, and how soon a closed call comes to
//! its end. What happens to sockets, files and starts is looked at by steps only, that is where loads return what was stored
//! last, and never with two deaths. Loom takes fences for stronger than they are: each one comes after all that was done before
//! earlier ones. It knows no loads that return what is stored later.
mod checker;
mod life;
mod machine;
mod memory;
mod scenario;
mod stage;
mod steps;
mod trace;

use scenario::Returns::{Failure, FailureAtLength, Little, Much, Never, NeverDeaf, Nothing, NothingDeaf, Number};
use scenario::{Ending, Memory, Scenario, check_deaths};

use super::control::MAX_CALL;
use super::schedule::Schedule;

#[test]
fn a_worker_does_what_it_is_told() {
    Scenario::new(1, &[&[Nothing, Nothing]]).preemptions(2).check();
}

#[test]
fn outcomes_arrive_by_every_way() {
    Scenario::new(1, &[&[Little, Much]]).preemptions(1).check();
    let looked_at = |calls| Scenario::new(1, calls).preemptions(1).news_after_each_chunk().check();
    looked_at(&[&[Nothing, Much, Nothing]]);
    looked_at(&[&[Little, Little]]);
}

#[test]
fn numbers_arrive_in_runs() {
    Scenario::new(1, &[&[Number, Number], &[Number]]).preemptions(1).check();
    let looked_at = |calls| Scenario::new(1, calls).preemptions(1).news_after_each_chunk();
    looked_at(&[&[Number, Number]]).check();
    looked_at(&[&[Number, Nothing, Number]]).memory(Memory::Strong).check();
    looked_at(&[&[Number, Little]]).check();
}

#[test]
fn a_worker_waits_for_room() {
    Scenario::new(1, &[&[Number, Number, Number]]).preemptions(1).check();
    Scenario::new(1, &[&[Little, Little, Little]]).preemptions(1).check();
    let looked_at = |calls| Scenario::new(1, calls).preemptions(1).news_after_each_chunk();
    looked_at(&[&[Number, Number, Number]]).memory(Memory::Strong).check();
}

#[test]
fn one_call_follows_another() {
    Scenario::new(1, &[&[Nothing], &[Nothing], &[Nothing]]).preemptions(1).memory(Memory::Strong).check();
    Scenario::new(1, &[&[Nothing], &[Nothing], &[Nothing]]).watched().preemptions(1).memory(Memory::Strong).check();
    Scenario::new(1, &[&[Nothing], &[Little]]).preemptions(1).check();
}

#[test]
fn a_worker_stays_in_its_task_for_calls_that_ask_the_same_alone() {
    Scenario::new(1, &[&[Nothing], &[Nothing, Nothing], &[Nothing, Nothing]]).preemptions(2).check_steps(0);
    Scenario::new(2, &[&[Nothing, Nothing], &[Nothing, Nothing, Nothing]]).preemptions(1).check_steps(0);
    Scenario::new(1, &[&[Nothing], &[Nothing], &[Nothing]]).preemptions(1).retries(1).check_steps(1);
    Scenario::new(1, &[&[Nothing], &[Nothing], &[Nothing]]).watched_from(1).preemptions(1).check_steps(0);
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
fn a_thief_has_more_than_it_begins() {
    Scenario::new(2, &[&[Nothing; 5]]).preemptions(0).check_steps(1);
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
fn a_worker_dies_at_any_step() {
    check_deaths(0, || Scenario::new(1, &[&[Nothing, Little]]).preemptions(0));
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
fn a_worker_dies_with_numbers_in_its_hands() {
    let scenario = || Scenario::new(1, &[&[Number, Number, Number]]).preemptions(0);
    check_deaths(0, scenario);
    check_deaths(0, || scenario().news_after_each_chunk().memory(Memory::Strong));
}

#[test]
fn lost_chunks_run_again() {
    check_deaths(0, || Scenario::new(1, &[&[Nothing, Nothing]]).preemptions(0).retries(1));
    check_deaths(1, || Scenario::new(2, &[&[Nothing, Little]]).preemptions(0).retries(1));
}

#[test]
fn failures_arrive_by_every_way() {
    Scenario::new(1, &[&[Failure, Nothing]]).preemptions(1).check();
    Scenario::new(1, &[&[Little, FailureAtLength]]).preemptions(0).check();
}

#[test]
fn a_ring_from_another_thread_is_heard() {
    Scenario::new(1, &[&[Nothing, Nothing]]).preemptions(1).ending(Ending::Token).check();
}

#[test]
fn descriptions_arrive_by_mail() {
    Scenario::new(1, &[&[Nothing], &[Little]]).preemptions(1).by_mail().check();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_orderings_what_was_written_is_not_there() {
    Scenario::new(1, &[&[Little]]).watched().preemptions(1).memory(Memory::Relaxed).check();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_orderings_numbers_are_not_there() {
    Scenario::new(1, &[&[Number, Number]]).news_after_each_chunk().preemptions(1).memory(Memory::Relaxed).check();
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

// From here on by steps.

#[test]
fn whatever_one_worker_does() {
    Scenario::new(1, &[&[Nothing], &[Nothing]]).check_steps(0);
    Scenario::new(1, &[&[Nothing]]).check_steps(1);
}

#[test]
fn two_workers_are_stopped_twice() {
    Scenario::new(2, &[&[Nothing, Nothing, Nothing]]).preemptions(2).check_steps(0);
}

#[test]
fn a_worker_and_the_one_in_its_place_die() {
    Scenario::new(1, &[&[Nothing], &[Nothing]]).preemptions(1).check_steps(2);
    Scenario::new(1, &[&[Nothing], &[Nothing]]).watched().preemptions(0).check_steps(2);
    Scenario::new(1, &[&[Nothing, Nothing]]).preemptions(0).retries(1).check_steps(2);
    Scenario::new(1, &[&[Little, Much]]).preemptions(0).news_after_each_chunk().check_steps(2);
}

#[test]
fn two_of_two_workers_die() {
    Scenario::new(2, &[&[Nothing, Nothing, Nothing]]).preemptions(0).check_steps(2);
}

#[test]
fn two_of_two_workers_die_and_lost_chunks_run_again() {
    Scenario::new(2, &[&[Nothing, Nothing]]).preemptions(0).retries(1).check_steps(2);
}

#[test]
fn workers_with_numbers_die() {
    let looked_at = |scenario: Scenario| scenario.news_after_each_chunk().preemptions(0);
    looked_at(Scenario::new(1, &[&[Number, Number, Number], &[Number]])).check_steps(2);
    looked_at(Scenario::new(1, &[&[Number, Little, Number]])).retries(1).check_steps(1);
    looked_at(Scenario::new(2, &[&[Number, Number, Number]])).check_steps(1);
    looked_at(Scenario::new(1, &[&[Little, Little, Little], &[Nothing]])).preemptions(1).check_steps(0);
}

#[test]
fn shares_are_their_workers_own() {
    Scenario::new(2, &[&[Nothing, Nothing, Nothing]])
        .schedule(Schedule::Static)
        .preemptions(0)
        .retries(1)
        .check_steps(1);
}

#[test]
fn tasks_fail_and_workers_die() {
    Scenario::new(1, &[&[Much, FailureAtLength]]).preemptions(1).check_steps(1);
    Scenario::new(2, &[&[Failure, Nothing, Failure], &[Nothing]]).preemptions(0).check_steps(1);
}

#[test]
fn a_call_ends_before_it_is_done() {
    Scenario::new(1, &[&[Nothing, Failure], &[Nothing]]).preemptions(2).ending(Ending::Token).check_steps(0);
    Scenario::new(1, &[&[Nothing, Nothing]]).preemptions(1).ending(Ending::Deadline).check_steps(1);
    Scenario::new(2, &[&[Nothing, Nothing, Failure]]).preemptions(1).ending(Ending::Token).check_steps(0);
}

#[test]
fn who_does_not_end_is_killed() {
    Scenario::new(1, &[&[Nothing, Never], &[Nothing]]).preemptions(1).ending(Ending::Deadline).check_steps(0);
    Scenario::new(1, &[&[Never], &[Nothing]]).preemptions(0).retries(1).ending(Ending::Token).check_steps(1);
    Scenario::new(2, &[&[Never, Never]]).preemptions(0).ending(Ending::Token).check_steps(0);
}

#[test]
fn calls_by_mail_survive_deaths() {
    Scenario::new(1, &[&[Nothing, Nothing]]).preemptions(1).by_mail().retries(1).check_steps(1);
    Scenario::new(2, &[&[Nothing, Nothing]]).preemptions(0).by_mail().check_steps(1);
}

#[test]
fn what_another_call_has_left_is_not_taken_for_this_one_s() {
    let alike = |scenario: Scenario| scenario.numbers(5, 1 << 16);
    alike(Scenario::new(2, &[&[Nothing, Nothing], &[Nothing]])).preemptions(1).check_steps(0);
    alike(Scenario::new(2, &[&[Nothing, Failure, Nothing], &[Nothing]])).preemptions(0).check_steps(1);
}

#[test]
fn call_numbers_begin_again() {
    let last = |scenario: Scenario| scenario.numbers(MAX_CALL, 1);
    last(Scenario::new(1, &[&[Nothing], &[Nothing]])).preemptions(1).check_steps(1);
    last(Scenario::new(2, &[&[Nothing, Nothing], &[Nothing]])).preemptions(0).check_steps(1);
}

#[test]
fn the_caller_is_told_of_what_is_done_while_other_chunks_run() {
    let told = |calls| Scenario::new(1, calls).watched().news_after_each_chunk().ending(Ending::Quiet).preemptions(1);
    told(&[&[Nothing, Little, Never], &[Nothing]]).check_steps(0);
    Scenario::new(1, &[&[Much, Never]]).watched().ending(Ending::Quiet).preemptions(1).check_steps(0);
    Scenario::new(1, &[&[Failure, Never]]).ending(Ending::Quiet).preemptions(1).check_steps(0);
}

/// What the parent reads first of a worker may be older than what it reads then.
#[test]
fn nothing_is_told_twice() {
    let looked_at = |calls| Scenario::new(1, calls).watched().news_after_each_chunk().preemptions(2);
    looked_at(&[&[Nothing, Much, Nothing, Much, Nothing]]).check_steps(0);
}

#[test]
fn a_worker_closes_its_socket_and_lives() {
    Scenario::new(1, &[&[NothingDeaf, Nothing], &[Nothing]]).preemptions(1).check_steps(0);
    Scenario::new(1, &[&[NothingDeaf, Nothing]]).preemptions(0).retries(1).check_steps(1);
    Scenario::new(2, &[&[Nothing, NothingDeaf, Nothing], &[Nothing]]).preemptions(0).check_steps(0);
}

#[test]
fn a_worker_closes_its_socket_and_does_not_end() {
    Scenario::new(1, &[&[NeverDeaf], &[Nothing]]).preemptions(1).check_steps(0);
    Scenario::new(1, &[&[NeverDeaf, Nothing]]).preemptions(0).retries(1).check_steps(0);
}

#[test]
fn arrays_are_lent_and_dropped() {
    let lent = |workers, calls| Scenario::new(workers, calls).lends(&[true, false, true]);
    lent(1, &[&[Nothing], &[Nothing], &[Nothing]]).preemptions(1).check_steps(0);
    lent(1, &[&[Nothing], &[Nothing]]).lends(&[true, true]).preemptions(2).check_steps(0);
    lent(1, &[&[Nothing, Nothing], &[Nothing], &[Nothing]]).preemptions(0).retries(1).check_steps(1);
    lent(2, &[&[Nothing, Nothing], &[Nothing], &[Nothing]]).preemptions(0).check_steps(0);
}

#[test]
fn workers_refuse_what_they_cannot_map() {
    let cut = |workers, calls| Scenario::new(workers, calls).lends(&[true, true]).and_is_cut();
    cut(1, &[&[Nothing], &[Nothing]]).preemptions(1).check_steps(0);
    cut(1, &[&[Nothing, Nothing], &[Nothing]]).preemptions(0).retries(1).check_steps(1);
    cut(2, &[&[Nothing, Nothing], &[Nothing]]).preemptions(0).check_steps(0);
}

#[test]
fn workers_cannot_be_started() {
    let missing = |scenario: Scenario| scenario.cannot_start(2..4).numbers(5, 1 << 16).preemptions(0);
    missing(Scenario::new(2, &[&[Nothing, Nothing, Nothing], &[Nothing]])).check_steps(1);
    missing(Scenario::new(2, &[&[Nothing, Nothing, Nothing]]).retries(1)).check_steps(1);
    Scenario::new(1, &[&[Nothing, Nothing], &[Nothing]]).cannot_start(1..2).preemptions(0).retries(1).check_steps(1);
}
