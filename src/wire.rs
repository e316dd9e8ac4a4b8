//! Messages between processes: one message is one packet.
//!
//! What does not fit in a packet travels in a memfd whose descriptor comes along, before all others.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::socket::{MAX_MESSAGE, Received, Socket};
use crate::sys::{memfd, space};

/// The first byte of a packet: where the message is.
const INLINE: u8 = 0;
const IN_MEMFD: u8 = 1;

/// Bytes of a message, which can be sent several times.
#[derive(Debug)]
pub(crate) struct Packet {
    bytes: Vec<u8>,
    overflow: Option<OwnedFd>,
}

impl Packet {
    pub(crate) fn new(message: &impl Serialize) -> Result<Self> {
        let mut bytes = vec![INLINE];
        rmp_serde::encode::write(&mut bytes, message).map_err(|error| {
            Error::new(ErrorKind::Serialization, "a message to another process cannot be encoded").with_source(error)
        })?;
        if bytes.len() <= MAX_MESSAGE {
            return Ok(Self { bytes, overflow: None });
        }
        space::check_file_size(bytes.len() - 1)?;
        let file = File::from(memfd::create()?);
        file.write_all_at(&bytes[1..], 0).map_err(|error| Error::from_os(error, "cannot write a large message"))?;
        Ok(Self { bytes: vec![IN_MEMFD], overflow: Some(file.into()) })
    }

    /// Waits while the other side's queue is full.
    pub(crate) fn send(&self, socket: &Socket) -> io::Result<()> {
        let overflow: Vec<_> = self.overflow.iter().map(AsFd::as_fd).collect();
        socket.send(&self.bytes, &overflow)
    }

    /// Fails with `WouldBlock` where it would have to wait.
    pub(crate) fn try_send(&self, socket: &Socket, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let all: Vec<_> = self.overflow.iter().map(AsFd::as_fd).chain(fds.iter().copied()).collect();
        socket.try_send(&self.bytes, &all)
    }
}

/// The message and the descriptors of a packet.
pub(crate) fn open<M: DeserializeOwned>(received: Received) -> Result<(M, Vec<OwnedFd>)> {
    let Received { bytes, fds } = received;
    let (&place, inline) = bytes.split_first().ok_or_else(damaged)?;
    let mut fds = fds.into_iter();
    let stored;
    let body = match place {
        INLINE => inline,
        IN_MEMFD => {
            let file = File::from(fds.next().ok_or_else(damaged)?);
            let read = || {
                let mut body = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
                file.read_exact_at(&mut body, 0)?;
                Ok(body)
            };
            stored = read().map_err(|error: io::Error| Error::from_os(error, "cannot read a large message"))?;
            &stored
        }
        _ => return Err(damaged()),
    };
    let message = rmp_serde::from_slice(body).map_err(|error| damaged().with_source(error))?;
    Ok((message, fds.collect()))
}

/// [`open`] for messages of processes that are not to be trusted: one that is not in the packet itself is damaged.
pub(crate) fn open_inline<M: DeserializeOwned>(received: Received) -> Result<(M, Vec<OwnedFd>)> {
    if received.bytes.first() != Some(&INLINE) {
        return Err(damaged());
    }
    open(received)
}

#[cold]
fn damaged() -> Error {
    Error::new(ErrorKind::Layout, "a message of another process is damaged")
}

#[cfg(test)]
mod tests {
    use serde_bytes::ByteBuf;

    use super::*;

    #[test]
    fn a_message_that_outgrows_a_packet_arrives_whole() {
        let (here, there) = Socket::pair().unwrap();
        for len in [10, MAX_MESSAGE, 3_000_000] {
            let sent: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            Packet::new(&(3, ByteBuf::from(sent.clone()))).unwrap().send(&here).unwrap();
            let ((number, bytes), fds): ((i32, ByteBuf), _) = open(there.recv().unwrap().unwrap()).unwrap();
            assert_eq!((number, bytes.into_vec()), (3, sent));
            assert!(fds.is_empty());
        }
    }

    #[test]
    fn garbage_is_an_error() {
        for bytes in [vec![], vec![7], vec![IN_MEMFD], vec![INLINE, 0xc1, 9, 9]] {
            assert_eq!(open::<u32>(Received { bytes, fds: Vec::new() }).unwrap_err().kind(), ErrorKind::Layout);
        }
        // Whoever sends such a file chooses how long reading it takes.
        let endless = Received { bytes: vec![IN_MEMFD], fds: vec![File::open("/dev/zero").unwrap().into()] };
        assert_eq!(open_inline::<u32>(endless).unwrap_err().kind(), ErrorKind::Layout);
    }
}
