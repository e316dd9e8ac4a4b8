//! Processes that answer as fast as they can: this program again, told by its arguments what to be.

mod channel;
mod ping_pong;
mod stream;

use std::io;
use std::process::{Child, Command, exit};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};

pub(crate) use channel::Channel;
pub(crate) use ping_pong::{PingPong, Waiting};
pub(crate) use stream::Stream;

use crate::Result;

/// The first argument of a process that is such a peer.
pub(crate) const ARGUMENT: &str = "--peer";

pub(crate) trait Peer {
    /// The id of the other process.
    fn pid(&self) -> u32;

    /// Says something to the other process and waits for its answer.
    fn round_trip(&mut self);
}

/// The other side's `main`.
pub(crate) fn answer(arguments: &[String]) -> Result<()> {
    let [parent, kind, rest @ ..] = arguments else {
        return Err(format!("{ARGUMENT} is for the benchmark's own use").into());
    };
    // One that spins must not outlive an interrupted benchmark. Checked after it is set: the parent may be gone by then.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().to_string() != *parent {
        exit(1);
    }
    match (kind.as_str(), rest) {
        (ping_pong::KIND, [waiting]) => ping_pong::answer(waiting),
        (stream::KIND, []) => stream::answer(),
        (channel::KIND, [server]) => channel::answer(server),
        _ => Err(format!("no peer is called {kind}").into()),
    }
}

/// Starts with the standard streams that `command` is given by `set`.
fn spawn(kind: &str, arguments: &[&str], set: impl FnOnce(&mut Command)) -> io::Result<Process> {
    let mut command = Command::new("/proc/self/exe");
    command.args([ARGUMENT, &getpid().to_string(), kind]).args(arguments);
    set(&mut command);
    command.spawn().map(Process)
}

/// Waited for when it is dropped, which has to be after it was told to end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        match self.0.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("a peer ended with {status}"),
            Err(error) => eprintln!("a peer cannot be waited for: {error}"),
        }
    }
}
