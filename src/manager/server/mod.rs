//! The server: one thread, one loop, and nobody whom it waits for.
//!
//! | file | idea |
//! |---|---|
//! | here | the loop: who is served, and what ends it |
//! | `clients` | a connection's states; no client can hold up another |
//! | `store` | the blocks by label |
//! | `content` | what is in a block, looked at and not believed |
//! | `main` | a started copy of the program becomes a server |
//!
//! ```text
//!             a client asks, a signal comes,
//!             or the owner has ended
//!  listen ──→ serve … ────────────────────────→ no more clients → remove every name → answer → end
//! ```
//!
//! The server maps nothing and allocates no block: clients make them, the server only gives names and keeps
//! descriptors. So it has no memory that would have to be torn down, no request takes long, and a client that is killed in
//! the middle of one leaves a file without a name, which is the kernel's.

mod clients;
mod content;
#[cfg(test)]
mod hostile_tests;
mod main;
mod store;

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use self::clients::{Client, Turn};
use self::store::Store;
use super::Shutdown;
use super::address::Address;
use super::protocol::{Answer, Greeting};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::{Record, step, sweep_once};
use crate::sys::fork::{Epoch, epoch};
use crate::sys::listener::Listener;
use crate::sys::process::{PidFd, poll};
use crate::sys::signals::EndSignals;

pub(crate) use self::main::server_main;

/// More than that many clients at a time are refused.
const MAX_CLIENTS: usize = 4096;
/// The most connections that are accepted in one turn.
const ACCEPTED_A_TURN: usize = 16;
/// How long no connection is accepted after the kernel had no memory for one, and no client is looked at whose answer it had
/// no room for.
const REST: Duration = Duration::from_millis(20);

/// A [`SharedMemoryManager`](super::SharedMemoryManager)'s server in this process: made with
/// [`ManagerBuilder::bind`](super::ManagerBuilder::bind), it serves in [`run`](Self::run).
///
/// It can be connected to as soon as it is made; who does is answered when it runs.
///
/// # Examples
///
/// ```
/// use ndshm::{SharedMemoryManager, shareable_list};
///
/// let server = SharedMemoryManager::builder().bind()?;
/// let address = server.address().to_owned();
/// let serving = std::thread::spawn(|| server.run());
///
/// // In any process of this user:
/// let manager = SharedMemoryManager::connect(&address)?;
/// let list = manager.shareable_list([1, 2, 3])?;
/// assert_eq!(manager.list()?.len(), 1);
/// manager.shutdown()?;
///
/// assert!(serving.join().expect("it did not panic")?.problems().is_empty());
/// # Ok::<(), ndshm::Error>(())
/// ```
#[must_use = "a server serves when it runs"]
pub struct ManagerServer {
    address: String,
    /// `None` while no further client is served.
    listener: Option<Listener>,
    clients: Vec<Client>,
    store: Store,
    /// Whose end ends the server.
    owner: Option<PidFd>,
    /// Given up to accept a connection that has to be refused: one that nobody accepts would wait for ever.
    spare: Option<File>,
    resting: bool,
    epoch: Epoch,
}

/// What ended the loop.
enum End {
    /// The client at that index asked.
    Asked(usize),
    Signal,
    OwnerGone,
}

impl ManagerServer {
    pub(super) fn bind(address: &Address, record: Option<Record>) -> Result<Self> {
        // What dead processes have left may have the names or the room that clients will want.
        sweep_once();
        let listener = Listener::bind(&address.socket_name()).map_err(|errno| match errno {
            Errno::EADDRINUSE => Error::from_os(errno, format!("somebody listens at {address} already"))
                .with_kind(ErrorKind::AlreadyExists),
            _ => Error::from_os(errno, format!("cannot listen at {address}")),
        })?;
        let spare = File::open("/dev/null").map_err(|error| Error::from_os(error, "cannot open /dev/null"))?;
        Ok(Self {
            address: address.to_string(),
            listener: Some(listener),
            clients: Vec::new(),
            store: Store::new(record),
            owner: None,
            spare: Some(spare),
            resting: false,
            epoch: epoch(),
        })
    }

    /// Where clients [`connect`](super::SharedMemoryManager::connect) to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves until a client calls [`shutdown`](super::SharedMemoryManager::shutdown), or `SIGTERM`, `SIGINT` (Ctrl-C) or
    /// `SIGHUP` comes, which end the server in order and not the process while this runs. A signal that the process
    /// ignores does nothing. Then it removes the names of all its blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Closed`] in a forked child; [`ErrorKind::Io`] where signals cannot be waited for.
    pub fn run(self) -> Result<Shutdown> {
        if self.epoch != epoch() {
            return Err(Error::new(
                ErrorKind::Closed,
                "this server belongs to the process that this one was forked from",
            ));
        }
        let signals = EndSignals::catch(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])?;
        Ok(self.serve(&signals))
    }

    fn serve(mut self, signals: &EndSignals) -> Shutdown {
        let end = loop {
            if let Some(end) = self.turn(signals) {
                break end;
            }
        };
        // No further client; those that are connected see the end when they have their answer, or at once.
        self.listener = None;
        let asked = match end {
            End::Asked(index) => Some(self.clients.swap_remove(index)),
            End::Signal | End::OwnerGone => None,
        };
        self.clients.clear();
        step();
        let (problems, _memory) = self.store.clear();
        step();
        if let Some(mut client) = asked {
            let told = problems.iter().map(|error| Error::new(error.kind(), error.to_string()).into()).collect();
            // It has read its last answer before it asked, so there is room.
            client.answer(&Answer::ShutDown { problems: told }, None);
        }
        Shutdown::in_order(problems)
    }

    /// Waits for somebody and serves who is ready.
    fn turn(&mut self, signals: &EndSignals) -> Option<End> {
        let accepts = !self.resting;
        let mut wanted = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        wanted.extend(self.owner.iter().map(|owner| PollFd::new(owner.as_fd(), PollFlags::POLLIN)));
        let listening = self.listener.iter().filter(|_| accepts);
        wanted.extend(listening.map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        wanted.extend(self.clients.iter().map(Client::wanted));
        let rests = self.resting || self.clients.iter().any(Client::rests);
        let Ok(ready) = poll(wanted, rests.then_some(REST)) else {
            // The kernel was short of memory.
            std::thread::sleep(REST);
            return None;
        };
        self.resting = false;

        let mut ready = ready.into_iter();
        let mut next = || ready.next() == Some(true);
        if next() {
            return Some(End::Signal);
        }
        if self.owner.is_some() && next() {
            return Some(End::OwnerGone);
        }
        let connected = accepts && next();
        let before = self.clients.len();
        let mut gone = Vec::new();
        for index in 0..before {
            if !next() && !self.clients[index].rests() {
                continue;
            }
            match self.clients[index].turn(&mut self.store) {
                Turn::Stays => {}
                Turn::Gone => gone.push(index),
                Turn::WantsShutDown => return Some(End::Asked(index)),
            }
        }
        // The first one is the owner's, where there is one, and its end is the owner's: it has become another program.
        if self.owner.is_some() && gone.first() == Some(&0) {
            return Some(End::OwnerGone);
        }
        for index in gone.into_iter().rev() {
            self.clients.remove(index);
        }
        if connected {
            self.accept();
        }
        None
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTED_A_TURN {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok(socket) if self.clients.len() >= MAX_CLIENTS => refuse(&Client::new(socket)),
                Ok(socket) => {
                    // Another user is told nothing: its own look at this side's user tells it.
                    if socket.peer_pid_uid().is_ok_and(|(_, uid)| uid == geteuid().as_raw()) {
                        self.clients.push(Client::new(socket));
                    }
                }
                Err(Errno::EMFILE | Errno::ENFILE) if self.spare.is_some() => {
                    self.spare = None;
                    if let Ok(socket) = listener.accept() {
                        refuse(&Client::new(socket));
                    }
                    self.spare = File::open("/dev/null").ok();
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::ECONNABORTED | Errno::EINTR) => {}
                Err(_) => {
                    self.spare = self.spare.take().or_else(|| File::open("/dev/null").ok());
                    self.resting = true;
                    return;
                }
            }
        }
    }
}

fn refuse(client: &Client) {
    client.tell(Greeting::Full);
}

impl fmt::Debug for ManagerServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagerServer").field("address", &self.address).finish_non_exhaustive()
    }
}
