//! Bytes that are written to a stream and read from it at the other end.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, vmsplice};

use super::Rival;
use crate::common::Result;
use crate::peer::Process;
use crate::reading::{Message, Reading};

#[path = "../../../src/bin/ndshm/commands/bench/stream.rs"]
mod bytes;

pub(super) use bytes::PIECE;

pub(super) const KIND: &str = "stream";

/// The largest pipe that an ordinary user may have by default, in place of the usual 64 KiB.
const PIPE_CAPACITY: i32 = 1 << 20;

pub(crate) struct Stream {
    to: File,
    from: File,
    /// Lets the pipe refer to the message's pages in place of a copy of them. That is sound here alone: nobody changes the
    /// message before the reader has answered.
    splice: bool,
    // Last: the process ends when the streams do.
    _process: Process,
}

impl Stream {
    pub(crate) fn at_pipe(bytes: usize, reading: Reading) -> Result<Box<dyn Rival>> {
        Ok(Box::new(Self::at_pipe_of(None, false, bytes, reading)?))
    }

    pub(crate) fn at_large_pipe(bytes: usize, reading: Reading) -> Result<Box<dyn Rival>> {
        Ok(Box::new(Self::at_pipe_of(Some(PIPE_CAPACITY), false, bytes, reading)?))
    }

    pub(crate) fn at_spliced_pipe(bytes: usize, reading: Reading) -> Result<Box<dyn Rival>> {
        Ok(Box::new(Self::at_pipe_of(Some(PIPE_CAPACITY), true, bytes, reading)?))
    }

    pub(crate) fn at_socket_pair(bytes: usize, reading: Reading) -> Result<Box<dyn Rival>> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok(Box::new(Self::at_socket(ours.into(), theirs.into(), bytes, reading)?))
    }

    pub(crate) fn at_tcp(bytes: usize, reading: Reading) -> Result<Box<dyn Rival>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let ours = TcpStream::connect(listener.local_addr()?)?;
        let (theirs, _) = listener.accept()?;
        for stream in [&ours, &theirs] {
            stream.set_nodelay(true)?;
        }
        Ok(Box::new(Self::at_socket(ours.into(), theirs.into(), bytes, reading)?))
    }

    fn at_pipe_of(capacity: Option<i32>, splice: bool, bytes: usize, reading: Reading) -> Result<Self> {
        let (their_input, to) = io::pipe()?;
        let (from, their_output) = io::pipe()?;
        if let Some(capacity) = capacity {
            // Where the system allows less it stays as it is.
            let _ = fcntl(to.as_fd(), FcntlArg::F_SETPIPE_SZ(capacity));
        }
        Self::start(to.into(), from.into(), their_input.into(), their_output.into(), splice, bytes, reading)
    }

    fn at_socket(ours: OwnedFd, theirs: OwnedFd, bytes: usize, reading: Reading) -> Result<Self> {
        let (from, their_output) = (ours.try_clone()?, theirs.try_clone()?);
        Self::start(ours, from, theirs, their_output, false, bytes, reading)
    }

    /// The other process is told how long a message is, so that nothing else has to be sent.
    fn start(
        to: OwnedFd,
        from: OwnedFd,
        their_input: OwnedFd,
        their_output: OwnedFd,
        splice: bool,
        bytes: usize,
        reading: Reading,
    ) -> Result<Self> {
        let process = Process::start(KIND, &[&bytes.to_string(), reading.name()], |command| {
            command.stdin(their_input).stdout(their_output);
        })?;
        Ok(Self { to: to.into(), from: from.into(), splice, _process: process })
    }
}

impl Rival for Stream {
    fn hand_over(&mut self, message: &Message) -> Result<u64> {
        let mut bytes = message.bytes();
        while self.splice && !bytes.is_empty() {
            let spliced = vmsplice(&self.to, &[IoSlice::new(bytes)], SpliceFFlags::empty())?;
            bytes = &bytes[spliced..];
        }
        Ok(bytes::hand_over(&mut self.to, &mut self.from, bytes)?)
    }
}

/// Answers every message of so many bytes.
pub(super) fn answer(bytes: usize, reading: Reading) -> Result<()> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Ok(bytes::serve(&mut input, &mut output, bytes, |piece| reading.of(piece))?)
}
