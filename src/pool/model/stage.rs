//! What the tasks of a call do, and what is expected of calls.

use std::cell::{Cell, RefCell};
use std::fmt;

use loom::cell::UnsafeCell;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::life::Life;
use super::scenario::{Returns, Scenario};
use super::steps::{self, mix};
use super::trace::Who;
use crate::error::{Error, ErrorKind};
use crate::pool::schedule::Schedule;
use crate::pool::tally::Settled;

/// The rows of the calls' array, and the records of who was there.
pub(super) struct Stage {
    rows: Vec<Row>,
    returns: RefCell<&'static [Returns]>,
    /// How many workers there are, where their shares are their own.
    fixed_shares: Option<usize>,
    /// Whether a call runs.
    open: Cell<bool>,
    /// How often the chunk was begun in this call, how often it came to its end, and how many workers have died that had
    /// begun no other one since.
    begun: RefCell<Vec<u32>>,
    ended: RefCell<Vec<u32>>,
    lost: RefCell<Vec<u32>>,
    deaths: Cell<u32>,
    /// When this call and the one before it began.
    deaths_before: Cell<u32>,
    deaths_before_last: Cell<u32>,
    /// What was seen in a task, where a panic would be the task's.
    wrong: RefCell<Option<String>>,
    /// How many workers have closed their sockets and lived on, and who, as a hash.
    hung_up: Cell<(u32, u64)>,
    /// A task had failed when nothing more could happen.
    failed_in_time: Cell<bool>,
    /// What was sent by socket, by whom and in which order, as a hash.
    sent: Cell<u64>,
}

/// A row for each chunk, which is one worker's from when it begins the chunk until the parent knows that it is done or has
/// reaped the worker, and the parent's between calls.
struct Row {
    /// Loom finds uses that nothing orders.
    uses: Option<UnsafeCell<()>>,
    user: Cell<Option<Who>>,
}

/// So many bytes do not fit into a worker's area.
const LARGE: usize = 100;

/// What a task returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Nothing,
    Number(u64),
    /// So many of the same.
    Bytes(u8, usize),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Nothing => serializer.serialize_none(),
            Self::Number(number) => serializer.serialize_u64(number),
            Self::Bytes(byte, len) => serializer.serialize_bytes(&[byte; LARGE][..len]),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl Visitor<'_> for Reading {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("nothing, a number, or bytes")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Nothing)
            }

            fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
                Ok(Value::Number(number))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value, E> {
                Ok(Value::Bytes(bytes.first().copied().unwrap_or_default(), bytes.len()))
            }
        }
        deserializer.deserialize_any(Reading)
    }
}

impl Stage {
    pub(super) fn new(scenario: &Scenario) -> Self {
        let most = scenario.calls.iter().map(|call| call.len()).max().unwrap_or(0);
        let row = |_| Row { uses: (!steps::runs()).then(|| UnsafeCell::new(())), user: Cell::new(None) };
        Self {
            rows: (0..most).map(row).collect(),
            returns: RefCell::new(&[]),
            fixed_shares: (scenario.schedule == Schedule::Static).then_some(scenario.workers),
            open: Cell::new(false),
            begun: RefCell::default(),
            ended: RefCell::default(),
            lost: RefCell::default(),
            deaths: Cell::new(0),
            deaths_before: Cell::new(0),
            deaths_before_last: Cell::new(0),
            wrong: RefCell::default(),
            hung_up: Cell::default(),
            failed_in_time: Cell::new(false),
            sent: Cell::new(0),
        }
    }

    /// Parent: the next call begins, and has the rows.
    pub(super) fn begin(&self, returns: &'static [Returns]) {
        self.take_rows();
        self.returns.replace(returns);
        for records in [&self.begun, &self.ended, &self.lost] {
            records.replace(vec![0; returns.len()]);
        }
        self.deaths_before_last.set(self.deaths_before.replace(self.deaths.get()));
        self.failed_in_time.set(false);
        self.open.set(true);
    }

    /// Parent: the rows are the owner's between calls.
    fn take_rows(&self) {
        for row in &self.rows {
            let user = row.user.get().map(|who| who.to_string());
            assert_eq!(user, None, "the caller has the rows back, and so has this one");
            row.touch();
        }
    }

    /// Worker: a task runs.
    pub(super) fn run(&self, life: &Life, chunk: usize) -> Result<Value, String> {
        let nothing = Ok(Value::Nothing);
        // It is noted that it begins.
        life.chunk.set(Some(chunk));
        if !life.goes_on_in_task(mix(10, chunk as u64)) {
            return nothing;
        }
        let (row, returns) = (&self.rows[chunk], self.returns.borrow()[chunk]);
        let user = row.user.replace(Some(life.who()));
        self.expect(self.open.get(), || format!("chunk {chunk} is run when its call has returned"));
        if let Some(owner) = self.owner(chunk) {
            self.expect(owner == life.who(), || format!("chunk {chunk} is run by another worker than its own"));
        }
        self.expect(user.is_none(), || format!("chunk {chunk} is run by two workers"));
        self.expect(self.begun.borrow()[chunk] <= self.lost.borrow()[chunk], || {
            format!("chunk {chunk} runs again, and was not lost")
        });
        self.begun.borrow_mut()[chunk] += 1;
        row.touch();
        if matches!(returns, Returns::NothingDeaf | Returns::NeverDeaf) && !life.has_hung_up() {
            life.hang_up();
            let (times, who) = self.hung_up.get();
            self.hung_up.set((times + 1, who ^ mix(life.who().number(), 1)));
        }
        if returns.is_for_ever() {
            life.is_stuck();
            return nothing;
        }
        if !life.goes_on_in_task(mix(11, chunk as u64)) {
            return nothing;
        }
        row.touch();
        row.user.set(None);
        self.ended.borrow_mut()[chunk] += 1;
        if matches!(returns, Returns::Much | Returns::FailureAtLength) {
            self.sent.set(mix(mix(self.sent.get(), chunk as u64), life.who().number()));
        }
        returns.value(chunk)
    }

    /// Whose share a chunk is of, where shares are their workers' own and nobody has died.
    fn owner(&self, chunk: usize) -> Option<Who> {
        let workers = self.fixed_shares.filter(|_| self.deaths.get() == 0)?;
        let chunks = self.returns.borrow().len();
        let sharers = workers.min(chunks);
        let owner = (0..sharers).find(|worker| chunk < chunks * (worker + 1) / sharers)?;
        Some(Who::Worker(u32::try_from(owner).ok()?))
    }

    fn expect(&self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrong.borrow_mut().get_or_insert_with(otherwise);
        }
    }

    /// Has all been right that nobody could say?
    pub(super) fn check_tasks(&self) {
        assert_eq!(self.wrong.take(), None);
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    pub(super) fn hung_up(&self) -> u32 {
        self.hung_up.get().0
    }

    /// As a hash.
    pub(super) fn who_hung_up(&self) -> u64 {
        self.hung_up.get().1
    }

    /// How many have died since the call began.
    pub(super) fn deaths_in_call(&self) -> u32 {
        self.deaths.get() - self.deaths_before.get()
    }

    /// How many may have died in it or, as the parent had not heard when it began, in the one before.
    pub(super) fn deaths_of_two_calls(&self) -> u32 {
        self.deaths.get() - self.deaths_before_last.get()
    }

    /// Nothing more can happen unless the call is told to end: the parent knows of all that was done, `told` chunks of it.
    pub(super) fn check_in_time(&self, told: usize) {
        let (returns, ended) = (self.returns.borrow(), self.ended.borrow());
        let (failed, done): (Vec<_>, Vec<_>) =
            (0..returns.len()).filter(|&chunk| ended[chunk] > 0).partition(|&chunk| returns[chunk].fails());
        if self.deaths_in_call() == 0 {
            assert_eq!(told, done.len(), "the caller is told of what is done while other chunks run");
            self.failed_in_time.set(!failed.is_empty());
        }
    }

    pub(super) fn has_seen_death(&self) -> bool {
        self.deaths.get() > 0
    }

    /// Kernel: a worker was killed that had begun this chunk last.
    pub(super) fn note_death(&self, chunk: Option<usize>) {
        self.deaths.set(self.deaths.get() + 1);
        if let Some(lost) = chunk.and_then(|chunk| self.lost.borrow().get(chunk).copied()) {
            self.lost.borrow_mut()[chunk.unwrap_or_default()] = lost + 1;
        }
    }

    /// Kernel: what a dead worker had in its hands is nobody's.
    pub(super) fn note_reaped(&self, who: Who) {
        self.rows.iter().filter(|row| row.user.get() == Some(who)).for_each(|row| row.user.set(None));
    }

    /// All that checks depend on, as a hash.
    pub(super) fn digest(&self) -> u64 {
        let flags = u64::from(self.failed_in_time.get()) << 1 | u64::from(self.open.get());
        let mut hash = mix(self.sent.get(), u64::from(self.deaths.get()) << 2 | flags);
        hash = mix(hash, u64::from(self.deaths_before.get()) << 32 | u64::from(self.deaths_before_last.get()));
        for records in [&self.begun, &self.ended, &self.lost] {
            hash = records.borrow().iter().fold(hash, |hash, &number| mix(hash, number.into()));
        }
        self.rows.iter().fold(hash, |hash, row| mix(hash, row.user.get().map_or(0, Who::number)))
    }

    /// Parent: the call has returned.
    pub(super) fn check(&self, settled: &Settled, retries: u32, reasons: Reasons) {
        // Settled: nobody has the rows any more.
        self.open.set(false);
        self.check_tasks();
        self.take_rows();
        let returns = *self.returns.borrow();
        let (begun, ended, lost) = (self.begun.borrow(), self.ended.borrow(), self.lost.borrow());
        let deaths = self.deaths_in_call();
        for chunk in 0..returns.len() {
            assert!(begun[chunk] <= 1 + retries.min(deaths), "chunk {chunk} was begun {} times", begun[chunk]);
        }
        match &settled.failure {
            None => {
                let results = settled.results.decode::<Value>().expect("every chunk has a result");
                let expected = returns.iter().enumerate().map(|(chunk, returns)| returns.value(chunk).ok());
                assert!(results.into_iter().map(Some).eq(expected), "results are those of their chunks");
                assert!(ended.iter().all(|&times| times > 0), "no chunk is left out");
                assert!(!settled.cut_short);
                if deaths == 0 {
                    assert!(ended.iter().all(|&times| times == 1), "every chunk runs once");
                }
            }
            Some(failure) => {
                let rows = failure.rows();
                let is_open = |chunk: usize| rows.iter().any(|rows| rows.contains(&chunk));
                for (chunk, returns) in returns.iter().enumerate() {
                    if is_open(chunk) {
                        let excused = ended[chunk] == 0 || returns.fails() || lost[chunk] > 0;
                        assert!(excused, "chunk {chunk} was done, and is not said to be: {failure}");
                    } else {
                        assert!(ended[chunk] > 0 && !returns.fails(), "chunk {chunk} is said to be done: {failure}");
                    }
                }
                let half_done = |chunk: usize| begun[chunk] > ended[chunk] && is_open(chunk);
                assert!(settled.cut_short || !(0..returns.len()).any(half_done), "rows are half written: {failure}");
                self.check_reason(failure, retries, reasons);
            }
        }
    }

    fn check_reason(&self, failure: &Error, retries: u32, reasons: Reasons) {
        let message = failure.to_string();
        assert!(!message.contains("no worker says"), "outcomes come once, and whole: {message}");
        match failure.kind() {
            ErrorKind::WorkerDied => {
                let lost = self.lost.borrow();
                let is_told = |&chunk: &usize| {
                    message.contains("while it ran rows") && message.contains(&format!("chunk {chunk} of"))
                };
                let chunk = (0..lost.len()).find(is_told).expect("what was lost is found");
                assert!(lost[chunk] > retries, "fewer have died over it than may: {message}");
                let is_open = failure.rows().iter().any(|rows| rows.contains(&chunk));
                assert!(is_open, "a chunk that is done is not lost: {message}");
            }
            ErrorKind::TaskFailed => {
                let (returns, ended) = (self.returns.borrow(), self.ended.borrow());
                let told =
                    |chunk: usize| message.contains(&format!("chunk {chunk} of")) && message.contains("failed: ");
                let is_told = (0..returns.len()).any(|chunk| returns[chunk].fails() && ended[chunk] > 0 && told(chunk));
                assert!(is_told, "a task failed that did not: {message}");
            }
            ErrorKind::Cancelled => {
                assert!(reasons.stopped, "nobody has cancelled it: {message}");
                assert!(!self.failed_in_time.get(), "a task had failed before: {message}");
            }
            ErrorKind::Io if message.contains("cannot map") => assert!(reasons.cut, "all of it is there: {message}"),
            ErrorKind::Io if message.contains("be started") => assert!(reasons.unstartable, "they can: {message}"),
            other => panic!("{other:?}: {message}"),
        }
    }
}

impl Row {
    fn touch(&self) {
        if let Some(uses) = &self.uses {
            uses.with_mut(|_| ());
        }
    }
}

/// What may end a call beside its tasks and deaths.
#[derive(Clone, Copy)]
pub(super) struct Reasons {
    pub(super) stopped: bool,
    /// A file that is lent was too short.
    pub(super) cut: bool,
    /// A worker could not be started.
    pub(super) unstartable: bool,
}

impl Returns {
    /// Somebody has to be killed.
    pub(super) fn is_for_ever(self) -> bool {
        matches!(self, Self::Never | Self::NeverDeaf)
    }

    fn fails(self) -> bool {
        matches!(self, Self::Failure | Self::FailureAtLength)
    }

    fn value(self, chunk: usize) -> Result<Value, String> {
        let byte = u8::try_from(chunk + 1).unwrap_or(u8::MAX);
        match self {
            Self::Nothing | Self::NothingDeaf | Self::Never | Self::NeverDeaf => Ok(Value::Nothing),
            Self::Number => Ok(Value::Number(byte.into())),
            Self::Little => Ok(Value::Bytes(byte, 1)),
            Self::Much => Ok(Value::Bytes(byte, LARGE)),
            Self::Failure => Err(String::new()),
            Self::FailureAtLength => Err("x".repeat(LARGE)),
        }
    }
}
