//! A process that is sent data by pipe or socket and adds it up: this tool again, told so by a hidden option.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};

use super::comparisons::sum;
use super::stream;

/// The largest pipe that an ordinary user may have by default, in place of the usual 64 KiB.
const PIPE_CAPACITY: i32 = 1 << 20;

pub(super) struct Rival {
    to: File,
    from: File,
    process: Child,
}

impl Rival {
    pub(super) fn at_pipe(bytes: usize) -> Result<Self> {
        let (their_input, to) = io::pipe()?;
        let (from, their_output) = io::pipe()?;
        // Where the system allows less it stays as it is.
        let _ = fcntl(to.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_CAPACITY));
        Self::start(to.into(), from.into(), their_input.into(), their_output.into(), bytes)
    }

    pub(super) fn at_socket_pair(bytes: usize) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let (from, their_output) = (ours.try_clone()?, theirs.try_clone()?);
        Self::start(ours.into(), from.into(), theirs.into(), their_output.into(), bytes)
    }

    fn start(to: OwnedFd, from: OwnedFd, their_input: OwnedFd, their_output: OwnedFd, bytes: usize) -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["bench", "--receive", &bytes.to_string()]).stdin(their_input).stdout(their_output);
        let process = command.spawn().context("cannot start a process to send data to")?;
        Ok(Self { to: to.into(), from: from.into(), process })
    }

    /// Sends `message`, of as many bytes as were agreed on, and waits for the sum of its numbers.
    pub(super) fn hand_over(&mut self, message: &[u64]) -> Result<u64> {
        let answer = stream::hand_over(&mut self.to, &mut self.from, bytemuck::cast_slice(message));
        answer.context("the process that data is sent to gave no answer")
    }

    /// The other side ends when the stream does.
    pub(super) fn finish(self) -> Result<()> {
        let Self { to, from, mut process } = self;
        drop((to, from));
        process.wait()?;
        Ok(())
    }
}

/// The other side.
pub(super) fn receive(bytes: usize) -> Result<()> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Ok(stream::serve(&mut input, &mut output, bytes, sum)?)
}
