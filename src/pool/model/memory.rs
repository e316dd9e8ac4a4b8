//! A page of the checker's memory, and the futexes on it.

use std::cell::{Cell as Plain, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::checker::{self, Region, Thread};
use super::life::{Life, die};
use super::steps::{self, mix};
use super::{scenario, trace};
use crate::pool::control::{ControlPage, Memory, PLACES, Word, Words};

/// More of them are not looked at.
const MESSAGES: usize = 8;
const EIGHT: usize = size_of::<u64>();

thread_local! {
    static PORTION: Plain<usize> = const { Plain::new(1) };
}

/// How many tickets workers draw at a time, where there are so many.
pub(super) fn set_portion(portion: usize) {
    PORTION.set(portion);
}

/// A word, and who sleeps on it.
pub(super) struct Cell {
    value: checker::Word,
    /// What the word counts, where it counts messages: loom has to know that they are there before.
    messages: Vec<Region>,
    sleepers: RefCell<Vec<Thread>>,
}

impl Cell {
    pub(super) fn new() -> Self {
        Self { value: checker::Word::new(), messages: Vec::new(), sleepers: RefCell::default() }
    }

    /// One that counts messages.
    fn counting() -> Self {
        let most = if steps::runs() { 0 } else { MESSAGES };
        Self { messages: (0..most).map(|_| Region::new()).collect(), ..Self::new() }
    }

    /// A message was sent that is about to be counted.
    fn send(&self, count: u64) {
        let at = usize::try_from(count).ok().and_then(|count| count.checked_sub(1));
        if let Some(message) = at.and_then(|at| self.messages.get(at)) {
            message.write(|| count);
        }
    }

    /// So many are there.
    fn receive(&self, count: u64) {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.messages.iter().take(count).for_each(Region::read);
    }

    pub(super) fn load(&self, order: Ordering) -> u64 {
        self.value.load(order)
    }

    pub(super) fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.value.swap(value, order)
    }

    /// The kernel compares the word under a lock that who wakes takes as well. So what it compares is the newest value,
    /// as a read-modify-write sees it, and nothing happens between that and the sleep. Nobody's time is ever over, unless
    /// `is_late` says so.
    pub(super) fn sleep(&self, expected: u64, is_late: impl FnOnce() -> bool) {
        let lower_half = u64::from(u32::MAX);
        if self.value.fetch_add(0, Ordering::Relaxed) & lower_half == expected & lower_half && !is_late() {
            let me = Thread::current();
            self.sleepers.borrow_mut().push(me.clone());
            if !checker::park() {
                self.sleepers.borrow_mut().retain(|sleeper| !sleeper.is(&me));
                die(None);
            }
        }
    }

    pub(super) fn wake(&self) {
        self.sleepers.take().iter().for_each(Thread::unpark);
    }

    /// Changes the word and wakes who sleeps on it.
    pub(super) fn publish(&self, value: u64) {
        self.value.swap(value, Ordering::Release);
        self.wake();
    }

    /// Sleeps until the word is another one than `seen`.
    pub(super) fn wait_while(&self, seen: u64) -> u64 {
        if let checker::Word::Steps(word) = &self.value {
            return word.wait_while(seen);
        }
        loop {
            let now = self.load(Ordering::Acquire);
            if now != seen {
                return now;
            }
            self.sleep(seen, || false);
        }
    }
}

/// Bytes that may be used by one side at a time.
struct Area<T> {
    region: Region,
    content: RefCell<T>,
}

impl<T: Default + Clone + AsRef<[u8]>> Area<T> {
    fn new() -> Self {
        Self { region: Region::new(), content: RefCell::default() }
    }

    fn write(&self, content: T) {
        self.region.write(|| content.as_ref().iter().fold(0, |hash, &byte| mix(hash, byte.into())));
        self.content.replace(content);
    }

    fn read(&self) -> T {
        self.region.read();
        self.content.borrow().clone()
    }
}

/// What parent and workers share.
pub(super) struct Page {
    lines: Vec<[Rc<Cell>; PLACES]>,
    description: Area<Vec<u8>>,
    description_at: usize,
    results: Vec<Area<[u8; EIGHT]>>,
    results_at: usize,
}

impl Page {
    pub(super) fn new(workers: usize) -> Self {
        type Control = ControlPage<Seen>;
        let word = |line, place| if Control::counts_messages(line, place) { Cell::counting() } else { Cell::new() };
        let line = |line| std::array::from_fn(|place| Rc::new(word(line, place)));
        let description_at = Control::description_offset(workers);
        Self {
            lines: (0..Control::lines(workers)).map(line).collect(),
            description: Area::new(),
            description_at,
            results: (0..workers * Seen::RESULTS_LEN / EIGHT).map(|_| Area::new()).collect(),
            results_at: description_at + Seen::DESCRIPTION_LEN,
        }
    }
}

/// The page as one process sees it: whatever it does there is a step of its life.
pub(super) struct Seen {
    page: Rc<Page>,
    lines: Vec<[SeenWord; PLACES]>,
    life: Rc<Life>,
}

pub(super) struct SeenWord {
    cell: Rc<Cell>,
    place: (usize, usize),
    life: Rc<Life>,
}

impl Seen {
    pub(super) fn new(page: Rc<Page>, life: &Rc<Life>) -> Self {
        let word = |line, (place, cell): (usize, &Rc<Cell>)| SeenWord {
            cell: Rc::clone(cell),
            place: (line, place),
            life: Rc::clone(life),
        };
        let words = |(at, line): (usize, &[_; PLACES])| std::array::from_fn(|place| word(at, (place, &line[place])));
        let lines = page.lines.iter().enumerate().map(words).collect();
        Self { page, lines, life: Rc::clone(life) }
    }
}

impl Words for Seen {
    type Word = SeenWord;

    fn line(&self, line: usize) -> &[SeenWord; PLACES] {
        &self.lines[line]
    }

    fn portion(&self, left: usize, _most: usize) -> usize {
        PORTION.get().min(left)
    }
}

impl Memory for Seen {
    const DESCRIPTION_LEN: usize = 1024;
    /// Room for two small outcomes, for one and the end of a range, or for two numbers in a run.
    const RESULTS_LEN: usize = 4 * EIGHT;

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        if offset == self.page.description_at {
            if self.life.goes_on() {
                self.page.description.write(bytes.to_vec());
            }
            return;
        }
        let first = (offset - self.page.results_at) / EIGHT;
        for (area, bytes) in self.page.results[first..].iter().zip(bytes.as_chunks().0) {
            if self.life.goes_on() {
                area.write(*bytes);
            }
        }
    }

    fn put(&self, offset: usize, words: &[u64]) {
        self.copy_in(offset, bytemuck::cast_slice(words));
    }

    fn copy_out(&self, offset: usize, out: &mut [u8]) {
        if !self.life.goes_on() {
            return;
        }
        if offset == self.page.description_at {
            let description = self.page.description.read();
            out.copy_from_slice(&description[..out.len()]);
            return;
        }
        let first = (offset - self.page.results_at) / EIGHT;
        for (area, out) in self.page.results[first..].iter().zip(out.as_chunks_mut().0) {
            *out = area.read();
        }
    }
}

impl SeenWord {
    fn ordered(&self, order: Ordering) -> Ordering {
        match self.life.memory() {
            scenario::Memory::AsOrdered | scenario::Memory::WithoutFences => order,
            scenario::Memory::Strong => Ordering::SeqCst,
            scenario::Memory::Relaxed => Ordering::Relaxed,
        }
    }

    fn note(&self, what: &'static str, value: u64) -> u64 {
        trace::note(self.life.who(), what, self.place, value);
        value
    }
}

impl Word for SeenWord {
    fn load(&self, order: Ordering) -> u64 {
        if !self.life.goes_on() {
            return 0;
        }
        let value = self.cell.value.load(self.ordered(order));
        self.cell.receive(value);
        self.note("load", value)
    }

    fn store(&self, value: u64, order: Ordering) {
        if self.life.goes_on() {
            self.cell.send(value);
            self.cell.value.store(value, self.ordered(order));
            self.note("store", value);
        }
    }

    fn compare_exchange(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        if !self.life.goes_on() {
            return Ok(old);
        }
        let orders = [order, Ordering::Relaxed].map(|order| self.ordered(order));
        let exchanged = self.cell.value.compare_exchange(old, new, orders);
        exchanged.inspect(|_| _ = self.note("exchange", new)).inspect_err(|&now| _ = self.note("exchange in vain", now))
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        if self.life.goes_on() { self.note("add to", self.cell.value.fetch_add(value, self.ordered(order))) } else { 0 }
    }

    fn sleep(&self, expected: u64, timeout: Option<Duration>) {
        if self.life.goes_on() {
            self.note("sleep", expected);
            self.life.sleep_in(&self.cell);
            self.cell.sleep(expected, || timeout == Some(Duration::ZERO) || self.life.is_late());
            self.note("awake", expected);
        }
    }

    fn wake(&self) {
        if self.life.goes_on() {
            self.cell.value.ring();
            self.cell.wake();
            self.note("wake", 0);
        }
    }

    fn fence() {
        if !std::thread::panicking() {
            checker::fence();
        }
    }
}
