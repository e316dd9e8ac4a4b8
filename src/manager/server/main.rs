//! A started copy of the program becomes a server.

use std::os::fd::AsFd;
use std::process::exit;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use super::ManagerServer;
use super::clients::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::manager::address::Address;
use crate::manager::protocol::{Answer, Start};
use crate::memory::{Record, step};
use crate::sys::process::{PidFd, poll_readable, unblock_signals};
use crate::sys::signals::EndSignals;
use crate::sys::socket::Socket;
use crate::wire::{self, Packet};

/// Nobody is left who could be told that the start failed.
const FAILED: i32 = 2;

/// Serves for the process that has started this one, at the other end of `socket`, and ends with the process.
pub(crate) fn server_main(socket: Socket, owner: PidFd) -> ! {
    // Before they are let in: a signal that came during the start would kill.
    let signals = EndSignals::catch(&[Signal::SIGTERM]);
    unblock_signals();
    #[cfg(test)]
    crate::manager::kill_tests::arm_server();
    let Some((start, record)) = hear(&socket, &owner) else { exit(FAILED) };
    let ready = signals.and_then(|signals| Ok((signals, begin(&start, record)?)));
    let (signals, mut server) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            // It has gone where that fails.
            let _ = Packet::new(&Answer::Failed(error.into())).map(|packet| packet.send(&socket));
            exit(FAILED)
        }
    };
    step();
    let Ok(started) = Packet::new(&Answer::Labelled(start.address)) else { exit(FAILED) };
    if started.send(&socket).is_err() && !start.detached {
        exit(FAILED);
    }
    if start.detached {
        drop((socket, owner));
    } else {
        server.owner = Some(owner);
        server.clients.push(Client::greeted(socket));
    }
    // Who asked for it has been told of problems; the ledger remembers them.
    drop(server.serve(&signals));
    exit(0)
}

/// What the starter wants; `None` where it is gone.
fn hear(socket: &Socket, owner: &PidFd) -> Option<(Start, Option<Record>)> {
    let ready = poll_readable(&[socket.as_fd(), owner.as_fd()], None).ok()?;
    if !ready[0] {
        return None;
    }
    let (start, fds) = wire::open_inline::<Start>(socket.try_recv().ok()??).ok()?;
    Some((start, fds.into_iter().next().map(Record::from_fd)))
}

fn begin(start: &Start, record: Option<Record>) -> Result<ManagerServer> {
    if record.is_none() && !start.detached {
        return Err(Error::new(ErrorKind::Layout, "a manager's server got no record from its owner"));
    }
    // A descriptor for each anonymous block and each client: as many as there may be. It starts no programs that could be
    // confused by numbers above 1023.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    ManagerServer::bind(&Address::parse(&start.address)?, record)
}
