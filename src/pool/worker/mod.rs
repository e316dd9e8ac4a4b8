//! The worker's side: messages come in, chunks are run, outcomes go out.
//!
//! ```text
//!           call                        finished
//! asleep ──────────→ reads its mail, ────────────→ looks, in its task, for a call that asks the same
//!   ↑                then the call                   │  │
//!   │                   ↑     ↑                      │  └──────→ runs it; finished, it looks again
//!   │                   │     └── mail, another call ┘
//!   └── nothing has come (one more look) ────────────┘
//! ```

pub(super) mod ending;
mod panics;
mod run;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::control::{Announced, ControlPage, Record, Rhythm, Writer};
use super::fit;
use super::protocol::{self, CallMessage, Packet, ToParent, ToWorker};
use super::system::{Kernel, System};
use super::task::TaskRef;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::file::{self, FileId};
use crate::sys::fork::Home;
use crate::sys::map::{Access, Mapping};
use crate::sys::process::is_hung_up;
use crate::sys::socket::{Received, Socket};

/// The exit code of a worker whose parent broke the protocol.
const CONFUSED: i32 = 70;

/// The exit code of a worker that has no room for the descriptors that it is sent.
pub(super) const NO_ROOM: i32 = 71;

/// How long a worker sleeps before it looks whether its parent is still there. The kernel ends it with its parent; this is
/// for where the kernel cannot.
const SLEEP: Duration = Duration::from_secs(1);

/// Where a worker sits: what it hears and speaks through.
struct Desk<S: System> {
    socket: Socket,
    index: usize,
    page: Arc<ControlPage<S::Memory>>,
    /// How long it looks for what comes next before it sleeps.
    spin: Duration,
    rhythm: Rhythm,
    home: Home,
}

/// What a worker was told so far.
#[derive(Default)]
struct Told {
    /// How many messages were read.
    heard: u64,
    /// The last call.
    call: u64,
    /// Nothing has come since for as long as it spins.
    is_quiet: bool,
}

/// One worker process.
struct Worker<S: System> {
    desk: Desk<S>,
    told: Told,
    blocks: Blocks,
    /// Blocks that the parent has dropped. To unmap them takes its time, which no call has to wait for.
    leaving: Vec<Result<Kept>>,
    /// What it was told to do last: the next call is mostly the same.
    known: Option<Box<Known>>,
    /// The description whose blocks were noted as lent last, if they still are what it says.
    noted: Option<u64>,
    record: Record,
}

/// A call's description, as far as it holds for any number of calls.
struct Known {
    id: u64,
    message: CallMessage,
    task: TaskRef,
}

type Blocks = BTreeMap<u64, Result<Kept>>;

/// A block that stays mapped for as long as the parent has it.
struct Kept {
    id: FileId,
    mapping: Mapping,
    /// The parent's own open file description: while this process has it, the lock on what it is lent holds, even when
    /// the parent is gone. Nothing here locks or unlocks through it.
    _lending: Option<OwnedFd>,
}

/// Works for the pool on the other end of `socket` until it closes.
pub(crate) fn worker_main(socket: Socket, index: usize) -> ! {
    panics::record();
    work_in::<Kernel>(socket, index)
}

/// The same in any system.
pub(super) fn work_in<S: System>(socket: Socket, index: usize) -> ! {
    let mut worker = Worker::<S>::welcomed(socket, index);
    loop {
        #[cfg(test)]
        S::at_rest(|| worker.state());
        let Desk { page, spin, .. } = &worker.desk;
        // Once is enough.
        let spin = if std::mem::take(&mut worker.told.is_quiet) { Duration::ZERO } else { *spin };
        let is_announced = || page.is_announced_after(index, worker.told.call);
        page.wait_as_worker(index, spin, SLEEP, is_announced, || worker.has_work());
        // Woken for nothing: the parent has dropped the pool, or is gone.
        if !worker.work() && is_hung_up(worker.desk.socket.as_fd()) {
            S::exit(0);
        }
    }
}

/// The next message. Without one this process has nothing more to do.
fn receive<S: System>(socket: &Socket) -> Received {
    match socket.recv() {
        Ok(Some(received)) => received,
        // Descriptors were cut off because this process has no room for them, and the message is lost. Another worker has
        // room.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => S::exit(NO_ROOM),
        // The parent has dropped the pool, or is gone.
        Ok(None) | Err(_) => S::exit(0),
    }
}

impl<S: System> Worker<S> {
    fn welcomed(socket: Socket, index: usize) -> Self {
        let Ok((ToWorker::Welcome { workers, call, spin, threads, place }, fds)) =
            protocol::open(receive::<S>(&socket))
        else {
            S::exit(CONFUSED)
        };
        fit::settle(threads, &place);
        let page = fds.into_iter().next().map(|fd| S::map_page(fd, workers));
        let Some(Ok(page)) = page.filter(|_| index < workers) else { S::exit(CONFUSED) };
        Self {
            desk: Desk {
                socket,
                index,
                page,
                spin: Duration::from_nanos(spin),
                rhythm: Rhythm::default(),
                home: Home::here(),
            },
            told: Told { call, ..Told::default() },
            blocks: BTreeMap::new(),
            leaving: Vec::new(),
            known: None,
            noted: None,
            record: Record::default(),
        }
    }

    /// All that it will do depends on, beside the page and its mail.
    #[cfg(test)]
    fn state(&self) -> String {
        state(&self.told, self.known.as_ref().map(|known| known.id), &self.blocks)
    }

    /// Is there mail, or a call?
    #[inline]
    fn has_work(&self) -> bool {
        self.desk.page.is_announced_after(self.desk.index, self.told.call)
            || self.desk.page.mail(self.desk.index) > self.told.heard
    }

    /// Reads the mail, then runs the call that was announced, then unmaps what the mail said; `false` where there was nothing
    /// to do.
    #[inline]
    fn work(&mut self) -> bool {
        let mut worked = false;
        // A call is announced after the mail that it needs was counted, so reading the count first would miss some of it.
        let Announced { call, id, granted } = self.desk.page.announced(self.desk.index);
        while self.told.heard < self.desk.page.mail(self.desk.index) {
            worked = true;
            self.read();
        }
        if call > self.told.call {
            self.told.call = call;
            worked = true;
            let is_known = self.known.as_ref().is_some_and(|known| known.id == id);
            let known = if is_known { Ok(()) } else { self.learn(id) };
            if let Err(error) = known.and_then(|()| self.run_known(call, granted)) {
                self.refuse(call, &error);
            }
        }
        if !self.leaving.is_empty() {
            self.leaving.clear();
        }
        worked
    }

    /// Reads a message.
    #[cold]
    fn read(&mut self) {
        self.told.heard += 1;
        self.noted = None;
        let received = receive::<S>(&self.desk.socket);
        if self.handle(received).is_err() {
            S::exit(CONFUSED);
        }
    }

    /// Reads the description on the page.
    #[cold]
    fn learn(&mut self, id: u64) -> Result<()> {
        self.known = None;
        let Some(Ok(message)) = self.desk.page.description(id).map(|bytes| protocol::decode_call(&bytes)) else {
            S::exit(CONFUSED)
        };
        let task = TaskRef::find(message.task)?;
        self.known = Some(Box::new(Known { id, message, task }));
        Ok(())
    }

    fn handle(&mut self, received: Received) -> Result<()> {
        let (message, fds) = protocol::open::<ToWorker>(received)?;
        let mut fds = fds.into_iter();
        match message {
            ToWorker::Welcome { .. } => return Err(Error::new(ErrorKind::Layout, "a worker is welcomed once")),
            ToWorker::Map { serial, len, writable } => {
                // The old mapping goes first: address space may be what is short.
                self.blocks.remove(&serial);
                let kept = match fds.next() {
                    Some(fd) => self.keep(&fd, len, writable, fds.next()),
                    None => Err(Error::new(ErrorKind::Io, "its descriptor did not arrive")),
                };
                self.blocks.insert(serial, kept);
            }
            ToWorker::Forget { serials, answer } => {
                self.leaving.extend(serials.iter().filter_map(|serial| self.blocks.remove(serial)));
                if answer {
                    self.leaving.clear();
                    self.desk.say(Packet::new(&ToParent::Forgotten));
                }
            }
            ToWorker::Call(call) => {
                self.told.call = self.told.call.max(call.call);
                let run = TaskRef::find(call.task).and_then(|task| self.run(task, &call));
                if let Err(error) = run {
                    self.refuse(call.call, &error);
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, fd: &OwnedFd, len: usize, writable: bool, lending: Option<OwnedFd>) -> Result<Kept> {
        let kept = keep(fd, len, writable).or_else(|error| {
            if self.leaving.is_empty() {
                return Err(error);
            }
            // Address space may be what is short.
            self.leaving.clear();
            keep(fd, len, writable)
        })?;
        Ok(Kept { _lending: lending, ..kept })
    }

    /// The last word on a call of which nothing was begun.
    #[cold]
    fn refuse(&self, call: u64, error: &Error) {
        self.desk.say(Packet::new(&ToParent::Refused { call, message: error.to_string() }));
        Writer::new(&self.desk.page, self.desk.index, call).finish();
    }
}

/// See [`Worker::state`].
#[cfg(test)]
fn state(told: &Told, known: Option<u64>, blocks: &Blocks) -> String {
    let blocks: Vec<_> = blocks.iter().map(|(serial, kept)| (serial, kept.is_ok())).collect();
    format!("{:?}", (told.heard, told.call, known, blocks))
}

impl<S: System> Desk<S> {
    /// Sends a message; where nobody is left to hear it, the process ends.
    fn say(&self, packet: Result<Packet>) {
        let Ok(packet) = packet else { S::exit(CONFUSED) };
        if packet.send(&self.socket).is_err() {
            S::exit(0);
        }
        self.page.note_said(self.index);
    }
}

fn keep(fd: &OwnedFd, len: usize, writable: bool) -> Result<Kept> {
    let size = file::size(fd.as_fd())?;
    if size < len as u64 {
        return Err(Error::new(ErrorKind::Layout, format!("the block has {size} bytes, expected {len}")));
    }
    let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
    let mut mapping = Mapping::new(fd.as_fd(), len, access, true, false)?;
    if writable && file::is_whole(fd.as_fd(), len) {
        mapping.allow_populating_ahead();
    }
    Ok(Kept { id: file::identity(fd.as_fd())?, mapping, _lending: None })
}
