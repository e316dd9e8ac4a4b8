//! What is looked at: so many workers, calls and deaths.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::machine::{Machine, Model};
use super::trace;
use crate::pool::chunk::{Division, Progress};
use crate::pool::crew::{Crew, CrewOptions};
use crate::pool::protocol::Asked;
use crate::pool::results::Results;
use crate::pool::running::Limits;
use crate::pool::schedule::Schedule;
use crate::pool::smooth;
use crate::pool::tally::Settled;
use crate::pool::task::{Plain, TaskRef};

/// What a chunk's task returns, and so which way it goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Returns {
    /// Noted as a run of chunks.
    Nothing,
    /// Into the worker's area.
    Little,
    /// Through its socket.
    Much,
}

/// What loads and stores do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// What their orderings say.
    AsOrdered,
    /// Loads return what was stored last.
    Strong,
    /// All of them are relaxed: a protocol without orderings.
    Relaxed,
    /// A protocol without fences.
    WithoutFences,
}

#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) workers: usize,
    /// One after another, with what their chunks return.
    pub(super) calls: &'static [&'static [Returns]],
    pub(super) retries: u32,
    pub(super) memory: Memory,
    pub(super) news_after_each_chunk: bool,
    /// How many tickets workers draw at a time.
    pub(super) portion: usize,
    /// Whether somebody watches the calls' progress, so that none of them is `smooth`.
    pub(super) watched: bool,
    /// Whether the end of the pool is looked at as well, and not only its calls.
    pub(super) farewell: bool,
    preemptions: usize,
    /// Who dies before which of its steps. Workers are counted as they start.
    deaths: Vec<(u32, usize)>,
    executions: AtomicUsize,
    /// Somebody has died so in some execution.
    died: AtomicBool,
}

impl Scenario {
    pub(super) fn new(workers: usize, calls: &'static [&'static [Returns]]) -> Self {
        Self {
            workers,
            calls,
            retries: 0,
            memory: Memory::AsOrdered,
            news_after_each_chunk: false,
            portion: 1,
            watched: false,
            farewell: false,
            preemptions: 0,
            deaths: Vec::new(),
            executions: AtomicUsize::new(0),
            died: AtomicBool::new(false),
        }
    }

    /// How often a thread stops at most in an execution while it could go on.
    pub(super) fn preemptions(self, preemptions: usize) -> Self {
        Self { preemptions, ..self }
    }

    pub(super) fn memory(self, memory: Memory) -> Self {
        Self { memory, ..self }
    }

    pub(super) fn retries(self, retries: u32) -> Self {
        Self { retries, ..self }
    }

    pub(super) fn portion(self, portion: usize) -> Self {
        Self { portion, ..self }
    }

    pub(super) fn news_after_each_chunk(self) -> Self {
        Self { news_after_each_chunk: true, ..self }
    }

    pub(super) fn watched(self) -> Self {
        Self { watched: true, ..self }
    }

    pub(super) fn and_farewell(self) -> Self {
        Self { farewell: true, ..self }
    }

    fn preemption_bound(&self) -> Option<usize> {
        match std::env::var("NDSHM_MODEL_PREEMPTIONS") {
            Ok(all) if all == "all" => None,
            Ok(more) => Some(more.parse().expect("NDSHM_MODEL_PREEMPTIONS is a number or `all`")),
            Err(_) => Some(self.preemptions),
        }
    }

    pub(super) fn last_step_of(&self, worker: u32) -> Option<usize> {
        self.deaths.iter().find_map(|&(who, step)| (who == worker).then_some(step))
    }

    /// Looks at every execution.
    pub(super) fn check(self) {
        let since = Instant::now();
        let scenario = self.explore();
        println!("{} executions in {:?}: {scenario:?}", scenario.executions.load(Ordering::Relaxed), since.elapsed());
    }

    fn explore(self) -> &'static Self {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = self.preemption_bound();
        builder.max_branches = 20_000;
        let scenario: &'static Self = Box::leak(Box::new(self));
        let checked = catch_unwind(AssertUnwindSafe(|| {
            builder.check(move || {
                scenario.executions.fetch_add(1, Ordering::Relaxed);
                Machine::run(scenario, parent);
            });
        }));
        if let Err(failure) = checked {
            eprintln!("{scenario:?}");
            trace::print();
            resume_unwind(failure);
        }
        scenario
    }
}

/// Looks at every execution of a scenario in which `worker` dies, at any step: `scenario` is made for each of them.
pub(super) fn check_deaths(worker: u32, scenario: impl Fn() -> Scenario) {
    let since = Instant::now();
    let mut executions = 0;
    for step in 0.. {
        let scenario = Scenario { deaths: vec![(worker, step)], ..scenario() }.explore();
        executions += scenario.executions.load(Ordering::Relaxed);
        if !scenario.died.load(Ordering::Relaxed) {
            // It has lived through the calls, whatever happened.
            assert!(step > 10, "a worker takes more than {step} steps");
            println!("{executions} executions in {:?}, {step} deaths: {scenario:?}", since.elapsed());
            return;
        }
    }
}

/// What a pool's calls do, as in `call`, without their arrays.
fn parent(machine: &Machine) {
    let scenario = machine.scenario;
    let options = CrewOptions { workers: scenario.workers, cpus: scenario.workers, ..CrewOptions::default() };
    let mut crew = Crew::<Model>::start_in(options).expect("workers start");
    let task =
        TaskRef::new::<(), _, Plain>(|(), chunk| Machine::run_task(|stage, life| stage.run(life, chunk.index())));
    for &returns in scenario.calls {
        machine.stage.begin(returns);
        crew.replace_dead().expect("workers start");
        let division = Division { count: returns.len(), rows: 1, len: returns.len() };
        let asked = Asked { task, division, schedule: Schedule::Dynamic, blocks: &[], leaves: &[] };
        let limits = Limits { retries: scenario.retries, stop: None };
        let progress: Option<&mut dyn FnMut(Progress)> = if scenario.watched { Some(&mut |_| ()) } else { None };
        let settled = smooth::run(&mut crew, &asked, limits, progress).expect("the call is described");
        let settled = settled.expect("no process was forked").unwrap_or_else(|| Settled {
            results: Results::of_nothing(returns.len()),
            failure: None,
            cut_short: false,
        });
        machine.stage.check(&settled, scenario.retries);
        crew.replace_dead().expect("workers start");
    }
    if machine.stage.has_seen_death() {
        scenario.died.store(true, Ordering::Relaxed);
    }
    machine.say_farewell();
    drop(crew);
}
