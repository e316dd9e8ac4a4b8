//! The process at the other end: a benchmark's own program again, told by its arguments what to be.
#![allow(dead_code, reason = "not every benchmark uses all of it")]

use std::io;
use std::process::{Child, Command, ExitStatus, exit};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};

use crate::common::Result;

/// The first argument of a process that is a peer; the id of its parent, its kind and its own arguments follow.
const ARGUMENT: &str = "--peer";

/// What this process was started to be.
pub(crate) struct Role {
    pub(crate) kind: String,
    pub(crate) arguments: Vec<String>,
}

/// The role of a process that was started as a peer, which ends with its parent from here on.
pub(crate) fn role() -> Result<Option<Role>> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(ARGUMENT) {
        return Ok(None);
    }
    let (Some(parent), Some(kind)) = (arguments.next(), arguments.next()) else {
        return Err(format!("{ARGUMENT} is for the benchmark's own use").into());
    };
    // One that spins must not outlive an interrupted benchmark. Checked after it is set: the parent may be gone by then.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().to_string() != parent {
        exit(1);
    }
    Ok(Some(Role { kind, arguments: arguments.collect() }))
}

/// Waited for when it is dropped, which has to be after it was told to end.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a peer, with the standard streams that its command is given by `set`.
    pub(crate) fn start(kind: &str, arguments: &[&str], set: impl FnOnce(&mut Command)) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args([ARGUMENT, &getpid().to_string(), kind]).args(arguments);
        set(&mut command);
        command.spawn().map(Self)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        match self.0.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => eprintln!("a peer ended with {status}"),
            Err(error) => eprintln!("a peer cannot be waited for: {error}"),
        }
    }
}
