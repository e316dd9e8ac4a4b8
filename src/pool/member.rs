//! One worker process as its parent has it: what is sent to it, and what it says.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::cancel::Stop;
use super::control::{ControlPage, Memory, Reader};
use super::protocol::{self, Packet, ToParent};
use super::system::Process;
use crate::error::{Error, ErrorKind, Result};
use crate::start::spawn::WorkerProcess;
use crate::sys::map::Access;
use crate::sys::process::{is_hung_up, poll_readable, poll_writable_or};
use crate::sys::socket::Received;

/// While a call may be told to end, who waits for a worker to read its mail looks so often whether it was.
const LOOK: Duration = Duration::from_millis(10);

/// A worker process and what the parent knows that it keeps.
pub(super) struct Member<P> {
    pub(super) index: usize,
    pub(super) process: WorkerProcess<P>,
    /// How many of its messages were received, and which of its news were looked at.
    pub(super) heard: u64,
    pub(super) news: u64,
    /// What was read of its outcomes of the call that runs.
    pub(super) outcomes: Reader,
    /// Blocks that it has mapped, by serial.
    pub(super) mapped: BTreeMap<u64, Lent>,
}

/// How a worker has a block.
#[derive(Clone, Copy)]
pub(super) struct Lent {
    pub(super) writable: bool,
    /// Of the description that it holds the lock of the block through, where there is a lock.
    pub(super) lock: Option<Access>,
}

impl<P: Process> Member<P> {
    pub(super) fn process(&self) -> &WorkerProcess<P> {
        &self.process
    }

    /// Sends a message, counts it and rings.
    pub(super) fn tell(
        &self,
        page: &ControlPage<impl Memory>,
        packet: &Packet,
        fds: &[BorrowedFd<'_>],
        stop: Option<&Stop>,
    ) {
        self.send(packet, fds, stop);
        self.note_told(page);
    }

    pub(super) fn note_told(&self, page: &ControlPage<impl Memory>) {
        page.note_mail(self.index);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.process.pidfd.has_ended()
    }

    /// Is there something in its socket, or is it closed?
    pub(super) fn is_deaf(&self) -> bool {
        poll_readable(&[self.process.socket.as_fd()], Some(Duration::ZERO)).is_ok_and(|readable| readable == [true])
    }

    /// Is the other end of its socket closed?
    pub(super) fn is_closed(&self) -> bool {
        is_hung_up(self.process.socket.as_fd())
    }

    /// The next message that it has counted, if any: `None` where all are heard.
    #[inline]
    pub(super) fn next_said(&mut self, page: &ControlPage<impl Memory>) -> Option<io::Result<Option<Received>>> {
        if self.heard >= page.said(self.index) {
            return None;
        }
        self.heard += 1;
        Some(self.process.socket.try_recv())
    }

    /// Sends a message, waiting while the worker is too busy to take it, but not for one that has ended: its pidfd tells
    /// of that in time, whoever else may have its socket. One that takes nothing when the call is told to end is stuck.
    pub(super) fn send(&self, packet: &Packet, fds: &[BorrowedFd<'_>], stop: Option<&Stop>) {
        let (socket, pidfd) = (&self.process.socket, &self.process.pidfd);
        while let Err(error) = packet.try_send(socket, fds) {
            let goes_on = !pidfd.has_ended() && stop.is_none_or(|stop| stop.reason().is_none());
            if error.raw_os_error() == Some(libc::ETOOMANYREFS) && goes_on {
                // Too many descriptors of this user are under way: room comes when workers read.
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let again = error.kind() == io::ErrorKind::WouldBlock
                && goes_on
                && poll_writable_or(socket.as_fd(), pidfd.as_fd(), stop.map(|_| LOOK)).is_ok();
            if !again {
                // The message is lost, and it may be counted: the worker would wait for it for ever.
                let _ = pidfd.kill(libc::SIGKILL);
                return;
            }
        }
    }

    pub(super) fn hear_forgotten(&mut self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let io = |error| Error::from_os(error, "cannot hear a worker");
        let fds = [self.process.socket.as_fd(), self.process.pidfd.as_fd()];
        let readable = poll_readable(&fds, Some(left)).map_err(io)?;
        if readable.first() == Some(&true)
            && let Some(received) = self.process.socket.try_recv().map_err(io)?
            && let (ToParent::Forgotten, _) = protocol::open(received)?
        {
            self.heard += 1;
            return Ok(());
        }
        Err(Error::new(ErrorKind::WorkerDied, "a worker did not let go of a block in time"))
    }
}
