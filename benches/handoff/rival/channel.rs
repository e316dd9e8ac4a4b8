//! `ipc-channel`: its channel of bytes, and its shared memory sent over a channel.

use std::ops::Deref;

use ipc_channel::IpcError;
use ipc_channel::ipc::{
    self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender, IpcSharedMemory,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Rival;
use crate::common::Result;
use crate::peer::Process;
use crate::reading::{Message, Reading};

pub(super) const KIND: &str = "channel";
pub(super) const SHARED_KIND: &str = "shared-memory-channel";

/// What a peer sends to who started it: where to send messages, and where to get the answers.
type Ends<S> = (S, IpcReceiver<u64>);

/// The reader gets a vector of bytes.
pub(crate) struct Channel {
    to: IpcBytesSender,
    from: IpcReceiver<u64>,
    // Last: the process ends when the channels do.
    _process: Process,
}

impl Channel {
    pub(crate) fn start(reading: Reading) -> Result<Box<dyn Rival>> {
        let (process, (to, from)) = start(KIND, reading)?;
        Ok(Box::new(Self { to, from, _process: process }))
    }
}

impl Rival for Channel {
    fn hand_over(&mut self, message: &Message) -> Result<u64> {
        self.to.send(message.bytes())?;
        Ok(self.from.recv()?)
    }
}

/// The reader gets shared memory that it maps.
pub(crate) struct SharedMemoryChannel {
    /// `None` where a copy is made for each message.
    kept: Option<IpcSharedMemory>,
    to: IpcSender<IpcSharedMemory>,
    from: IpcReceiver<u64>,
    // Last: the process ends when the channels do.
    _process: Process,
}

impl SharedMemoryChannel {
    pub(crate) fn anew(reading: Reading) -> Result<Box<dyn Rival>> {
        Self::start(reading, None)
    }

    pub(crate) fn kept(reading: Reading, message: &Message) -> Result<Box<dyn Rival>> {
        Self::start(reading, Some(IpcSharedMemory::from_bytes(message.bytes())))
    }

    fn start(reading: Reading, kept: Option<IpcSharedMemory>) -> Result<Box<dyn Rival>> {
        let (process, (to, from)) = start(SHARED_KIND, reading)?;
        Ok(Box::new(Self { kept, to, from, _process: process }))
    }
}

impl Rival for SharedMemoryChannel {
    fn prepare(&mut self, message: &Message) -> Result<()> {
        self.kept = Some(IpcSharedMemory::from_bytes(message.bytes()));
        Ok(())
    }

    fn hand_over(&mut self, message: &Message) -> Result<u64> {
        let memory = self.kept.clone().unwrap_or_else(|| IpcSharedMemory::from_bytes(message.bytes()));
        self.to.send(memory)?;
        Ok(self.from.recv()?)
    }
}

fn start<S: Serialize + DeserializeOwned>(kind: &str, reading: Reading) -> Result<(Process, Ends<S>)> {
    let (server, name) = IpcOneShotServer::<Ends<S>>::new()?;
    let process = Process::start(kind, &[&name, reading.name()], |_| ())?;
    let (_, ends) = server.accept()?;
    Ok((process, ends))
}

pub(super) fn answer(server: &str, reading: Reading) -> Result<()> {
    let (to_us, from_parent) = ipc::bytes_channel()?;
    let receive = |from: &IpcBytesReceiver| from.recv();
    serve(server, to_us, || receive(&from_parent), reading)
}

pub(super) fn answer_shared(server: &str, reading: Reading) -> Result<()> {
    let (to_us, from_parent) = ipc::channel::<IpcSharedMemory>()?;
    serve(server, to_us, || from_parent.recv(), reading)
}

fn serve<S: Serialize, M: Deref<Target = [u8]>>(
    server: &str,
    to_us: S,
    receive: impl Fn() -> Result<M, IpcError>,
    reading: Reading,
) -> Result<()> {
    let (to_parent, from_us) = ipc::channel()?;
    IpcSender::<Ends<S>>::connect(server.to_owned())?.send((to_us, from_us))?;
    loop {
        match receive() {
            // Allocated or mapped: aligned for any element.
            Ok(message) => to_parent.send(reading.of(bytemuck::cast_slice(&message)))?,
            Err(IpcError::Disconnected) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
