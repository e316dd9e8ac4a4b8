//! A checker of our own, for what is too big for loom: it looks at every order of the processes' steps and at every death
//! between them, but knows no other memory than one in which loads return what was stored last.
//!
//! Processes are coroutines, and a step is one use of shared memory. Before each, one move is chosen: who takes a step, or
//! dies. An execution is a sequence of moves; the next one differs from it in the last move that has another choice left.
//!
//! A state in which all choices were looked at before is not looked at again: the execution is given up there. Code is deterministic, so what a process is up
//! to follows from what it has seen: the state is what memory holds, and for each process a hash of all that it has seen
//! there, with the step that it is about to take. What a dead process had seen is forgotten, and so is what a process has
//! seen that says itself what is left of that ([`System::at_rest`](super::super::system::System::at_rest)).
//!
//! A process dies right after a step of its own, or before its first one: by the steps of others nothing changes about what it
//! leaves behind, and when that is seen is a matter of when the kernel's steps come, which follow its death. Only who was
//! killed may die later.
//!
//! Of two steps that do not depend on each other one order is enough: a move that was looked at sleeps in all that follows
//! from the others, until one of them touches the same word. (*Sleep sets*, see Godefroid, *Partial-Order Methods for the
//! Verification of Concurrent Systems*, 1996, chapter 5.) Where preemptions are bounded there are none: the order that is
//! left may be one that needs more of them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use generator::{Generator, Gn};

use super::life::{Death, die};

/// Words of a coroutine's stack.
const STACK: usize = 32 * 1024;

/// Steps of an execution that is taken to go on for ever.
const FOR_EVER: usize = 20_000;

/// How far an execution may go from one in which everybody takes all the steps that it can.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How often somebody is stopped who could go on; as often as one likes for `None`.
    pub(super) preemptions: Option<usize>,
    pub(super) deaths: usize,
}

/// What there is beside memory, as hashes.
pub(super) struct Around {
    /// What the first process can see of it.
    pub(super) seen: u64,
    /// What only checks depend on.
    pub(super) checked: u64,
    /// Whether the first process may see deaths before they are in memory.
    pub(super) alert: bool,
}

/// When an event comes whose condition is true.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Surely,
    /// Or never: nobody can rely on it.
    Perhaps,
    /// When nothing else can happen.
    AtLast,
}

/// What a process does in a step.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Touches {
    /// Something that everybody may depend on.
    All,
    /// Nothing that anybody else depends on.
    Nothing,
    Reads(u64),
    Writes(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Step(usize),
    Die(usize),
}

/// Moves by [`Move::bit`].
type Moves = u64;

/// A choice that was made in this execution, among all that are to be looked at.
struct Choice {
    moves: Vec<Move>,
    taken: usize,
    /// What needs no look here, nor after it for as long as nothing touches the same.
    asleep: Moves,
}

/// What is known of a state.
#[derive(Clone, Copy, Default)]
struct Known {
    /// One more than the most preemptions that were left in it.
    left: usize,
    /// What was not looked at because it was asleep.
    asleep: Moves,
}

enum Status {
    Ready,
    Parked,
    /// Goes on when this comes true.
    Until(Rc<dyn Fn() -> bool>),
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It cannot die.
    Spared,
    Mortal,
    /// It was killed, and lives for as long as the kernel takes.
    Doomed,
    Dying,
}

struct Process {
    body: Option<Box<dyn FnOnce()>>,
    status: Status,
    /// The step that it is about to take, as a number.
    next: u64,
    touches: Touches,
    /// A hash of what it has seen.
    seen: u64,
    fate: Fate,
    /// Nobody else has taken a step since it did.
    fresh: bool,
    /// Something that has not happened yet: nobody waits for its end.
    event: Option<When>,
}

/// What was looked at, and the execution that runs.
struct Explorer {
    bounds: Bounds,
    around: fn() -> Around,
    path: Vec<Choice>,
    known: HashMap<u64, Known>,

    depth: usize,
    /// Whether choices are still tried in this execution.
    exploring: bool,
    /// All that comes of this execution is known: whoever is at work in it goes no further.
    given_up: bool,
    asleep: Moves,
    processes: Vec<Process>,
    memory: u64,
    words: u64,
    running: usize,
    /// Who goes on without that being a preemption.
    favourite: Option<usize>,
    preemptions: usize,
    deaths: usize,
}

thread_local! {
    static EXPLORER: RefCell<Option<Explorer>> = const { RefCell::new(None) };
}

fn with<R>(f: impl FnOnce(&mut Explorer) -> R) -> R {
    EXPLORER.with_borrow_mut(|explorer| f(explorer.as_mut().expect("an exploration runs")))
}

/// Does this checker run, and not the other one?
pub(super) fn runs() -> bool {
    EXPLORER.with_borrow(Option::is_some)
}

/// Runs `first` in every way that it can, with all the processes that it spawns. Returns the number of executions and of
/// states.
pub(super) fn explore(bounds: Bounds, around: fn() -> Around, first: impl Fn() + Clone + 'static) -> (usize, usize) {
    EXPLORER.set(Some(Explorer::new(bounds, around)));
    let mut coroutines = Vec::new();
    let mut executions = 0;
    loop {
        executions += 1;
        with(Explorer::begin);
        spawn(first.clone());
        let mut next = with(Explorer::choose);
        while let Some(process) = next {
            while coroutines.len() <= process {
                coroutines.push(coroutine(coroutines.len()));
            }
            coroutines[process].resume();
            next = with(|explorer| explorer.goes_on_with(process));
        }
        while let Some(process) = with(Explorer::who_is_left) {
            coroutines[process].resume();
        }
        if !with(Explorer::turn_back) {
            let explorer = EXPLORER.take().expect("an exploration runs");
            return (executions, explorer.known.len());
        }
    }
}

/// Runs one body after another that is spawned as this process.
fn coroutine(process: usize) -> Generator<'static, (), ()> {
    Gn::new_opt(STACK, move || {
        loop {
            let body = with(|explorer| explorer.processes[process].body.take()).expect("the process was spawned");
            if let Err(payload) = catch_unwind(AssertUnwindSafe(body))
                && !(payload.is::<Death>() && with(|explorer| explorer.given_up))
            {
                resume_unwind(payload);
            }
            with(|explorer| explorer.processes[process].status = Status::Done);
            stop_here();
        }
    })
}

#[expect(deprecated, reason = "what should be used instead is known to a coroutine's first function only")]
fn stop_here() {
    generator::yield_with(());
}

/// Starts a process.
pub(super) fn spawn(body: impl FnOnce() + 'static) {
    with(|explorer| _ = explorer.spawn(Status::Ready, Box::new(body)));
}

/// Something that happens once the condition is true.
pub(super) fn spawn_event(condition: impl Fn() -> bool + 'static, when: When, body: impl FnOnce() + 'static) {
    with(|explorer| {
        let event = explorer.spawn(Status::Until(Rc::new(condition)), Box::new(body));
        (event.touches, event.event) = (Touches::All, Some(when));
    });
}

/// The process that runs.
pub(super) fn current() -> usize {
    with(|explorer| explorer.running)
}

/// Executions differ no more from here on.
pub(super) fn stop_exploring() {
    with(|explorer| explorer.exploring = false);
}

/// From here on, or no more, the process that runs may die.
pub(super) fn set_mortal(mortal: bool) {
    with(|explorer| {
        let process = &mut explorer.processes[explorer.running];
        (process.fate, process.seen) = (if mortal { Fate::Mortal } else { Fate::Spared }, 0);
    });
}

/// The process that runs is what `state` says, whatever it has seen.
pub(super) fn know_by(state: &str) {
    let hash = state.bytes().fold(0, |hash, byte| mix(hash, byte.into()));
    with(|explorer| explorer.processes[explorer.running].seen = hash);
}

/// Kills a process: it dies, at once or some steps later.
pub(super) fn doom(process: usize) {
    with(|explorer| {
        let fate = &mut explorer.processes[process].fate;
        if *fate == Fate::Mortal {
            *fate = Fate::Doomed;
        }
    });
}

/// Takes a step in a place where nothing may unwind: `false` where the process dies.
pub(super) fn lives_through(step: u64) -> bool {
    pause(step, Touches::All, None)
}

/// Sleeps until somebody [`unpark`]s this process; `false` where it dies.
pub(super) fn park() -> bool {
    pause(5, Touches::Nothing, Some(Status::Parked))
}

pub(super) fn unpark(process: usize) {
    with(|explorer| {
        let process = &mut explorer.processes[process];
        if matches!(process.status, Status::Parked) {
            process.status = Status::Ready;
        }
    });
}

/// Does nothing until the condition is true; `false` where the process dies.
pub(super) fn wait_until(condition: impl Fn() -> bool + 'static) -> bool {
    pause(0, Touches::Nothing, Some(Status::Until(Rc::new(condition))))
}

/// Here it is chosen who goes on. Returns when it is this process; `false` where it dies.
fn pause(step: u64, touches: Touches, status: Option<Status>) -> bool {
    let (me, chosen) = with(|explorer| {
        let me = explorer.running;
        if explorer.given_up {
            return (me, me);
        }
        let process = &mut explorer.processes[me];
        (process.next, process.touches) = (step, touches);
        process.status = status.unwrap_or(Status::Ready);
        (me, explorer.choose().expect("this process has not ended"))
    });
    if me != chosen {
        stop_here();
    }
    with(|explorer| {
        let process = &mut explorer.processes[me];
        process.status = Status::Ready;
        process.fate != Fate::Dying && !explorer.given_up
    })
}

fn step(step: u64, touches: Touches) {
    if !pause(step, touches, None) {
        die(None);
    }
}

/// A word of shared memory.
pub(super) struct Word {
    id: u64,
    value: Rc<Cell<u64>>,
}

impl Word {
    pub(super) fn new() -> Self {
        let id = with(|explorer| {
            explorer.words += 1;
            explorer.words
        });
        Self { id, value: Rc::default() }
    }

    pub(super) fn load(&self) -> u64 {
        step(mix(self.id, 1), Touches::Reads(self.id));
        saw(self.value.get())
    }

    pub(super) fn store(&self, value: u64) {
        step(mix(mix(self.id, 2), value), Touches::Writes(self.id));
        self.set(value);
        saw(0);
    }

    /// A read-modify-write: `change` says what stands there afterwards.
    pub(super) fn update(&self, change: impl FnOnce(u64) -> u64) -> u64 {
        step(mix(self.id, 3), Touches::Writes(self.id));
        let before = self.value.get();
        self.set(change(before));
        saw(before)
    }

    /// A step in which somebody may be woken who sleeps on the word.
    pub(super) fn ring(&self) {
        step(mix(self.id, 4), Touches::Writes(self.id));
        saw(0);
    }

    /// Waits until the word is another one.
    pub(super) fn wait_while(&self, value: u64) -> u64 {
        let word = Rc::clone(&self.value);
        let status = Status::Until(Rc::new(move || word.get() != value));
        if !pause(mix(self.id, 5), Touches::Reads(self.id), Some(status)) {
            die(None);
        }
        saw(self.value.get())
    }

    fn set(&self, value: u64) {
        let before = self.value.replace(value);
        with(|explorer| explorer.memory ^= mix(self.id, before) ^ mix(self.id, value));
    }
}

/// The process that runs has taken its step and seen a value.
fn saw(value: u64) -> u64 {
    with(|explorer| {
        let around = if explorer.running == 0 { (explorer.around)().seen } else { 0 };
        let process = &mut explorer.processes[explorer.running];
        process.seen = mix(mix(mix(process.seen, process.next), value), around);
    });
    value
}

/// A hash of two numbers.
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ b;
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl Touches {
    fn depends_on(self, other: Self) -> bool {
        match (self, other) {
            (Self::Nothing, _) | (_, Self::Nothing) | (Self::Reads(_), Self::Reads(_)) => false,
            (Self::All, _) | (_, Self::All) => true,
            (Self::Reads(one) | Self::Writes(one), Self::Reads(other) | Self::Writes(other)) => one == other,
        }
    }
}

impl Move {
    fn bit(self) -> Moves {
        match self {
            Self::Step(process) => 1 << process,
            Self::Die(process) => 1 << (32 + process),
        }
    }

    fn process(self) -> usize {
        match self {
            Self::Step(process) | Self::Die(process) => process,
        }
    }
}

impl Explorer {
    fn new(bounds: Bounds, around: fn() -> Around) -> Self {
        Self {
            bounds,
            around,
            path: Vec::new(),
            known: HashMap::new(),
            depth: 0,
            exploring: true,
            given_up: false,
            asleep: 0,
            processes: Vec::new(),
            memory: 0,
            words: 0,
            running: 0,
            favourite: None,
            preemptions: 0,
            deaths: 0,
        }
    }

    /// The next execution begins.
    fn begin(&mut self) {
        self.processes.clear();
        (self.depth, self.exploring, self.given_up, self.asleep) = (0, true, false, 0);
        (self.memory, self.words) = (0, 0);
        (self.running, self.favourite) = (0, None);
        self.preemptions = self.bounds.preemptions.unwrap_or(usize::MAX);
        self.deaths = self.bounds.deaths;
    }

    /// Goes back to the last choice that has something left; `false` where there is none.
    fn turn_back(&mut self) -> bool {
        while let Some(last) = self.path.last_mut() {
            last.taken += 1;
            if last.taken < last.moves.len() {
                return true;
            }
            self.path.pop();
        }
        false
    }

    fn spawn(&mut self, status: Status, body: Box<dyn FnOnce()>) -> &mut Process {
        let at = self.processes.len();
        self.processes.push(Process {
            body: Some(body),
            status,
            next: 0,
            touches: Touches::Nothing,
            seen: 0,
            fate: Fate::Spared,
            fresh: true,
            event: None,
        });
        &mut self.processes[at]
    }

    /// Who runs after `process`, which has stopped or ended.
    fn goes_on_with(&mut self, process: usize) -> Option<usize> {
        let has_ended = matches!(self.processes[process].status, Status::Done);
        let next = if self.given_up || !has_ended { Some(self.running) } else { self.choose() };
        next.filter(|_| !self.given_up)
    }

    /// Somebody who was at work when the execution was given up.
    fn who_is_left(&mut self) -> Option<usize> {
        let at_work = |process: &Process| process.body.is_none() && !matches!(process.status, Status::Done);
        let left = self.processes.iter().position(at_work).filter(|_| self.given_up)?;
        self.running = left;
        Some(left)
    }

    fn is_ready(&self, process: usize) -> bool {
        match &self.processes[process].status {
            Status::Ready => true,
            Status::Until(condition) => condition(),
            Status::Parked | Status::Done => false,
        }
    }

    /// Makes the next move, and returns who runs then; `None` where everything has come to its end.
    fn choose(&mut self) -> Option<usize> {
        assert!(self.depth < FOR_EVER, "deadlock: this never ends");
        if self.exploring && self.depth == self.path.len() {
            let moves = self.moves()?;
            if !self.look_at(moves) {
                self.given_up = true;
                return Some(self.running);
            }
        }
        let chosen = if self.exploring {
            let Choice { moves, taken, asleep } = &self.path[self.depth];
            let before = moves[..*taken].iter().fold(*asleep, |all, before| all | before.bit());
            let chosen = moves[*taken];
            self.asleep = self.independent_of(chosen, before);
            chosen
        } else {
            self.moves()?[0]
        };
        self.depth += 1;
        match chosen {
            Move::Step(process) => {
                let stops_one =
                    self.favourite.is_some_and(|favourite| favourite != process && self.is_ready(favourite));
                self.preemptions = self.preemptions.saturating_sub(usize::from(stops_one));
                // Where sleep sets see to deaths that come later, they are all of them choices.
                let bounded = self.bounds.preemptions.is_some();
                self.processes.iter_mut().for_each(|other| other.fresh = !bounded);
                let next = &mut self.processes[process];
                (next.event, next.fresh) = (None, true);
                self.favourite = Some(process);
            }
            Move::Die(process) => {
                if self.favourite == Some(process) {
                    self.favourite = None;
                }
                let dead = &mut self.processes[process];
                self.deaths -= usize::from(dead.fate == Fate::Mortal);
                dead.fate = Fate::Dying;
            }
        }
        self.running = chosen.process();
        Some(self.running)
    }

    /// All that can happen next, with what happens without a choice first. `None` where everything has come to its end.
    fn moves(&self) -> Option<Vec<Move>> {
        let all = 0..self.processes.len();
        let favourite = self.favourite.filter(|&favourite| self.is_ready(favourite));
        let others = |events: &'static [When]| {
            let is_other = move |&process: &usize| Some(process) != favourite;
            let is_one = move |process: &Process| match process.event {
                None => events.contains(&When::Surely),
                Some(when) => events.contains(&when),
            };
            let may_step = move |&at: &usize| is_one(&self.processes[at]) && self.is_ready(at);
            all.clone().filter(is_other).filter(may_step).map(Move::Step)
        };
        let may_stop = favourite.is_none() || self.preemptions > 0;
        let mut moves: Vec<_> = favourite.into_iter().map(Move::Step).collect();
        if may_stop {
            moves.extend(others(&[When::Surely]));
        }
        let dead = |like: Fate| {
            move |process: &usize| {
                let Process { fate, touches, ref status, fresh, .. } = self.processes[*process];
                let may_die =
                    fate == like && (fresh || fate == Fate::Doomed) && (fate == Fate::Doomed || self.deaths > 0);
                // Nobody can tell whether it has taken a step before it dies by which it changes nothing.
                let as_well_later = matches!((touches, status), (Touches::Reads(_), Status::Ready));
                may_die && !as_well_later
            }
        };
        moves.extend(all.clone().filter(dead(Fate::Doomed)).map(Move::Die));
        if moves.is_empty() {
            moves.extend(others(&[When::AtLast]));
        }
        if moves.is_empty() {
            let is_over = |process: &Process| matches!(process.status, Status::Done) || process.event.is_some();
            assert!(self.processes.iter().all(is_over), "deadlock: everybody waits");
            return None;
        }
        moves.extend(all.clone().filter(dead(Fate::Mortal)).map(Move::Die));
        if may_stop {
            moves.extend(others(&[When::Perhaps]));
        }
        Some(moves)
    }

    /// Those of so many moves that do not depend on one that is made.
    fn independent_of(&self, made: Move, moves: Moves) -> Moves {
        if self.bounds.preemptions.is_some() || moves == 0 {
            return 0;
        }
        let alert = (self.around)().alert;
        let depends = |other: Move| match (made, other) {
            _ if made.process() == other.process() => true,
            (Move::Step(one), Move::Step(other)) => {
                self.processes[one].touches.depends_on(self.processes[other].touches)
            }
            (Move::Die(_), Move::Die(_)) => true,
            (Move::Die(_), Move::Step(process)) | (Move::Step(process), Move::Die(_)) => {
                self.processes[process].touches == Touches::All || (process == 0 && alert)
            }
        };
        let is_left = |other: &Move| moves & other.bit() != 0 && !depends(*other);
        let all = (0..self.processes.len()).flat_map(|process| [Move::Step(process), Move::Die(process)]);
        all.filter(is_left).fold(0, |all, other| all | other.bit())
    }

    /// Notes as a choice which of the moves were not looked at in this state; `false` where all of them were.
    fn look_at(&mut self, mut moves: Vec<Move>) -> bool {
        let left = self.preemptions.saturating_add(1);
        let mut asleep = self.asleep;
        let state = self.state();
        let known = self.known.entry(state).or_default();
        if known.left < left {
            *known = Known { left, asleep };
            moves.retain(|other| asleep & other.bit() == 0);
        } else {
            let missing = known.asleep & !asleep;
            asleep &= known.asleep;
            known.asleep = asleep;
            moves.retain(|other| missing & other.bit() != 0);
        }
        let is_choice = !moves.is_empty();
        if is_choice {
            self.path.push(Choice { moves, taken: 0, asleep });
        }
        is_choice
    }

    /// A hash of all that the rest of an execution depends on.
    fn state(&self) -> u64 {
        let favourite = self.favourite.filter(|_| self.bounds.preemptions.is_some());
        let Around { seen, checked, .. } = (self.around)();
        let mut state = mix(mix(mix(self.memory, seen), checked), self.deaths as u64);
        state = mix(state, favourite.map_or(u64::MAX, |favourite| favourite as u64));
        for process in &self.processes {
            let status = match process.status {
                Status::Ready => 0,
                Status::Parked => 1,
                Status::Until(_) => 2,
                Status::Done => 3,
            };
            let bits = (status << 2 | process.fate as u64) << 2
                | u64::from(process.event.is_some()) << 1
                | u64::from(process.fresh);
            state = mix(mix(mix(state, process.next), process.seen), bits);
        }
        state
    }
}
