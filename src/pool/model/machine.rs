//! A machine with processes that are threads of the model checker: the parent's system calls, and the kernel's part in
//! deaths.

use std::cell::{Cell as Plain, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use loom::sync::atomic::AtomicBool;
use loom::thread::{self, JoinHandle, ThreadId};

use super::life::{Death, Life, die};
use super::memory::{self, Cell, Page, Seen};
use super::scenario::{Memory, Scenario};
use super::stage::Stage;
use super::trace::{self, Who};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::control::ControlPage;
use crate::pool::system::{News, Process, System};
use crate::pool::worker::work_in;
use crate::start::Role;
use crate::start::spawn::{SpawnOptions, WorkerProcess};
use crate::sys::lock::Patience;
use crate::sys::oom::OomKills;
use crate::sys::process::{Ended, poll_readable};
use crate::sys::socket::Socket;

/// The checker's threads have small stacks. In words.
const STACK: usize = 32 * 1024;

thread_local! {
    /// All threads of the checker are coroutines of one thread.
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
}

/// What there is in one execution.
pub(super) struct Machine {
    pub(super) scenario: &'static Scenario,
    pub(super) stage: Stage,
    null: File,
    page: RefCell<Option<Rc<Page>>>,
    /// Of the parent, which does not die.
    life: Rc<Life>,
    news: AtomicBool,
    bell: RefCell<Option<Arc<ControlPage<Seen>>>>,
    places: Vec<Place>,
    /// The life of the process that is about to map the page.
    newborn: RefCell<Option<Rc<Life>>>,
    pids: Plain<u32>,
    /// The pool is being dropped: nobody dies from here on, and no news are made of who ends.
    farewell: Plain<bool>,
}

/// Where one worker after another lives, in the same thread of the checker: it has few.
struct Place {
    /// How many workers were born here, or that there will be none.
    door: Cell,
    newborn: RefCell<Option<(Socket, Rc<Child>)>>,
    thread: Plain<Option<ThreadId>>,
    alive: RefCell<Option<Rc<Life>>>,
}

const CLOSED: u64 = u64::MAX;

/// A worker process.
pub(super) struct Child {
    life: Rc<Life>,
    /// 1 once it can be reaped.
    ended: Cell,
    how: Plain<Ended>,
}

impl Machine {
    fn current() -> Rc<Machine> {
        MACHINE.with_borrow(|machine| Rc::clone(machine.as_ref().expect("a machine runs")))
    }

    /// Runs `parent` with a machine of its own. To be called by the checker.
    pub(super) fn run(scenario: &'static Scenario, parent: fn(&Machine)) {
        let builder = thread::Builder::new().stack_size(STACK);
        let parent = builder.spawn(move || {
            trace::begin();
            memory::set_fences(scenario.memory != Memory::WithoutFences);
            memory::set_portion(scenario.portion);
            let machine = Rc::new(Machine::new(scenario));
            MACHINE.set(Some(Rc::clone(&machine)));
            let threads: Vec<_> = (0..scenario.workers).map(inhabit).collect();
            parent(&machine);
            for place in &machine.places {
                place.door.publish(CLOSED);
            }
            for thread in threads {
                thread.join().expect("the thread has ended");
            }
            MACHINE.set(None);
        });
        parent.expect("a thread").join().expect("the parent has ended");
    }

    fn new(scenario: &'static Scenario) -> Self {
        let place = |_| Place {
            door: Cell::new(),
            newborn: RefCell::default(),
            thread: Plain::new(None),
            alive: RefCell::default(),
        };
        Self {
            scenario,
            stage: Stage::new(scenario),
            null: File::open("/dev/null").expect("there is a null device"),
            page: RefCell::default(),
            life: Rc::new(Life::new(Who::Parent, scenario.memory, None)),
            news: AtomicBool::new(false),
            bell: RefCell::default(),
            places: (0..scenario.workers).map(place).collect(),
            newborn: RefCell::default(),
            pids: Plain::new(0),
            farewell: Plain::new(false),
        }
    }

    /// The parent is about to drop the pool.
    pub(super) fn say_farewell(&self) {
        self.farewell.set(true);
        if !self.scenario.farewell {
            loom::stop_exploring();
        }
    }

    fn page(&self, workers: usize) -> Rc<Page> {
        Rc::clone(self.page.borrow_mut().get_or_insert_with(|| Rc::new(Page::new(workers))))
    }

    fn null(&self) -> OwnedFd {
        self.null.as_fd().try_clone_to_owned().expect("there is room for a descriptor")
    }

    /// What the task of a chunk does, in the worker that runs it.
    pub(super) fn run_task<R>(task: impl FnOnce(&Stage, &Life) -> R) -> R {
        let machine = Self::current();
        let this = thread::current().id();
        let place = machine.places.iter().find(|place| place.thread.get() == Some(this));
        let life = place.and_then(|place| place.alive.borrow().clone()).expect("tasks run in workers");
        task(&machine.stage, &life)
    }
}

/// Starts the thread of one place.
fn inhabit(index: usize) -> JoinHandle<()> {
    let live = move || {
        let machine = Machine::current();
        let place = &machine.places[index];
        place.thread.set(Some(thread::current().id()));
        let mut seen = 0;
        loop {
            seen = place.door.wait_while(seen);
            if seen == CLOSED {
                return;
            }
            let (socket, child) = place.newborn.take().expect("somebody was born");
            place.alive.replace(Some(Rc::clone(&child.life)));
            live_as(&machine, index, socket, &child);
        }
    };
    thread::Builder::new().stack_size(STACK).spawn(live).expect("the checker has a thread")
}

fn live_as(machine: &Machine, index: usize, socket: Socket, child: &Child) {
    // A real worker waits in the kernel for its first message, which nobody rings for.
    while poll_readable(&[socket.as_fd()], Some(Duration::ZERO)).is_ok_and(|readable| readable == [false]) {
        thread::yield_now();
    }
    machine.newborn.replace(Some(Rc::clone(&child.life)));
    let lived = catch_unwind(AssertUnwindSafe(|| work_in::<Model>(socket, index)));
    let payload = match lived {
        Err(payload) => payload,
        Ok(never) => never,
    };
    let death = payload.downcast::<Death>().unwrap_or_else(|other| resume_unwind(other));
    assert!(!child.life.haunts(), "unwinding is no part of the model");
    // From here on it is the kernel that acts. All that the worker did comes before.
    child.how.set(match death.exit_code {
        Some(code) => Ended::Exited(code),
        // Where it is a signal, the kernel is asked whether it was short of memory.
        None => Ended::Unknown,
    });
    if death.exit_code.is_none() {
        machine.stage.note_death();
    }
    trace::note(child.life.who(), "ended", (0, 0), 0);
    child.ended.publish(1);
    if !machine.farewell.get() {
        // The thread that watches: it learns of it some time later.
        machine.news.swap(true, Release);
        let bell = machine.bell.borrow().clone();
        bell.expect("somebody watches").ring_parent();
    }
}

/// The system of this machine.
pub(super) enum Model {}

impl System for Model {
    type Memory = Seen;
    type Process = Handle;
    type Starting = WorkerProcess<Handle>;
    type News = Watching;

    fn create_page(workers: usize) -> Result<ControlPage<Seen>> {
        let machine = Machine::current();
        Ok(ControlPage::over(Seen::new(machine.page(workers), &machine.life), machine.null(), workers))
    }

    fn map_page(fd: OwnedFd, workers: usize) -> Result<ControlPage<Seen>> {
        let machine = Machine::current();
        let life = machine.newborn.take().expect("somebody was born");
        Ok(ControlPage::over(Seen::new(machine.page(workers), &life), fd, workers))
    }

    fn begin(options: &SpawnOptions) -> Result<WorkerProcess<Handle>> {
        if std::thread::panicking() {
            return Err(Error::new(ErrorKind::Closed, "a check has failed"));
        }
        let Role::Worker(index) = options.role else { unreachable!("a pool starts workers") };
        let machine = Machine::current();
        let (socket, theirs) = Socket::pair()?;
        let pid = machine.pids.get();
        machine.pids.set(pid + 1);
        let scenario = machine.scenario;
        let life = Rc::new(Life::new(Who::Worker(pid), scenario.memory, scenario.last_step_of(pid)));
        let child = Rc::new(Child { life, ended: Cell::new(), how: Plain::new(Ended::Unknown) });
        let place = &machine.places[index];
        place.newborn.replace(Some((theirs, Rc::clone(&child))));
        place.door.publish(u64::from(pid) + 1);
        Ok(WorkerProcess { pid, pidfd: Handle(child), socket })
    }

    fn finish(starting: WorkerProcess<Handle>, _patience: Option<&dyn Patience>) -> Result<WorkerProcess<Handle>> {
        Ok(starting)
    }

    fn oom_kills() -> OomKills {
        OomKills::default()
    }

    fn now() -> Duration {
        let machine = Machine::current();
        machine.stage.tick(machine.scenario.news_after_each_chunk)
    }

    fn exit(code: i32) -> ! {
        die(Some(code))
    }
}

/// The parent's hold on a worker.
pub(super) struct Handle(Rc<Child>);

/// Nobody ever has to wait for it: sockets have room for all that is sent.
impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("only the kernel can be asked about a descriptor")
    }
}

impl Process for Handle {
    fn kill(&self, _signal: i32) -> io::Result<()> {
        Ok(())
    }

    fn has_ended(&self) -> bool {
        std::thread::panicking() || self.0.ended.load(Acquire) != 0
    }

    fn wait(&self) -> Ended {
        if !std::thread::panicking() {
            self.0.ended.wait_while(0);
        }
        self.0.how.get()
    }

    /// Whoever was told to end does so in time.
    fn wait_timeout(&self, _timeout: Duration) -> Option<Ended> {
        Some(self.wait())
    }
}

/// The thread that watches is the rest of a dead worker's, see [`live_as`].
pub(super) struct Watching(Rc<Machine>);

impl News<Model> for Watching {
    fn start(page: Arc<ControlPage<Seen>>) -> Result<Self> {
        let machine = Machine::current();
        machine.bell.replace(Some(page));
        Ok(Self(machine))
    }

    fn add(&self, _worker: &WorkerProcess<Handle>) -> Result<()> {
        Ok(())
    }

    fn has_news(&self) -> bool {
        std::thread::panicking() || self.0.news.load(Relaxed)
    }

    fn take_news(&self) -> bool {
        self.has_news() && (std::thread::panicking() || self.0.news.swap(false, Acquire))
    }
}
