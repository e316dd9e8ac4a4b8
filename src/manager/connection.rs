//! A client's end of its connection to a server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::geteuid;
use serde::Serialize;

use super::address::Address;
use super::protocol::{Answer, Greeting, VERSION};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::step;
use crate::sys::fork::{Epoch, epoch};
use crate::sys::listener;
use crate::sys::process::{PidFd, poll_readable};
use crate::sys::socket::Socket;
use crate::wire::{self, Packet};

/// How long a server may take to greet back, or to end: one that is stopped is not waited for longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// One request at a time.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Mutex<Socket>,
    address: String,
    /// The server's process, where this one has started it: its end counts even while a forked child holds the socket.
    server: Option<PidFd>,
    pid: u32,
    epoch: Epoch,
}

impl Connection {
    /// The end of the socket that a server was started with.
    pub(super) fn to_started(socket: Socket, address: String, pid: u32, server: PidFd) -> Self {
        Self { socket: Mutex::new(socket), address, server: Some(server), pid, epoch: epoch() }
    }

    pub(super) fn open(address: &Address) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let socket = listener::connect(&address.socket_name(), deadline).map_err(|errno| match errno {
            Errno::ECONNREFUSED => {
                Error::from_os(errno, format!("no manager serves at {address}")).with_kind(ErrorKind::NotFound)
            }
            Errno::EAGAIN => Error::from_os(errno, format!("the manager at {address} takes no connection"))
                .with_kind(ErrorKind::WouldBlock),
            Errno::EMFILE | Errno::ENFILE => {
                crate::sys::file::descriptors_error(errno, &format!("connect to the manager at {address}"))
            }
            _ => Error::from_os(errno, format!("cannot connect to the manager at {address}")),
        })?;
        let (pid, uid) = socket.peer_pid_uid()?;
        let own = geteuid().as_raw();
        if uid != own {
            return Err(Error::new(
                ErrorKind::Permission,
                format!(
                    "the manager at {address} is user {uid}'s, expected one of this process's user {own}: managers \
                         serve their own user alone"
                ),
            ));
        }
        let connection = Self {
            socket: Mutex::new(socket),
            address: address.to_string(),
            server: None,
            pid: pid.unsigned_abs(),
            epoch: epoch(),
        };
        connection.greet(deadline)?;
        Ok(connection)
    }

    fn greet(&self, deadline: Instant) -> Result<()> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // Where it was refused at once, the reason is there to be read.
        let _ = socket.try_send(&Greeting::Version(VERSION).encode(), &[]);
        let received = self.receive(&socket, Some(deadline))?;
        match Greeting::decode(&received.bytes) {
            Some(Greeting::Version(VERSION)) => Ok(()),
            Some(Greeting::Version(version)) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the manager at {} speaks version {version} of the protocol, expected {VERSION}: it runs another \
                     version of ndshm",
                    self.address
                ),
            )),
            Some(Greeting::Full) => Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "the manager at {} has no room for another client: it has as many as it can serve",
                    self.address
                ),
            )),
            None => Err(Error::new(ErrorKind::Layout, format!("what listens at {} is no manager", self.address))),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The server's process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn server(&self) -> Option<&PidFd> {
        self.server.as_ref()
    }

    pub(super) fn is_of_this_process(&self) -> bool {
        self.epoch == epoch()
    }

    pub(super) fn check_process(&self) -> Result<()> {
        if self.is_of_this_process() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Closed,
            "this manager belongs to the process that this one was forked from; connect to it anew",
        ))
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask(&self, request: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(Answer, Option<OwnedFd>)> {
        self.ask_until(request, fds, None)
    }

    /// [`ask`](Self::ask) with an end to the patience: `WouldBlock`.
    pub(super) fn ask_until(
        &self,
        request: &impl Serialize,
        fds: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> Result<(Answer, Option<OwnedFd>)> {
        self.check_process()?;
        let packet = Packet::new(request)?;
        // Whoever panicked with it had no answer under way: each is waited for.
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        step();
        // The queue is empty: the server has answered everything before.
        packet.try_send(&socket, fds).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => self.gone(),
            _ => Error::from_os(error, format!("cannot ask the manager at {}", self.address)),
        })?;
        step();
        let received = self.receive(&socket, deadline)?;
        step();
        match wire::open::<Answer>(received)? {
            (Answer::Failed(failure), _) => Err(failure.into()),
            (answer, fds) => Ok((answer, fds.into_iter().next())),
        }
    }

    fn receive(&self, socket: &Socket, deadline: Option<Instant>) -> Result<crate::sys::socket::Received> {
        let failed = |error| Error::from_os(error, format!("cannot hear the manager at {}", self.address));
        loop {
            match socket.try_recv() {
                Ok(Some(received)) => return Ok(received),
                Ok(None) => return Err(self.gone()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(error)),
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(Error::new(
                    ErrorKind::WouldBlock,
                    format!("the manager at {} does not answer: its process {} may be stopped", self.address, self.pid),
                ));
            }
            let mut fds = vec![socket.as_fd()];
            fds.extend(self.server.iter().map(AsFd::as_fd));
            let ready = poll_readable(&fds, left).map_err(failed)?;
            // It may have answered before it ended.
            if ready.get(1) == Some(&true) {
                return match socket.try_recv() {
                    Ok(Some(received)) => Ok(received),
                    _ => Err(self.gone()),
                };
            }
        }
    }

    /// Ends the connection.
    pub(super) fn hang_up(&self) {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).shut_down();
    }

    /// Ends a server that was started here and does not serve.
    pub(super) fn abandon(self) {
        self.hang_up();
        if let Some(server) = &self.server
            && server.wait_timeout(PATIENCE).is_none()
        {
            // It has ended where that fails, and then only needs to be reaped.
            let _ = server.kill(libc::SIGKILL);
            server.wait();
        }
    }

    /// The process of a server that was started here.
    pub(super) fn into_server(self) -> Option<PidFd> {
        self.server
    }

    #[cold]
    fn gone(&self) -> Error {
        let Self { address, pid, server, .. } = self;
        let how = server.as_ref().and_then(|server| server.wait_timeout(Duration::from_millis(100)));
        let how = how.map_or_else(|| "it has ended or closed the connection".to_owned(), |ended| ended.to_string());
        Error::new(ErrorKind::Closed, format!("the manager at {address} is gone: its process {pid}: {how}"))
    }
}
