//! Starting a manager.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::address::Address;
use super::connection::Connection;
use super::protocol::Start;
use super::server::ManagerServer;
use super::{Owned, SharedMemoryManager};
use crate::error::Result;
use crate::memory::Record;
use crate::start::Role;
use crate::start::spawn::{SpawnOptions, StartingWorker, WorkerProcess};
use crate::sys::fork::{Epoch, epoch};
use crate::sys::process::PidFd;

/// How to start a [`SharedMemoryManager`]: its name, and who runs its server.
///
/// | call | the server | ends |
/// |---|---|---|
/// | [`start`](Self::start) | a process of its own | with this process, or at [`shutdown`](SharedMemoryManager::shutdown) |
/// | [`start_detached`](Self::start_detached) | a process of its own | when a client calls `shutdown`, or by `SIGTERM` |
/// | [`bind`](Self::bind) | this process, in [`ManagerServer::run`] | when a client calls `shutdown`, or by `SIGTERM`, `SIGINT`, `SIGHUP` |
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until the manager is started"]
pub struct ManagerBuilder {
    name: Option<String>,
}

impl ManagerBuilder {
    /// Gives the manager a name that clients of this user [`connect`](SharedMemoryManager::connect) to without being told
    /// its address: 1 to 64 ASCII letters, digits, and `.`, `_`, `-`. By default it is a random one.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Starts the server process, which ends with this one. Sweeps what dead processes have left in `/dev/shm` first.
    ///
    /// # Errors
    ///
    /// [`NotInitialized`](crate::ErrorKind::NotInitialized) where [`init`](crate::init) was not called; [`AlreadyExists`](crate::ErrorKind::AlreadyExists) where
    /// somebody serves under that name; [`InvalidName`](crate::ErrorKind::InvalidName); [`Unsupported`](crate::ErrorKind::Unsupported) where no copy of this
    /// program can be started.
    pub fn start(self) -> Result<SharedMemoryManager> {
        let record = Record::new()?;
        let connection = self.spawn(Some(&record))?;
        Ok(SharedMemoryManager { connection, owned: Some(Owned { record, ended: false }) })
    }

    /// Starts a server process that stays when this one ends, and connects to it. Its address has to be known to whoever is to
    /// connect later: give it a [`name`](Self::name). For as long as this process lives, the server is its child.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start).
    pub fn start_detached(self) -> Result<SharedMemoryManager> {
        let started = self.spawn(None)?;
        let manager = SharedMemoryManager::connect(started.address())?;
        reap_later(started.into_server());
        Ok(manager)
    }

    /// Makes the server in this process: clients can connect from here on, and are served by
    /// [`run`](ManagerServer::run). Needs no [`init`](crate::init).
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start), as far as it needs no other process.
    pub fn bind(self) -> Result<ManagerServer> {
        ManagerServer::bind(&Address::of_this_user(self.name.as_deref())?, None)
    }

    /// Starts a server, which stays if nobody keeps a record for it, and waits until it listens.
    fn spawn(self, record: Option<&Record>) -> Result<Connection> {
        let address = Address::of_this_user(self.name.as_deref())?.to_string();
        let process =
            StartingWorker::begin(&SpawnOptions { role: Role::Server, ..SpawnOptions::default() })?.finish(None)?;
        let WorkerProcess { pid, pidfd, socket } = process;
        let connection = Connection::to_started(socket, address.clone(), pid, pidfd);
        let fds: Vec<_> = record.iter().map(|record| record.fd()).collect();
        let start = Start { address, detached: record.is_none() };
        match connection.ask(&start, &fds) {
            Ok(_) => Ok(connection),
            Err(error) => {
                connection.abandon();
                Err(error)
            }
        }
    }
}

/// Remembers a server that stays, and reaps those that have ended by now: this process's children, of which something would
/// be left for as long as it lives.
fn reap_later(server: Option<PidFd>) {
    static HOME: OnceLock<Epoch> = OnceLock::new();
    static STAYING: Mutex<Vec<PidFd>> = Mutex::new(Vec::new());
    // In a forked child the list may be locked for ever.
    if *HOME.get_or_init(epoch) != epoch() {
        return;
    }
    let mut staying = STAYING.lock().unwrap_or_else(PoisonError::into_inner);
    staying.retain(|server| server.wait_timeout(Duration::ZERO).is_none());
    staying.extend(server);
}
