//! A process at the other end of two `ipc-channel`s.

use ipc_channel::IpcError;
use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender};

use super::Rival;
use crate::Result;
use crate::peer::Process;

pub(super) const KIND: &str = "ipc-channel";

type Ends = (IpcSender<u64>, IpcReceiver<u64>);

pub(crate) struct Channel {
    to: IpcSender<u64>,
    from: IpcReceiver<u64>,
    // Last: the process ends when the channels do.
    process: Process,
}

impl Channel {
    pub(crate) fn start() -> Result<Self> {
        let (server, name) = IpcOneShotServer::<Ends>::new()?;
        let process = Process::start(KIND, &[&name], |_| ())?;
        let (_, (to, from)) = server.accept()?;
        Ok(Self { to, from, process })
    }
}

impl Rival for Channel {
    fn pid(&self) -> u32 {
        self.process.id()
    }

    fn round_trip(&mut self) {
        self.to.send(0).expect("the peer listens");
        self.from.recv().expect("the peer answers");
    }
}

pub(super) fn answer(server: &str) -> Result<()> {
    let (to_us, from_parent) = ipc::channel()?;
    let (to_parent, from_us) = ipc::channel()?;
    IpcSender::<Ends>::connect(server.to_owned())?.send((to_us, from_us))?;
    loop {
        match from_parent.recv() {
            Ok(message) => to_parent.send(message)?,
            Err(IpcError::Disconnected) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
