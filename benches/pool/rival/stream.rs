//! A process at the other end of two pipes or of a socket pair.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::Rival;
use crate::Result;
use crate::peer::Process;

pub(super) const KIND: &str = "stream";

/// As short as a message can be that names something.
type Message = [u8; 8];

pub(crate) struct Stream {
    to: File,
    from: File,
    // Last: the process ends when the streams do.
    process: Process,
}

impl Stream {
    pub(crate) fn at_pipes() -> Result<Self> {
        let (their_input, to) = io::pipe()?;
        let (from, their_output) = io::pipe()?;
        let process = Process::start(KIND, &[], |command| {
            command.stdin(their_input).stdout(their_output);
        })?;
        Ok(Self { to: OwnedFd::from(to).into(), from: OwnedFd::from(from).into(), process })
    }

    /// A socket that keeps messages apart.
    pub(crate) fn at_socket() -> Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let copy = theirs.try_clone()?;
        let process = Process::start(KIND, &[], |command| {
            command.stdin(theirs).stdout(copy);
        })?;
        Ok(Self { to: ours.try_clone()?.into(), from: ours.into(), process })
    }
}

impl Rival for Stream {
    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn round_trip(&mut self) {
        let mut message = Message::default();
        self.to.write_all(&message).expect("the peer listens");
        self.from.read_exact(&mut message).expect("the peer answers");
    }
}

pub(super) fn answer() -> Result<()> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut message = Message::default();
    // Nothing more to read is the end.
    while input.read(&mut message)? == message.len() {
        output.write_all(&message)?;
    }
    Ok(())
}
