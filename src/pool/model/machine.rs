//! A machine with processes that are threads of a checker: the parent's system calls, and the kernel's part in deaths.

use std::cell::{Cell as Plain, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use super::checker::{self, Join, Thread};
use super::life::{Death, Life, die};
use super::memory::{self, Cell, Page, Seen};
use super::scenario::{Ending, Length, Memory, Returns, Scenario};
use super::stage::{Reasons, Stage};
use super::steps::{self, Around, When, mix};
use super::trace::{self, Who};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::CancelToken;
use crate::pool::control::ControlPage;
use crate::pool::system::{News, Process, System};
use crate::pool::worker::work_in;
use crate::start::Role;
use crate::start::spawn::{SpawnOptions, WorkerProcess};
use crate::sys::lock::Patience;
use crate::sys::oom::OomKills;
use crate::sys::process::{Ended, poll_readable};
use crate::sys::socket::Socket;

/// How far the clock goes when the tasks' time is over.
const HOUR: Duration = Duration::from_secs(3600);

thread_local! {
    /// All threads of a checker are coroutines of one thread.
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
    news: Cell,
    bell: RefCell<Option<Arc<ControlPage<Seen>>>>,
    places: Vec<Place>,
    /// The life of the process that is about to map the page.
    newborn: RefCell<Option<Rc<Life>>>,
    pids: Plain<u32>,
    /// Who is dead, as a hash.
    gone: Plain<u64>,
    /// The parent has had news, or may kill somebody.
    alert: Plain<bool>,
    /// The pool is being dropped: nobody dies from here on, and no news are made of who ends.
    farewell: Plain<bool>,
    /// How many calls have begun.
    pub(super) calls: Plain<usize>,
    /// How many chunks the caller was told of.
    pub(super) told: Plain<usize>,
    /// The file that is lent is too short.
    pub(super) cut: Plain<bool>,
    /// Somebody could not be started.
    short: Plain<bool>,
    /// What ends the call.
    pub(super) token: CancelToken,
    /// A call runs that may be told to end.
    pub(super) stoppable: Plain<bool>,
    /// It was, and the time that its tasks may take is over.
    stopped: Plain<bool>,
    out_of_grace: Plain<bool>,
    start: Instant,
}

/// Where one worker after another lives, in the same thread of the checker: it has few.
struct Place {
    /// How many workers were born here, or that there will be none.
    door: Cell,
    newborn: RefCell<Option<(Socket, Rc<Child>)>>,
    thread: RefCell<Option<Thread>>,
    alive: RefCell<Option<Rc<Life>>>,
}

const CLOSED: u64 = u64::MAX;

/// A worker process.
pub(super) struct Child {
    pid: u32,
    place: usize,
    life: Rc<Life>,
    /// It does nothing any more, whether that can be seen or not.
    gone: Plain<bool>,
    killed: Plain<bool>,
    /// 1 once it can be reaped.
    ended: Cell,
    how: Plain<Ended>,
}

impl Machine {
    fn current() -> Rc<Machine> {
        MACHINE.with_borrow(|machine| Rc::clone(machine.as_ref().expect("a machine runs")))
    }

    /// Runs `parent` with a machine of its own. To be called by a checker.
    pub(super) fn run(scenario: &'static Scenario, parent: fn(&Machine)) {
        trace::begin();
        checker::set_fences(scenario.memory != Memory::WithoutFences);
        memory::set_portion(scenario.portion);
        let machine = Rc::new(Machine::new(scenario));
        MACHINE.set(Some(Rc::clone(&machine)));
        let mut threads: Vec<_> = (0..scenario.workers).map(inhabit).collect();
        threads.extend(scenario.ending.map(|ending| machine.end_call(ending)));
        machine.expect_mischief();
        parent(&machine);
        for place in &machine.places {
            place.door.publish(CLOSED);
        }
        threads.into_iter().for_each(Join::join);
        machine.stage.check_tasks();
        MACHINE.set(None);
    }

    fn new(scenario: &'static Scenario) -> Self {
        let place = |_| Place {
            door: Cell::new(),
            newborn: RefCell::default(),
            thread: RefCell::default(),
            alive: RefCell::default(),
        };
        Self {
            scenario,
            stage: Stage::new(scenario),
            null: File::open("/dev/null").expect("there is a null device"),
            page: RefCell::default(),
            life: Rc::new(Life::new(Who::Parent, scenario.memory, None)),
            news: Cell::new(),
            bell: RefCell::default(),
            places: (0..scenario.workers).map(place).collect(),
            newborn: RefCell::default(),
            pids: Plain::new(0),
            gone: Plain::new(0),
            alert: Plain::new(scenario.ending.is_some()),
            farewell: Plain::new(false),
            calls: Plain::new(0),
            told: Plain::new(0),
            cut: Plain::new(false),
            short: Plain::new(false),
            token: CancelToken::new(),
            stoppable: Plain::new(false),
            stopped: Plain::new(false),
            out_of_grace: Plain::new(false),
            start: Instant::now(),
        }
    }

    /// The parent is about to drop the pool.
    pub(super) fn say_farewell(&self) {
        self.farewell.set(true);
        if !self.scenario.farewell {
            checker::stop_exploring();
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
        task(&machine.stage, &machine.current_life())
    }

    fn current_life(&self) -> Rc<Life> {
        let this = Thread::current();
        let is_here = |place: &&Place| place.thread.borrow().as_ref().is_some_and(|thread| thread.is(&this));
        let place = self.places.iter().find(is_here);
        place.and_then(|place| place.alive.borrow().clone()).expect("a worker runs")
    }

    pub(super) fn reasons(&self) -> Reasons {
        Reasons { stopped: self.stopped.get(), cut: self.cut.get(), unstartable: self.short.get() }
    }

    /// Workers start, but for those that cannot.
    pub(super) fn expect_started(&self, started: Result<()>) {
        if let Err(error) = started {
            assert!(self.short.get(), "workers start: {error}");
        }
    }

    /// What others do: somebody cuts the file that is lent, the thread that watches hears of closed sockets.
    fn expect_mischief(self: &Rc<Self>) {
        if let Some(array) = self.scenario.array().filter(|_| self.scenario.length == Length::MayShrink) {
            let (first, machine) = (Rc::clone(self), Rc::clone(self));
            let cut = move || {
                trace::note(Who::Parent, "is short of a file", (0, 0), 0);
                array.cut();
                machine.cut.set(true);
            };
            steps::spawn_event(move || first.calls.get() == 1 && first.stage.is_open(), When::Perhaps, cut);
        }
        let is_deaf = |returns: &Returns| matches!(returns, Returns::NothingDeaf | Returns::NeverDeaf);
        let deaf = self.scenario.calls.iter().flat_map(|call| call.iter()).filter(|returns| is_deaf(returns)).count();
        let most = u32::try_from(deaf).unwrap_or(u32::MAX) * (1 + self.scenario.retries);
        for times in 0..most {
            let machine = Rc::clone(self);
            let is_heard = move || machine.stage.hung_up() > times && !machine.farewell.get();
            steps::spawn_event(is_heard, When::Surely, || Self::current().make_news());
        }
    }

    /// The thread that watches has heard of an end.
    fn make_news(&self) {
        self.news.swap(1, Release);
        let bell = self.bell.borrow().clone();
        bell.expect("somebody watches").ring_parent();
    }

    /// What there is beside memory.
    pub(super) fn around() -> Around {
        MACHINE.with_borrow(|machine| {
            let Some(machine) = machine else { return Around { seen: 0, checked: 0, alert: true } };
            let Machine { stopped, out_of_grace, stoppable, farewell, cut, short, .. } = &**machine;
            let flags = [stopped, out_of_grace, stoppable, farewell, cut, short];
            let flags: u64 =
                flags.iter().fold(machine.life.is_late().into(), |bits, flag| bits << 1 | u64::from(flag.get()));
            // Before it has news, the parent looks at nobody who is gone.
            let alert = machine.alert.get();
            let seen = mix(if alert { machine.gone.get() } else { 0 }, mix(flags, machine.stage.who_hung_up()));
            let done = mix((machine.calls.get() << 8 | machine.told.get()) as u64, machine.stage.digest());
            Around { seen, checked: mix(machine.gone.get(), done), alert }
        })
    }

    /// What ends a call comes at any time.
    fn end_call(self: &Rc<Self>, ending: Ending) -> Join {
        if !steps::runs() {
            return checker::spawn(move || Self::current().stop(ending));
        }
        // Tasks that do not end have to be killed some time later; the others are waited for.
        let never_ends = self.scenario.never_ends();
        let is_soon = Rc::clone(self);
        let when = match ending {
            Ending::Quiet => When::AtLast,
            Ending::Token | Ending::Deadline if never_ends => When::Surely,
            Ending::Token | Ending::Deadline => When::Perhaps,
        };
        steps::spawn_event(move || is_soon.stoppable.get(), when, move || Self::current().stop(ending));
        if !never_ends {
            return Join::nothing();
        }
        let is_soon = Rc::clone(self);
        let out_of_grace = || {
            let machine = Self::current();
            trace::note(Who::Parent, "has no more time", (0, 0), 0);
            machine.out_of_grace.set(true);
            machine.life.let_time_pass();
        };
        steps::spawn_event(move || is_soon.stopped.get() && is_soon.stoppable.get(), When::Surely, out_of_grace);
        Join::nothing()
    }

    fn take_news(&self) -> bool {
        self.alert.set(true);
        self.news.swap(0, Acquire) != 0
    }

    fn stop(&self, ending: Ending) {
        trace::note(Who::Parent, "has to stop", (0, 0), 0);
        if let Ending::Quiet = ending {
            self.stage.check_in_time(self.told.get());
        }
        self.stopped.set(true);
        self.token.cancel();
        match ending {
            // From another thread, which rings.
            Ending::Token | Ending::Quiet => {
                let bell = self.bell.borrow().clone();
                bell.expect("the pool is there").ring_parent();
            }
            Ending::Deadline => self.life.let_time_pass(),
        }
    }
}

/// Starts the thread of one place.
fn inhabit(index: usize) -> Join {
    checker::spawn(move || {
        let machine = Machine::current();
        let place = &machine.places[index];
        place.thread.replace(Some(Thread::current()));
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
    })
}

fn live_as(machine: &Machine, index: usize, socket: Socket, child: &Child) {
    let live = || -> () {
        // A real worker waits in the kernel for its first message, which nobody rings for.
        let socket = Rc::new(socket);
        let waiting = Rc::clone(&socket);
        checker::wait_until(move || {
            poll_readable(&[waiting.as_fd()], Some(Duration::ZERO)).is_ok_and(|readable| readable == [true])
        });
        machine.newborn.replace(Some(Rc::clone(&child.life)));
        let socket = Rc::into_inner(socket).expect("nobody waits for it");
        child.life.speaks_through(socket.as_fd());
        work_in::<Model>(socket, index)
    };
    checker::set_mortal(true);
    if child.killed.get() {
        Thread::current().doom();
    }
    let Err(payload) = catch_unwind(AssertUnwindSafe(live)) else { unreachable!("workers do not return") };
    let death = payload.downcast::<Death>().unwrap_or_else(|other| resume_unwind(other));
    checker::set_mortal(false);
    assert!(!child.life.haunts(), "unwinding is no part of the model");
    // From here on it is the kernel that acts. All that the worker did comes before.
    child.gone.set(true);
    machine.gone.set(machine.gone.get() ^ mix(child.pid.into(), death.exit_code.is_some().into()));
    child.how.set(match death.exit_code {
        Some(code) => Ended::Exited(code),
        // Where it is a signal, the kernel is asked whether it was short of memory.
        None => Ended::Unknown,
    });
    if death.exit_code.is_none() {
        machine.stage.note_death(child.life.chunk.get());
    }
    trace::note(child.life.who(), "ended", (0, 0), 0);
    child.ended.publish(1);
    if !machine.farewell.get() {
        // The thread that watches: it learns of it some time later.
        machine.make_news();
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

    #[expect(clippy::arc_with_non_send_sync, reason = "all of a checker's threads are coroutines of one thread")]
    fn map_page(fd: OwnedFd, workers: usize) -> Result<Arc<ControlPage<Seen>>> {
        let machine = Machine::current();
        let life = machine.newborn.take().expect("somebody was born");
        Ok(Arc::new(ControlPage::over(Seen::new(machine.page(workers), &life), fd, workers)))
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
        if machine.scenario.unstartable.contains(&pid) {
            machine.short.set(true);
            return Err(Error::new(ErrorKind::Io, "no worker can be started"));
        }
        let scenario = machine.scenario;
        let life = Rc::new(Life::new(Who::Worker(pid), scenario.memory, scenario.last_step_of(pid)));
        let (gone, killed, how) = (Plain::new(false), Plain::new(false), Plain::new(Ended::Unknown));
        let child = Rc::new(Child { pid, place: index, life, gone, killed, ended: Cell::new(), how });
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

    fn clock() -> Instant {
        let machine = Machine::current();
        machine.life.look_at_clock(false);
        machine.start + if machine.out_of_grace.get() { HOUR } else { Duration::ZERO }
    }

    fn now() -> Duration {
        let machine = Machine::current();
        machine.current_life().look_at_clock(machine.scenario.news_after_each_chunk)
    }

    fn exit(code: i32) -> ! {
        let left = Machine::current().current_life().is_left();
        assert!(code == 0 && left, "a worker ends with {code} by itself, and its parent has not closed its socket");
        die(Some(code))
    }

    fn at_rest(state: impl FnOnce() -> String) {
        checker::know_by(state);
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
        let Self(child) = self;
        if std::thread::panicking() || child.gone.get() {
            return Ok(());
        }
        let machine = Machine::current();
        let is_ill = machine.out_of_grace.get() || machine.cut.get() || child.life.has_hung_up();
        assert!(is_ill, "worker {} is healthy, and was killed", child.pid);
        trace::note(Who::Worker(child.pid), "is killed", (0, 0), 0);
        child.killed.set(true);
        if let Some(thread) = &*machine.places[child.place].thread.borrow() {
            thread.doom();
        }
        Ok(())
    }

    fn has_ended(&self) -> bool {
        std::thread::panicking() || self.0.ended.load(Acquire) != 0
    }

    fn wait(&self) -> Ended {
        if !std::thread::panicking() {
            self.0.ended.wait_while(0);
            Machine::current().stage.note_reaped(self.0.life.who());
        }
        self.0.how.get()
    }

    /// Whoever was told to end does so in time, and whoever has closed its socket by mistake does not.
    fn wait_timeout(&self, _timeout: Duration) -> Option<Ended> {
        if self.0.life.has_hung_up() && !self.has_ended() {
            return None;
        }
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
        std::thread::panicking() || self.0.news.load(Relaxed) != 0
    }

    fn take_news(&self) -> bool {
        self.has_news() && (std::thread::panicking() || self.0.take_news())
    }
}
