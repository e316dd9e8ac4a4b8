//! What is looked at: so many workers, calls and deaths.

use std::fmt::{self, Debug};
use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ndarray::Ix1;
use serde_bytes::ByteBuf;

use super::checker;
use super::machine::{Machine, Model};
use super::steps::{self, Bounds};
use super::trace;
use crate::SharedArray;
use crate::pool::cancel::{Stop, StopOptions};
use crate::pool::chunk::{Division, Progress};
use crate::pool::crew::{Crew, CrewOptions};
use crate::pool::plan::{BlockAccess, BlockUse, Leaf};
use crate::pool::protocol::Asked;
use crate::pool::results::Results;
use crate::pool::running::Limits;
use crate::pool::schedule::Schedule;
use crate::pool::scope::{Scope, Unit};
use crate::pool::smooth;
use crate::pool::tally::Settled;
use crate::pool::task::{Fallible, TaskRef};

/// What a chunk's task returns, and so which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Returns {
    /// Noted as a range of chunks.
    Nothing,
    /// Into the worker's area, in a run of numbers.
    Number,
    /// Into the worker's area.
    Little,
    /// Through its socket.
    Much,
    /// Into the worker's area.
    Failure,
    /// Through its socket.
    FailureAtLength,
    /// It does not return: its worker has to be killed.
    Never,
    /// It closes its worker's socket, and returns nothing.
    NothingDeaf,
    /// It closes its worker's socket, and does not return.
    NeverDeaf,
}

/// What ends the first call before it is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Token,
    Deadline,
    /// A token, but not before nothing else can happen.
    Quiet,
}

/// What becomes of a file that is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Stays,
    /// At any time of the first call, or never.
    MayShrink,
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
    /// From which call on somebody watches their progress, so that none of them is `smooth`.
    pub(super) watched: usize,
    /// Whether the end of the pool is looked at as well, and not only its calls.
    pub(super) farewell: bool,
    pub(super) ending: Option<Ending>,
    /// In which calls an array is lent. When such a call is over the array is dropped, where its length stays.
    pub(super) lent: &'static [bool],
    /// Of the array's file.
    pub(super) length: Length,
    /// Which of the workers cannot be started, as they are counted.
    pub(super) unstartable: Range<u32>,
    pub(super) schedule: Schedule,
    /// How many bytes the tasks' argument has.
    argument: usize,
    /// The number of the first call, and how far numbers of calls are apart.
    numbers: (u64, u64),
    preemptions: Option<usize>,
    /// Who dies before which of its steps. Workers are counted as they start.
    deaths: Vec<(u32, usize)>,
    array: OnceLock<Lent>,
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
            watched: usize::MAX,
            farewell: false,
            ending: None,
            lent: &[],
            length: Length::Stays,
            unstartable: 0..0,
            schedule: Schedule::Dynamic,
            argument: 0,
            numbers: (1, 1),
            preemptions: None,
            deaths: Vec::new(),
            array: OnceLock::new(),
            executions: AtomicUsize::new(0),
            died: AtomicBool::new(false),
        }
    }

    /// How often a thread stops at most in an execution while it could go on.
    pub(super) fn preemptions(self, preemptions: usize) -> Self {
        Self { preemptions: Some(preemptions), ..self }
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
        self.watched_from(0)
    }

    /// Somebody watches all calls but the first so many.
    pub(super) fn watched_from(self, watched: usize) -> Self {
        Self { watched, ..self }
    }

    pub(super) fn and_farewell(self) -> Self {
        Self { farewell: true, ..self }
    }

    /// The first call has to end before it is done, at any time or never.
    pub(super) fn ending(self, ending: Ending) -> Self {
        Self { ending: Some(ending), ..self }
    }

    /// In these calls an array is lent, and then dropped.
    pub(super) fn lends(self, lent: &'static [bool]) -> Self {
        Self { lent, ..self }
    }

    /// Somebody may make the array's file shorter in the first call.
    pub(super) fn and_is_cut(self) -> Self {
        Self { length: Length::MayShrink, ..self }
    }

    /// These workers cannot be started, as they are counted.
    pub(super) fn cannot_start(self, unstartable: Range<u32>) -> Self {
        Self { unstartable, ..self }
    }

    pub(super) fn schedule(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
    }

    /// Descriptions do not fit on the page.
    pub(super) fn by_mail(self) -> Self {
        Self { argument: 2048, ..self }
    }

    /// Calls have numbers from `first` on, which are so far apart.
    pub(super) fn numbers(self, first: u64, apart: u64) -> Self {
        Self { numbers: (first, apart), ..self }
    }

    pub(super) fn never_ends(&self) -> bool {
        self.calls.iter().any(|call| call.iter().any(|returns| returns.is_for_ever()))
    }

    fn preemption_bound(&self) -> Option<usize> {
        match std::env::var("NDSHM_MODEL_PREEMPTIONS") {
            Ok(all) if all == "all" => None,
            Ok(more) => Some(more.parse().expect("NDSHM_MODEL_PREEMPTIONS is a number or `all`")),
            Err(_) => self.preemptions,
        }
    }

    /// What is lent, if anything, in all executions.
    pub(super) fn array(&self) -> Option<&Lent> {
        (!self.lent.is_empty()).then(|| self.array.get_or_init(Lent::new))
    }

    pub(super) fn last_step_of(&self, worker: u32) -> Option<usize> {
        self.deaths.iter().find_map(|&(who, step)| (who == worker).then_some(step))
    }

    /// Looks at every execution with loom.
    pub(super) fn check(self) {
        let since = Instant::now();
        let scenario = self.explore();
        println!("{} executions in {:?}: {scenario:?}", scenario.executions.load(Ordering::Relaxed), since.elapsed());
    }

    /// Looks at every execution in which so many workers die at most, with the other checker.
    pub(super) fn check_steps(self, deaths: usize) {
        let since = Instant::now();
        let scenario: &'static Self = Box::leak(Box::new(self));
        let bounds = Bounds { preemptions: scenario.preemption_bound(), deaths };
        let run = move || Machine::run(scenario, parent);
        let (executions, states) = scenario.or_tell(|| steps::explore(bounds, Machine::around, run));
        assert!(deaths == 0 || scenario.died.load(Ordering::Relaxed), "somebody dies");
        let elapsed = since.elapsed();
        println!("{executions} executions, {states} states, {deaths} deaths in {elapsed:?}: {scenario:?}");
    }

    fn explore(self) -> &'static Self {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = self.preemption_bound();
        builder.max_branches = 20_000;
        let scenario: &'static Self = Box::leak(Box::new(self));
        scenario.or_tell(|| {
            builder.check(move || {
                scenario.executions.fetch_add(1, Ordering::Relaxed);
                // The first thread has a small stack.
                checker::spawn(move || Machine::run(scenario, parent)).join();
            });
        });
        scenario
    }

    /// Prints what happened where a check fails.
    fn or_tell<R>(&'static self, check: impl FnOnce() -> R) -> R {
        catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|failure| {
            eprintln!("{self:?}");
            trace::print();
            resume_unwind(failure)
        })
    }
}

/// Looks at every execution of a scenario in which `worker` dies, at any step, with loom: `scenario` is made for each of
/// them.
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
    let array = scenario.array();
    array.inspect(|array| array.make_whole());
    let options = CrewOptions { workers: scenario.workers, cpus: scenario.workers, ..CrewOptions::default() };
    let mut crew = Crew::<Model>::start_in(options).expect("workers start");
    let task =
        TaskRef::new::<(), _, Fallible>(|(), chunk| Machine::run_task(|stage, life| stage.run(life, chunk.index())));
    let leaves = [Leaf::Param(ByteBuf::from(vec![0; scenario.argument]))];
    let (first, apart) = scenario.numbers;
    crew.skip_to_call(first - 1);
    for (number, &returns) in scenario.calls.iter().enumerate() {
        machine.stage.begin(returns);
        machine.calls.set(number + 1);
        let stop = scenario.ending.filter(|_| number == 0).and_then(|_| {
            let grace = Duration::from_secs(60);
            Stop::begin(StopOptions { tokens: vec![machine.token.clone()], grace, ..StopOptions::default() }, None)
        });
        machine.stoppable.set(stop.is_some());
        crew.heed(stop.clone());
        machine.expect_started(crew.replace_dead());
        let lent = array.filter(|_| scenario.lent[number]);
        let blocks: Vec<_> = lent.map(Lent::block).into_iter().collect();
        let division = Division { count: returns.len(), rows: 1, len: returns.len() };
        let asked = Asked {
            task,
            scope: Scope { division, unit: Unit::Rows, only: None },
            schedule: scenario.schedule,
            blocks: &blocks,
            leaves: &leaves,
            splits: &[],
        };
        let limits = Limits { retries: scenario.retries, stop: stop.as_ref() };
        let mut tell = |progress: Progress| machine.told.set(progress.chunks_done);
        let progress: Option<&mut dyn FnMut(Progress)> =
            if number >= scenario.watched { Some(&mut tell) } else { None };
        let before = crew.last_call();
        let settled = smooth::run(&mut crew, &asked, limits, progress).expect("the call is described");
        let settled = settled.expect("no process was forked").map_or_else(
            || Settled { results: Results::of_nothing(returns.len()), failure: None, cut_short: false },
            |settled| *settled,
        );
        machine.stoppable.set(false);
        machine.stage.check(&settled, scenario.retries, machine.reasons());
        if let Some(rounds) = crew.last_call().checked_sub(before) {
            let most = 1 + u64::from(machine.stage.deaths_of_two_calls());
            assert!(rounds <= most, "chunks are handed out once, and again where somebody has died: {rounds} times");
        }
        crew.heed(None);
        machine.expect_started(crew.replace_dead());
        if let Some(array) = lent {
            array.make_whole();
            machine.cut.set(false);
            if scenario.length == Length::Stays {
                crew.forget(&mut vec![array.serial()]);
            }
        }
        if apart > 1 {
            crew.skip_to_call(first + number as u64 * apart + apart - 1);
        }
    }
    if machine.stage.has_seen_death() {
        scenario.died.store(true, Ordering::Relaxed);
    }
    machine.say_farewell();
    drop(crew);
}

/// An array that is lent: a file.
pub(super) struct Lent {
    file: File,
    array: SharedArray<u8, Ix1>,
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lent")
    }
}

impl Lent {
    const LEN: usize = 8;

    fn new() -> Self {
        let folder = tempfile::tempdir().expect("there is room for a file");
        let path = folder.path().join("lent.npy");
        let array = SharedArray::create_npy(&path, Self::LEN).expect("an array in a file");
        let file = File::options().write(true).open(path).expect("the array's file");
        Self { file, array }
    }

    fn block(&self) -> BlockUse<'_> {
        BlockUse { core: self.array.core(), access: BlockAccess::Read, held: None }
    }

    fn serial(&self) -> u64 {
        self.array.core().memory().lock().block().serial()
    }

    /// Whoever maps it from here on finds that it is too short.
    pub(super) fn cut(&self) {
        self.file.set_len(1).expect("a file can be cut");
    }

    fn make_whole(&self) {
        let len = self.array.core().memory().size();
        self.file.set_len(len as u64).expect("a file can grow");
    }
}
