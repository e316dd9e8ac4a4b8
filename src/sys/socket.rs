//! Connected pairs of sockets that keep message boundaries and carry file descriptors.
#![expect(unsafe_code, reason = "sendmsg and recvmsg with descriptors take raw pointers")]
#![expect(clippy::cast_possible_truncation, reason = "every length is bounded by the constants here")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, getsockopt, shutdown, socketpair, sockopt};

use crate::{Error, Result};

/// The most bytes that one message holds.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;
/// The most descriptors that one message carries (the kernel's own limit is 253).
pub(crate) const MAX_FDS: usize = 64;

/// Room for one `SCM_RIGHTS` message of `MAX_FDS` descriptors.
const CONTROL_LEN: usize = {
    // SAFETY: `CMSG_SPACE` only computes with its argument; it has no precondition.
    let len = unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) };
    len as usize
};

/// Aligned for `cmsghdr`, which starts with a word.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

/// One end of an `AF_UNIX`, `SOCK_SEQPACKET` pair.
///
/// A message arrives whole or not at all, so threads may send at the same time. An empty message could not be told
/// from the end of the file, and is refused.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

/// One message.
#[derive(Debug)]
pub(crate) struct Received {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

impl Socket {
    /// Two ends, both closed on exec.
    pub(crate) fn pair() -> Result<(Socket, Socket)> {
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| Error::from_os(errno, "cannot make a pair of sockets"))?;
        Ok((Self(one), Self(other)))
    }

    /// Takes over a descriptor that came from elsewhere, if it is an `AF_UNIX`, `SOCK_SEQPACKET` socket.
    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Socket> {
        let domain = socket_option(fd.as_fd(), libc::SO_DOMAIN)?;
        let kind = socket_option(fd.as_fd(), libc::SO_TYPE)?;
        if (domain, kind) != (libc::AF_UNIX, libc::SOCK_SEQPACKET) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the socket is not a unix one that keeps messages",
            ));
        }
        Ok(Self(fd))
    }

    /// Sends one message, waiting while the other side's queue is full.
    ///
    /// # Errors
    /// `BrokenPipe` where the other end is closed, `InvalidInput` for a message that is empty or too large.
    pub(crate) fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(bytes, fds, 0)
    }

    /// [`send`](Self::send) that fails with `WouldBlock` where it would have to wait.
    pub(crate) fn try_send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(bytes, fds, libc::MSG_DONTWAIT)
    }

    /// The next message, or `None` when the other end is closed and everything has been read.
    ///
    /// # Errors
    /// `InvalidData` where the message or its descriptors arrived cut, as they do at the limit of open files: what came
    /// is closed.
    pub(crate) fn recv(&self) -> io::Result<Option<Received>> {
        self.recv_with(0)
    }

    /// [`recv`](Self::recv) that fails with `WouldBlock` where there is nothing yet.
    pub(crate) fn try_recv(&self) -> io::Result<Option<Received>> {
        self.recv_with(libc::MSG_DONTWAIT)
    }

    /// Ends the connection, whoever else has this end of it.
    pub(crate) fn shut_down(&self) {
        // Fails where the other end is gone already.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }

    /// Process and user id of who made the other end. For a pair, that is who called `pair`.
    pub(crate) fn peer_pid_uid(&self) -> Result<(i32, u32)> {
        let peer = getsockopt(&self.0, sockopt::PeerCredentials)
            .map_err(|errno| Error::from_os(errno, "cannot tell who is at the other end of a socket"))?;
        Ok((peer.pid(), peer.uid()))
    }

    fn send_with(&self, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: i32) -> io::Result<()> {
        if bytes.is_empty() || bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            let message = format!(
                "a message has {} bytes and {} descriptors, expected 1 to {MAX_MESSAGE} and at most {MAX_FDS}",
                bytes.len(),
                fds.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = Control([0; CONTROL_LEN]);
        let mut message = message_header(&mut iov);
        if !fds.is_empty() {
            message.msg_control = (&raw mut control.0).cast();
            let payload = size_of_val(fds) as u32;
            // SAFETY: `CMSG_SPACE` only computes with its argument.
            message.msg_controllen = unsafe { libc::CMSG_SPACE(payload) } as _;
            // SAFETY: `message` has `msg_control` and `msg_controllen` set, to a live buffer and a length within it
            // (`fds.len() <= MAX_FDS`), which is all that `CMSG_FIRSTHDR` reads.
            let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
            let mut header = zeroed_control_header();
            // SAFETY: `CMSG_LEN` only computes with its argument.
            header.cmsg_len = unsafe { libc::CMSG_LEN(payload) } as _;
            header.cmsg_level = libc::SOL_SOCKET;
            header.cmsg_type = libc::SCM_RIGHTS;
            // SAFETY: `first` is the start of `control`, which is aligned for a `cmsghdr` and longer than one; not null,
            // as the length is at least that of one header.
            unsafe { first.write(header) };
            // SAFETY: `first` points at a header with room for `payload` bytes behind it.
            let data = unsafe { libc::CMSG_DATA(first) };
            // SAFETY: `BorrowedFd` is a transparent `RawFd`, so `fds` is `payload` readable bytes; `data` has room for as
            // many, inside `control`, a local that `fds` cannot overlap.
            unsafe { ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), data, payload as usize) };
        }
        loop {
            // SAFETY: `message` points at `iov`, `bytes` and `control`, all alive; the kernel only reads them.
            let sent = unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const message, flags | libc::MSG_NOSIGNAL) };
            if sent >= 0 {
                // A socket that keeps messages sends all of one.
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if !is_passing(&error) {
                return Err(error);
            }
        }
    }

    fn recv_with(&self, flags: i32) -> io::Result<Option<Received>> {
        let mut bytes = Vec::<u8>::with_capacity(MAX_MESSAGE);
        let mut control = Control([0; CONTROL_LEN]);
        let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: MAX_MESSAGE };
        let mut message = message_header(&mut iov);
        let len = loop {
            message.msg_control = (&raw mut control.0).cast();
            message.msg_controllen = CONTROL_LEN as _;
            // SAFETY: `message` points at `iov`, at `MAX_MESSAGE` writable bytes of `bytes` and `CONTROL_LEN` of
            // `control`, all alive and not otherwise used during the call.
            let read = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, flags | libc::MSG_CMSG_CLOEXEC) };
            if let Ok(read) = usize::try_from(read) {
                break read;
            }
            let error = io::Error::last_os_error();
            if !is_passing(&error) {
                return Err(error);
            }
        };
        // Owned before anything is judged, so that whatever came is closed on every path.
        let fds = received_fds(&message);
        if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            let what = if message.msg_flags & libc::MSG_CTRUNC != 0 {
                "its descriptors arrived cut: the limit of open files (ulimit -n) may be reached"
            } else {
                "it is longer than a message may be"
            };
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message was not received whole: {what}"),
            ));
        }
        if len == 0 {
            return Ok(None);
        }
        // SAFETY: the kernel wrote `len` bytes at the start of `bytes`, and no more than its capacity.
        unsafe { bytes.set_len(len) };
        bytes.shrink_to_fit();
        Ok(Some(Received { bytes, fds }))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> OwnedFd {
        socket.0
    }
}

/// A signal, or the notice that the other end was closed with messages unread: the kernel gives it once, before what is
/// still queued for this end, and the next call finds the queue, its end, or `EPIPE`.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECONNRESET))
}

/// A header for one buffer, no address and no control data.
fn message_header(iov: &mut libc::iovec) -> libc::msghdr {
    let header = MaybeUninit::<libc::msghdr>::zeroed();
    // SAFETY: `msghdr` is integers and pointers, for which all zeros is a value.
    let mut header = unsafe { header.assume_init() };
    header.msg_iov = iov;
    header.msg_iovlen = 1;
    header
}

fn zeroed_control_header() -> libc::cmsghdr {
    let header = MaybeUninit::<libc::cmsghdr>::zeroed();
    // SAFETY: `cmsghdr` is integers only, for which all zeros is a value.
    unsafe { header.assume_init() }
}

/// Takes every descriptor out of a header that `recvmsg` has just filled; to be called once on it.
fn received_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: `recvmsg` left `msg_control` and `msg_controllen` at the control data it wrote.
    let mut current = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !current.is_null() {
        // SAFETY: not null, so a header that the kernel wrote whole into the aligned control buffer.
        let header = unsafe { current.read() };
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: `CMSG_LEN` only computes with its argument.
            let start = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (header.cmsg_len as usize).saturating_sub(start) / size_of::<RawFd>();
            let mut raw = vec![0; count];
            // SAFETY: `current` is a header inside the control buffer.
            let data = unsafe { libc::CMSG_DATA(current) };
            // SAFETY: the kernel wrote `count` descriptors behind the header, as its length says; `raw` has room for as
            // many and is a fresh allocation.
            unsafe { ptr::copy_nonoverlapping(data, raw.as_mut_ptr().cast::<u8>(), count * size_of::<RawFd>()) };
            // SAFETY: the kernel opened them for this message, and only this call, the one for it, takes them.
            fds.extend(raw.into_iter().map(|fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
        // SAFETY: `current` is a header of `message`, whose control data is unchanged.
        current = unsafe { libc::CMSG_NXTHDR(message, current) };
    }
    fds
}

fn socket_option(fd: BorrowedFd<'_>, option: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` and `len` are live and writable, and `len` is the size of `value`.
    let status =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len) };
    if status == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use super::*;

    fn open_fds() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn messages_keep_their_boundaries_and_end_with_none() {
        let (a, b) = Socket::pair().unwrap();
        a.send(b"one", &[]).unwrap();
        a.send(&vec![7; MAX_MESSAGE], &[]).unwrap();
        assert_eq!(b.recv().unwrap().unwrap().bytes, b"one");
        assert_eq!(b.recv().unwrap().unwrap().bytes, vec![7; MAX_MESSAGE]);
        assert_eq!(b.try_recv().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert!(b.recv().unwrap().is_none());
        assert_eq!(b.send(b"late", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_was_sent_before_a_close_arrives_although_the_closed_end_had_unread_messages() {
        let (a, b) = Socket::pair().unwrap();
        a.send(b"last words", &[]).unwrap();
        b.send(b"never read", &[]).unwrap();
        drop(a);
        assert_eq!(b.recv().unwrap().unwrap().bytes, b"last words");
        assert!(b.recv().unwrap().is_none());
    }

    #[test]
    fn descriptors_arrive_open_and_closed_on_exec() {
        let (a, b) = Socket::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"shared").unwrap();
        file.rewind().unwrap();
        let fds = vec![file.as_fd(); MAX_FDS];
        a.send(b"x", &fds).unwrap();
        let mut received = b.recv().unwrap().unwrap();
        assert_eq!((received.bytes.as_slice(), received.fds.len()), (b"x".as_slice(), MAX_FDS));
        let fd = received.fds.pop().unwrap();
        let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, libc::FD_CLOEXEC);
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        assert_eq!(text, "shared");
    }

    #[test]
    fn messages_that_are_empty_or_too_large_are_refused() {
        let (a, _b) = Socket::pair().unwrap();
        let too_many = vec![a.as_fd(); MAX_FDS + 1];
        for error in [
            a.send(&[], &[]).unwrap_err(),
            a.send(&vec![0; MAX_MESSAGE + 1], &[]).unwrap_err(),
            a.try_send(b"x", &too_many).unwrap_err(),
        ] {
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_full_queue_would_block() {
        let (a, _b) = Socket::pair().unwrap();
        let error = (0..1000).find_map(|_| a.try_send(&vec![0; MAX_MESSAGE], &[]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_cut_message_is_an_error_and_leaves_no_descriptor_open() {
        use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
        let (a, b) = Socket::pair().unwrap();
        let raw = vec![a.0.as_raw_fd(); MAX_FDS * 2];
        let long = vec![0; MAX_MESSAGE + 1];
        let send = |bytes: &[u8], fds: &[RawFd]| {
            let iov = [io::IoSlice::new(bytes)];
            let control = [ControlMessage::ScmRights(fds)];
            sendmsg::<()>(a.0.as_raw_fd(), &iov, &control, MsgFlags::empty(), None).unwrap();
        };
        // Other tests open descriptors meanwhile: 64 of ours staying open each time would still stand out.
        let before = open_fds();
        for _ in 0..8 {
            send(b"x", &raw);
            assert_eq!(b.recv().unwrap_err().kind(), io::ErrorKind::InvalidData);
            send(&long, &raw[..MAX_FDS]);
            assert_eq!(b.recv().unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert!(open_fds() < before + 8 * MAX_FDS, "descriptors of cut messages stayed open");
        // The socket goes on after that.
        a.send(b"next", &[]).unwrap();
        assert_eq!(b.recv().unwrap().unwrap().bytes, b"next");
    }

    #[test]
    fn a_pair_knows_who_made_it_and_only_such_a_socket_is_taken_over() {
        let (a, _b) = Socket::pair().unwrap();
        let me = (i32::try_from(std::process::id()).unwrap(), nix::unistd::geteuid().as_raw());
        assert_eq!(a.peer_pid_uid().unwrap(), me);
        assert!(Socket::from_fd(a.0).is_ok());
        let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(Socket::from_fd(stream.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(Socket::from_fd(tempfile::tempfile().unwrap().into()).is_err());
    }
}
