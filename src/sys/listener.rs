//! Listening on an abstract name: it lies in no file system, and is gone with the last process that listens on it.
#![expect(unsafe_code, reason = "accept4 gives its descriptor as a number")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect as nix_connect, listen, socket,
};

use crate::sys::socket::Socket;

/// As many connections as the kernel lets wait unless it was told otherwise.
const BACKLOG: i32 = 4096;

/// A socket that listens; not waited for in [`accept`](Self::accept).
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl Listener {
    /// `EADDRINUSE` where somebody listens on that name.
    pub(crate) fn bind(name: &str) -> nix::Result<Self> {
        let fd = new_socket()?;
        bind(fd.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
        listen(&fd, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
        Ok(Self(fd))
    }

    /// The next connection; `EAGAIN` where there is none.
    pub(crate) fn accept(&self) -> nix::Result<Socket> {
        let fd = accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: the kernel has just opened it for this call, nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Socket::from_fd(fd).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EPROTO)))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Connects to who listens on that name: `ECONNREFUSED` where nobody does, `EAGAIN` where the queue of connections is
/// still full at the deadline.
pub(crate) fn connect(name: &str, deadline: Instant) -> nix::Result<Socket> {
    let fd = new_socket()?;
    let address = UnixAddr::new_abstract(name.as_bytes())?;
    loop {
        match nix_connect(fd.as_raw_fd(), &address) {
            Ok(()) => break,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Err(errno) => return Err(errno),
        }
    }
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Socket::from_fd(fd).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EPROTO)))
}

fn new_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_connects_talks_with_who_listens_until_that_one_is_gone() {
        let name = format!("ndshm-test-{}", std::process::id());
        let connect_now = || connect(&name, Instant::now());
        assert_eq!(connect_now().unwrap_err(), Errno::ECONNREFUSED);
        let listener = Listener::bind(&name).unwrap();
        assert_eq!(Listener::bind(&name).unwrap_err(), Errno::EADDRINUSE);
        assert_eq!(listener.accept().unwrap_err(), Errno::EAGAIN);
        let client = connect_now().unwrap();
        let server = listener.accept().unwrap();
        client.send(b"hello", &[]).unwrap();
        assert_eq!(server.recv().unwrap().unwrap().bytes, b"hello");
        let me = (std::process::id().cast_signed(), nix::unistd::geteuid().as_raw());
        assert_eq!((client.peer_pid_uid().unwrap(), server.peer_pid_uid().unwrap()), (me, me));
        drop(listener);
        assert_eq!(connect_now().unwrap_err(), Errno::ECONNREFUSED);
    }
}
