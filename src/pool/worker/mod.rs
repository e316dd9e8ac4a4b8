//! The worker's side: messages come in, chunks are run, outcomes go out.

mod panics;
mod run;

pub(super) use panics::message_of;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::exit;

use super::control::ControlPage;
use super::protocol::{self, Packet, ToParent, ToWorker};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::file::{self, FileId};
use crate::sys::fork::epoch;
use crate::sys::map::{Access, Mapping};
use crate::sys::socket::Socket;

/// The exit code of a worker whose parent broke the protocol.
const CONFUSED: i32 = 70;

/// The exit code of a worker that has no room for the descriptors that it is sent.
pub(super) const NO_ROOM: i32 = 71;

/// One worker process.
struct Worker {
    socket: Socket,
    index: usize,
    page: Option<ControlPage>,
    blocks: HashMap<u64, Result<Kept>>,
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
    let mut worker = Worker { socket, index, page: None, blocks: HashMap::new() };
    let home = epoch();
    loop {
        let received = match worker.socket.recv() {
            Ok(Some(received)) => received,
            // Descriptors were cut off because this process has no room for them, and the message is lost. Another worker
            // has room.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => exit(NO_ROOM),
            // The parent has dropped the pool, or is gone.
            Ok(None) | Err(_) => exit(0),
        };
        if worker.handle(received).is_err() {
            exit(CONFUSED);
        }
        // Not reached in a child that a task forked, which leaves right after the task.
        debug_assert!(epoch() == home, "only the worker itself talks to the parent");
    }
}

impl Worker {
    fn handle(&mut self, received: crate::sys::socket::Received) -> Result<()> {
        let (message, fds) = protocol::open::<ToWorker>(received)?;
        let mut fds = fds.into_iter();
        match message {
            ToWorker::Welcome { workers } => {
                let fd = fds.next().ok_or_else(|| Error::new(ErrorKind::Layout, "the control page is missing"))?;
                self.page = Some(ControlPage::map(fd, workers)?);
            }
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
                if let Err(error) = self.run(&call) {
                    self.say(&ToParent::Refused { call: call.call, message: error.to_string() });
                }
            }
        }
        Ok(())
    }

    /// Sends a message; where nobody is left to hear it, the process ends.
    fn say(&self, message: &ToParent) {
        let Ok(packet) = Packet::new(message) else { exit(CONFUSED) };
        if packet.send(&self.socket).is_err() {
            exit(0);
        }
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
