//! A reader that copies out of the sender's memory: told where the message lies, it takes it with `process_vm_readv`.
#![expect(unsafe_code, reason = "lets the reader at this process's memory")]

use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::getppid;

use super::Rival;
use super::stream::PIECE;
use crate::common::Result;
use crate::peer::Process;
use crate::reading::{Message, Reading};

pub(super) const KIND: &str = "pull";

pub(crate) struct Pull {
    stream: UnixStream,
    // Last: the process ends when the stream does.
    _process: Process,
}

impl Pull {
    pub(crate) fn start(reading: Reading) -> Result<Box<dyn Rival>> {
        let (ours, theirs) = UnixStream::pair()?;
        let process = Process::start(KIND, &[reading.name()], |command| {
            command.stdin(OwnedFd::from(theirs));
        })?;
        // Many systems let a process read its children's memory only. Others have no such rule, which is an error here
        // and no harm.
        // SAFETY: takes a process id and touches no memory.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::c_ulong::from(process.id())) };
        Ok(Box::new(Self { stream: ours, _process: process }))
    }
}

impl Rival for Pull {
    fn hand_over(&mut self, message: &Message) -> Result<u64> {
        let bytes = message.bytes();
        self.stream.write_all(bytemuck::bytes_of(&[bytes.as_ptr().addr(), bytes.len()]))?;
        let mut answer = 0_u64;
        self.stream.read_exact(bytemuck::bytes_of_mut(&mut answer))?;
        Ok(answer)
    }
}

pub(super) fn answer(reading: Reading) -> Result<()> {
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut buffer = vec![0_u64; PIECE / size_of::<u64>()];
    let mut place = [0_usize; 2];
    while let Ok(()) = stream.read_exact(bytemuck::bytes_of_mut(&mut place)) {
        let [start, len] = place;
        let mut total = 0_u64;
        for at in (0..len).step_by(PIECE) {
            let len = PIECE.min(len - at);
            let piece = &mut buffer[..len / size_of::<u64>()];
            let from = RemoteIoVec { base: start + at, len };
            let copied = process_vm_readv(getppid(), &mut [IoSliceMut::new(bytemuck::cast_slice_mut(piece))], &[from])?;
            if copied != len {
                return Err(format!("{copied} bytes were read of {len}").into());
            }
            total = total.wrapping_add(reading.of(piece));
        }
        stream.write_all(&total.to_ne_bytes())?;
    }
    Ok(())
}
