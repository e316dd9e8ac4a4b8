//! What it takes to give the mask to another process: in place, and through a socket.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ndarray::Ix2;
use ndshm::{Pool, SharedArray};

use crate::Result;

/// The argument with which the program starts itself as the other end of a socket.
pub(crate) const RECEIVE: &str = "--receive";

/// How much the other end reads at a time; a multiple of 8.
const BUFFER: usize = 1 << 20;

/// What calls to the pool with an array take whose tasks do next to nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InPlace {
    /// The workers get the array, and map it.
    pub(crate) first: Duration,
    /// They have it.
    pub(crate) again: Duration,
}

/// Hands `mask` to the workers twice.
pub(crate) fn in_place(pool: &Pool, mask: &SharedArray<u8, Ix2>) -> Result<InPlace> {
    let rows = mask.shape()[0].div_ceil(pool.workers());
    let hand_over = || {
        let started = Instant::now();
        pool.for_each((mask.chunks().rows(rows),), |(rows,), _| {
            black_box(rows[[0, 0]]);
        })?;
        Ok::<_, ndshm::Error>(started.elapsed())
    };
    Ok(InPlace { first: hand_over()?, again: hand_over()? })
}

/// A process that reads what it is sent.
#[derive(Debug)]
pub(crate) struct Receiver {
    child: Child,
    stream: UnixStream,
}

impl Receiver {
    /// Starts it and waits until it is there.
    pub(crate) fn start() -> Result<Self> {
        let failed = |error: io::Error| format!("cannot start a process to send the mask to: {error}");
        let (stream, theirs) = UnixStream::pair().map_err(failed)?;
        let program = "/proc/self/exe";
        let child = Command::new(program).arg(RECEIVE).stdin(OwnedFd::from(theirs)).spawn().map_err(failed)?;
        let mut receiver = Self { child, stream };
        receiver.stream.read_exact(&mut [0]).map_err(failed)?;
        Ok(receiver)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends all of `mask` and waits for word that it was read.
    pub(crate) fn send(&mut self, mask: &SharedArray<u8, Ix2>) -> Result<Duration> {
        let mask = mask.read()?;
        let cells = mask.as_slice().unwrap_or_default();
        let mut answer = [0; 8];
        let started = Instant::now();
        let sent = self
            .stream
            .write_all(&cells.len().to_ne_bytes())
            .and_then(|()| self.stream.write_all(cells))
            .and_then(|()| self.stream.read_exact(&mut answer));
        let took = started.elapsed();
        sent.map_err(|error| format!("cannot send the mask through a socket: {error}"))?;
        if u64::from_ne_bytes(answer) == sum(cells) {
            Ok(took)
        } else {
            Err("the mask came out of the socket changed".into())
        }
    }

    /// Ends it.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.stream.shutdown(Shutdown::Both)?;
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the process at the other end of the socket: {status}").into())
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // It ends at the end of the stream, if it has not yet.
        let _ = self.stream.shutdown(Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The other end: its standard input is a socket.
pub(crate) fn receive() -> Result<()> {
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.write_all(&[1]).map_err(|_| format!("{RECEIVE} is for the program's own use"))?;
    let mut buffer = vec![0; BUFFER];
    let mut len = [0; 8];
    loop {
        match stream.read_exact(&mut len) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let (mut left, mut total) = (usize::from_ne_bytes(len), 0_u64);
        while left > 0 {
            let step = left.min(BUFFER);
            let part = &mut buffer[..step];
            match stream.read_exact(part) {
                // A sender that ended in the middle waits for no answer.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            total = total.wrapping_add(sum(part));
            left -= step;
        }
        stream.write_all(&total.to_ne_bytes())?;
    }
}

/// The sum of all numbers of eight bytes, which takes a small part of the time that the bytes themselves take.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let rest = rest.iter().map(|&byte| u64::from(byte)).sum();
    words.iter().fold(rest, |sum, &word| sum.wrapping_add(u64::from_ne_bytes(word)))
}
