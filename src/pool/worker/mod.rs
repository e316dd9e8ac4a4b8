//! The worker's side: messages come in, chunks are run, outcomes go out.

mod panics;
mod run;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;
use std::time::Duration;

use super::control::ControlPage;
use super::protocol::{self, CallMessage, Packet, ToParent, ToWorker};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::file::{self, FileId};
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

/// One worker process.
struct Worker {
    socket: Socket,
    index: usize,
    page: ControlPage,
    spin: Duration,
    blocks: HashMap<u64, Result<Kept>>,
    /// How many messages were read.
    heard: u64,
    /// The last call that this worker was told of.
    call: u64,
}

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
    let mut worker = Worker::welcomed(socket, index);
    let mut woken = false;
    loop {
        // Read before the look at what there is to do: a ring after that is not slept through.
        let count = worker.page.worker_bell(index).count();
        if worker.work() {
            woken = false;
            continue;
        }
        // Woken for nothing: the parent has dropped the pool, or is gone.
        if woken && is_hung_up(worker.socket.as_fd()) {
            exit(0);
        }
        worker.page.worker_bell(index).wait(count, worker.spin, Some(SLEEP));
        woken = true;
    }
}

/// The next message. Without one this process has nothing more to do.
fn receive(socket: &Socket) -> Received {
    match socket.recv() {
        Ok(Some(received)) => received,
        // Descriptors were cut off because this process has no room for them, and the message is lost. Another worker has
        // room.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => exit(NO_ROOM),
        // The parent has dropped the pool, or is gone.
        Ok(None) | Err(_) => exit(0),
    }
}

impl Worker {
    fn welcomed(socket: Socket, index: usize) -> Self {
        let Ok((ToWorker::Welcome { workers, call, spin }, fds)) = protocol::open(receive(&socket)) else {
            exit(CONFUSED)
        };
        let page = fds.into_iter().next().map(|fd| ControlPage::map(fd, workers));
        let Some(Ok(page)) = page.filter(|_| index < workers) else { exit(CONFUSED) };
        Self { socket, index, page, spin: Duration::from_nanos(spin), blocks: HashMap::new(), heard: 0, call }
    }

    /// Reads the mail, then runs the call that was announced; `false` where there was neither.
    fn work(&mut self) -> bool {
        let mut worked = false;
        // A call is announced after the mail that it needs was counted, so reading the count first would miss some of it.
        let (call, takes_part) = self.page.announced(self.index);
        while self.heard < self.page.mail(self.index) {
            self.heard += 1;
            worked = true;
            let received = receive(&self.socket);
            if self.handle(received).is_err() {
                exit(CONFUSED);
            }
        }
        if call > self.call {
            self.call = call;
            if takes_part {
                worked = true;
                let Some(Ok(call)) = self.page.description(call).map(|bytes| protocol::decode_call(&bytes)) else {
                    exit(CONFUSED)
                };
                self.run_or_refuse(&call);
            }
        }
        worked
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
                    Some(fd) => keep(&fd, len, writable, fds.next()),
                    None => Err(Error::new(ErrorKind::Io, "its descriptor did not arrive")),
                };
                self.blocks.insert(serial, kept);
            }
            ToWorker::Forget { serials, answer } => {
                for serial in serials {
                    self.blocks.remove(&serial);
                }
                if answer {
                    self.say(&ToParent::Forgotten);
                }
            }
            ToWorker::Call(call) => {
                self.call = self.call.max(call.call);
                self.run_or_refuse(&call);
            }
        }
        Ok(())
    }

    fn run_or_refuse(&self, call: &CallMessage) {
        if let Err(error) = self.run(call) {
            self.say(&ToParent::Refused { call: call.call, message: error.to_string() });
        }
        // The last word on this call.
        self.page.finish(self.index, call.call);
        self.page.parent_bell().ring();
    }

    /// Sends a message; where nobody is left to hear it, the process ends.
    fn say(&self, message: &ToParent) {
        let Ok(packet) = Packet::new(message) else { exit(CONFUSED) };
        if packet.send(&self.socket).is_err() {
            exit(0);
        }
        self.page.note_said(self.index);
        self.page.parent_bell().ring();
    }
}

fn keep(fd: &OwnedFd, len: usize, writable: bool, lending: Option<OwnedFd>) -> Result<Kept> {
    let size = file::size(fd.as_fd())?;
    if size < len as u64 {
        return Err(Error::new(ErrorKind::Layout, format!("the block has {size} bytes, expected {len}")));
    }
    let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
    let mapping = Mapping::new(fd.as_fd(), len, access, true, false)?;
    Ok(Kept { id: file::identity(fd.as_fd())?, mapping, _lending: lending })
}
