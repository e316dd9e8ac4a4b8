//! One connection, as the server sees it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags};

use super::store::Store;
use crate::error::{Error, ErrorKind, Result};
use crate::manager::protocol::{Answer, Greeting, Request, VERSION};
use crate::memory::step;
use crate::sys::socket::{Received, Socket};
use crate::wire::{self, Packet};

/// A client, from its connection to its end.
#[derive(Debug)]
pub(super) struct Client {
    socket: Socket,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It has said nothing yet.
    New,
    Greeted,
    /// It has not got its answer yet, and nothing is read from it before.
    Owed {
        packet: Packet,
        fd: Option<OwnedFd>,
        why: Owed,
    },
}

/// Why an answer is still here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    /// The client's queue is full.
    QueueFull,
    /// The kernel has no room for it, or for the descriptors that this user has under way; nothing tells when it has.
    NoRoom,
}

/// What became of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Stays,
    Gone,
    /// It asks for the end of all this, and waits for the answer.
    WantsShutDown,
}

impl Client {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, state: State::New }
    }

    /// The process that has started the server and has been greeted already.
    pub(super) fn greeted(socket: Socket) -> Self {
        Self { socket, state: State::Greeted }
    }

    /// Says a last word, if the client has room for it.
    pub(super) fn tell(&self, greeting: Greeting) {
        let _ = self.socket.try_send(&greeting.encode(), &[]);
    }

    /// What to wait for.
    pub(super) fn wanted(&self) -> PollFd<'_> {
        let flags = match self.state {
            State::New | State::Greeted => PollFlags::POLLIN,
            State::Owed { why: Owed::QueueFull, .. } => PollFlags::POLLOUT,
            State::Owed { why: Owed::NoRoom, .. } => PollFlags::empty(),
        };
        PollFd::new(self.socket.as_fd(), flags)
    }

    /// Has it to be looked at again after a while?
    pub(super) fn rests(&self) -> bool {
        matches!(self.state, State::Owed { why: Owed::NoRoom, .. })
    }

    /// Does what can be done without waiting: one request at most, so that everybody has their turn.
    pub(super) fn turn(&mut self, store: &mut Store) -> Turn {
        match &self.state {
            State::Owed { .. } => self.pay(),
            State::New => match self.socket.try_recv() {
                Ok(Some(received)) => self.greet(&received.bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Turn::Stays,
                Ok(None) | Err(_) => Turn::Gone,
            },
            State::Greeted => match self.socket.try_recv() {
                Ok(Some(received)) => self.serve(received, store),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Turn::Stays,
                // Descriptors were cut off, or more bytes came than any request has.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let error = Error::from_os(error, "the manager did not get a request whole");
                    self.answer(&Answer::Failed(error.into()), None)
                }
                Ok(None) | Err(_) => Turn::Gone,
            },
        }
    }

    fn greet(&mut self, bytes: &[u8]) -> Turn {
        let Some(Greeting::Version(version)) = Greeting::decode(bytes) else { return Turn::Gone };
        let told = self.socket.try_send(&Greeting::Version(VERSION).encode(), &[]);
        if told.is_err() || version != VERSION {
            return Turn::Gone;
        }
        self.state = State::Greeted;
        Turn::Stays
    }

    fn serve(&mut self, received: Received, store: &mut Store) -> Turn {
        let Ok((request, fds)) = wire::open_inline::<Request>(received) else { return Turn::Gone };
        if matches!(request, Request::ShutDown) {
            return Turn::WantsShutDown;
        }
        step();
        let handled = handle(request, fds.into_iter().next(), store);
        step();
        match handled {
            Ok((answer, fd)) => self.answer(&answer, fd),
            Err(error) => self.answer(&Answer::Failed(error.into()), None),
        }
    }

    /// Gives an answer, now or when the client has room for it.
    pub(super) fn answer(&mut self, answer: &Answer, fd: Option<OwnedFd>) -> Turn {
        let packet = Packet::new(answer).or_else(|error| Packet::new(&Answer::Failed(error.into())));
        let Ok(packet) = packet else { return Turn::Gone };
        self.state = State::Owed { packet, fd, why: Owed::QueueFull };
        self.pay()
    }

    fn pay(&mut self) -> Turn {
        let State::Owed { packet, fd, why } = &mut self.state else { return Turn::Stays };
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        match packet.try_send(&self.socket, &fds) {
            Ok(()) => self.state = State::Greeted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *why = Owed::QueueFull,
            Err(error) => match error.raw_os_error() {
                Some(libc::ETOOMANYREFS | libc::ENOBUFS | libc::ENOMEM) => *why = Owed::NoRoom,
                _ => return Turn::Gone,
            },
        }
        Turn::Stays
    }
}

fn handle(request: Request, fd: Option<OwnedFd>, store: &mut Store) -> Result<(Answer, Option<OwnedFd>)> {
    let given = || fd.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, "a request came without its descriptor"));
    let answer = match request {
        Request::Create { name, label, kind } => Answer::Labelled(store.create(&given()?, &name, label, kind)?),
        Request::Publish { label, kind } => Answer::Labelled(store.publish(given()?, label, kind)?),
        Request::Attach { label } => {
            let (fd, name, content) = store.find(&label)?;
            return Ok((Answer::Block { name, content }, Some(fd)));
        }
        Request::Remove { label } => {
            store.remove(&label)?;
            Answer::Done
        }
        Request::Keep { label } => {
            store.keep(&label)?;
            Answer::Done
        }
        Request::List => Answer::List(store.list()),
        // Answered by who can do it.
        Request::ShutDown => Answer::Done,
    };
    Ok((answer, None))
}
