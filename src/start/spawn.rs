//! The parent's side of starting.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::init::{init, is_initialized};
use super::output::WorkerOutput;
use super::{Hello, Role};
use crate::sys::exe::{self, Executable};
use crate::sys::lock::Patience;
use crate::sys::process::{Ended, PerProcess, PidFd, poll_readable, without_signals};
use crate::sys::socket::Socket;
use crate::{Error, ErrorKind, Result};

/// How long a copy may take from its start to `init`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How often somebody whose patience may end looks whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// What a copy is started with.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpawnOptions {
    /// Environment variables to set, or to remove where there is no value; all others are inherited.
    pub env: Vec<(OsString, Option<OsString>)>,
    pub role: Role,
    pub stdout: WorkerOutput,
    pub stderr: WorkerOutput,
}

/// A worker, or a manager's server, that has said hello.
#[derive(Debug)]
pub(crate) struct WorkerProcess<P = PidFd> {
    pub pid: u32,
    pub pidfd: P,
    pub socket: Socket,
}

/// Starts a worker and waits until it has reached `init`.
///
/// # Errors
/// `NotInitialized` if `init` was not called here, so that nothing was started, or was not reached there; `WorkerDied` if
/// the worker was killed before; `Unsupported` where copies of this program cannot be started.
#[cfg(test)]
pub(crate) fn spawn_worker(options: &SpawnOptions) -> Result<WorkerProcess> {
    StartingWorker::begin(options)?.finish(None)
}

/// A worker, or a manager's server, that has not said hello yet: several can be begun before the first is waited for.
///
/// Dropped before it is [finished](Self::finish), it is killed and reaped.
#[derive(Debug)]
pub(crate) struct StartingWorker {
    /// `None` once it is finished.
    process: Option<WorkerProcess>,
    since: Instant,
    executable: &'static Executable,
    role: Role,
}

impl StartingWorker {
    /// Starts the process, and waits for nothing but the kernel.
    pub(crate) fn begin(options: &SpawnOptions) -> Result<StartingWorker> {
        let role = options.role;
        let executable = startable(role)?;
        let since = Instant::now();
        let (socket, theirs) = Socket::pair()?;
        let (pid, pidfd) = run_on_spawner(command(options, theirs.into())?)?;
        let worker = StartingWorker { process: Some(WorkerProcess { pid, pidfd, socket }), since, executable, role };
        let greeting = Hello::of_this_process(executable.build_id()).encode();
        // A worker that has ended already is a matter for `finish`, which can say how.
        if let Some(process) = &worker.process
            && let Err(error) = process.socket.try_send(&greeting, &[])
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(Error::from_os(error, format!("cannot greet {}", role.noun())));
        }
        Ok(worker)
    }

    /// Waits for its hello, 10 seconds from its start at most, and no longer than the patience lasts.
    pub(crate) fn finish(mut self, patience: Option<&dyn Patience>) -> Result<WorkerProcess> {
        let hello = self.hello(patience)?;
        self.check(&hello)?;
        self.process.take().ok_or_else(|| Error::new(ErrorKind::Closed, "the worker was taken before"))
    }

    fn hello(&self, patience: Option<&dyn Patience>) -> Result<Vec<u8>> {
        let Some(WorkerProcess { pidfd, socket, .. }) = &self.process else { return Ok(Vec::new()) };
        let deadline = self.since + HELLO_TIMEOUT;
        loop {
            // The socket first: a worker may say hello and be killed, which is for its later user to find out.
            match socket.try_recv() {
                Ok(Some(received)) => return Ok(received.bytes),
                // Closed, which says nothing about the process: it may take its time to end.
                Ok(None) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    return Err(match pidfd.wait_timeout(left) {
                        Some(ended) => ended_early(self.role, ended),
                        None => never_came(self.role),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Error::from_os(error, format!("cannot hear {}", self.role.noun()))),
            }
            // Only after the socket was found empty. Its end counts even while a grandchild holds the socket open.
            if pidfd.has_ended() {
                match socket.try_recv() {
                    Ok(Some(received)) => return Ok(received.bytes),
                    _ => return Err(ended_early(self.role, pidfd.wait())),
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(never_came(self.role));
            }
            if patience.is_some_and(Patience::is_over) {
                return Err(Error::new(ErrorKind::WouldBlock, "a worker process was still starting"));
            }
            let left = if patience.is_some() { left.min(LOOK) } else { left };
            poll_readable(&[socket.as_fd(), pidfd.as_fd()], Some(left))
                .map_err(|error| Error::from_os(error, format!("cannot wait for {}", self.role.noun())))?;
        }
    }

    fn check(&self, hello: &[u8]) -> Result<()> {
        let expected = Hello {
            pid: self.process.as_ref().map_or(0, |process| process.pid),
            ..Hello::of_this_process(self.executable.build_id())
        };
        match Hello::decode(hello) {
            Some(hello) if hello == expected => Ok(()),
            found => {
                let found = found.map_or_else(|| "something else".to_owned(), |hello| hello.to_string());
                let message = format!(
                    "{} is not a copy of this program: it said {found}, and {expected} was expected",
                    self.role.noun()
                );
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }
}

impl Drop for StartingWorker {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // It has ended where that fails, and then only needs to be reaped.
            let _ = process.pidfd.kill(libc::SIGKILL);
            process.pidfd.wait();
        }
    }
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "protocol {} of process {}, build ", self.protocol, self.pid)?;
        self.build_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The executable that copies are started from, where they can be.
fn startable(role: Role) -> Result<&'static Executable> {
    if !is_initialized() {
        return Err(Error::new(
            ErrorKind::NotInitialized,
            format!(
                "ndshm::init was not called in this program, and without it {} would run main again: call it first in \
                 main, or write ndshm::init_before_main!() once where main is someone else's (a test, a bench, a library)",
                role.noun()
            ),
        ));
    }
    if exe::is_secure_execution() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "this program runs with other rights than its caller's (setuid, setgid or file capabilities): it starts no \
             copies of itself",
        ));
    }
    let executable = exe::main_executable()?;
    if executable.code_offset(init as fn() as usize).is_none() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            match role {
                Role::Worker(_) => {
                    "ndshm lies in a library that was loaded by another program, which cannot be started as a worker: use \
                     a pool without worker processes there (Pool::serial)"
                }
                Role::Server => {
                    "ndshm lies in a library that was loaded by another program, which cannot be started as a manager's \
                     server: connect to one that runs by itself (SharedMemoryManager::connect)"
                }
            },
        ));
    }
    Ok(executable)
}

fn ended_early(role: Role, ended: Ended) -> Error {
    let kind = match ended {
        Ended::Exited(_) => ErrorKind::NotInitialized,
        Ended::Signaled { .. } | Ended::Unknown => ErrorKind::WorkerDied,
    };
    Error::new(
        kind,
        format!(
            "{} ended before it reached ndshm::init: it {ended}; init has to be called on every way through main, before \
             the arguments are looked at",
            role.noun()
        ),
    )
}

fn never_came(role: Role) -> Error {
    Error::new(
        ErrorKind::NotInitialized,
        format!(
            "{} did not reach ndshm::init within {} s and was killed: init has to be called early in main",
            role.noun(),
            HELLO_TIMEOUT.as_secs()
        ),
    )
}

/// This program again, in another role. Nothing here may make the standard library fork (`pre_exec`, ids, groups): with a
/// large heap that takes longer than all the rest.
fn command(options: &SpawnOptions, stdin: OwnedFd) -> Result<Command> {
    let mut command = Command::new(exe::SELF);
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command.arg(options.role.argument()).stdin(Stdio::from(stdin));
    command.stdout(options.stdout.to_stdio()?).stderr(options.stderr.to_stdio()?);
    if options.role == Role::Server {
        // It outlives its parent, whose output somebody may read to the end.
        command.stdout(Stdio::null());
    }
    for (name, value) in &options.env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Ok(command)
}

/// One process to start.
#[derive(Debug)]
struct Job {
    command: Command,
    done: SyncSender<Result<(u32, PidFd)>>,
}

/// Starts the process on the thread that lives as long as this one: the kernel takes the end of the thread that started
/// it for the end of its parent.
fn run_on_spawner(command: Command) -> Result<(u32, PidFd)> {
    static SPAWNER: PerProcess<Sender<Job>> = PerProcess::new();
    let gone = |_| Error::new(ErrorKind::Closed, "the thread that starts processes has ended");
    let spawner = SPAWNER.get_or_try_init(|| {
        let (jobs, queue) = channel::<Job>();
        let serve = move || {
            for Job { command, done } in queue {
                // Nobody waits any more if that fails; what was started has lost its socket, and ends.
                let _ = done.send(run(command));
            }
        };
        let builder = thread::Builder::new().name("ndshm spawn".to_owned()).stack_size(256 * 1024);
        without_signals(|| builder.spawn(serve))
            .map_err(|error| Error::from_os(error, "cannot start the thread that starts processes"))?;
        Ok(jobs)
    })?;
    let (done, result) = sync_channel(1);
    spawner.send(Job { command, done }).map_err(|error| gone(error.to_string()))?;
    result.recv().map_err(|error| gone(error.to_string()))?
}

/// Takes the command so that its end of the socket is closed here when this returns.
fn run(mut command: Command) -> Result<(u32, PidFd)> {
    let child = command.spawn().map_err(|error| Error::from_os(error, "cannot start a copy of this program"))?;
    let pid = child.id();
    // Nothing of ours waits for it before that; `Child` never does by itself.
    match PidFd::open(pid.cast_signed()) {
        Ok(pidfd) => Ok((pid, pidfd)),
        Err(error) => {
            abandon(child);
            Err(error)
        }
    }
}

#[cold]
fn abandon(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: u32) -> String {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default()
    }

    #[test]
    fn a_worker_says_hello_and_ends_when_its_socket_closes() {
        let worker = spawn_worker(&SpawnOptions { role: Role::Worker(12), ..SpawnOptions::default() }).unwrap();
        assert!(!worker.pidfd.has_ended());
        assert!(stat(worker.pid).contains("(ndshm worker 12)"), "{}", stat(worker.pid));
        drop(worker.socket);
        assert_eq!(worker.pidfd.wait(), Ended::Exited(0));
        assert_eq!(stat(worker.pid), "", "it was reaped");
    }

    #[test]
    fn workers_can_start_at_the_same_time_and_inherit_a_changed_environment() {
        let env = vec![("NDSHM_TEST_ADDED".into(), Some("yes".into())), ("PATH".into(), None)];
        let begun: Vec<_> = (0..3)
            .map(|index| {
                StartingWorker::begin(&SpawnOptions {
                    env: env.clone(),
                    role: Role::Worker(index),
                    ..SpawnOptions::default()
                })
                .unwrap()
            })
            .collect();
        for starting in begun {
            let worker = starting.finish(None).unwrap();
            let env = std::fs::read(format!("/proc/{}/environ", worker.pid)).unwrap();
            let has = |wanted: &[u8]| env.split(|byte| *byte == 0).any(|entry| entry.starts_with(wanted));
            assert!(has(b"NDSHM_TEST_ADDED=yes") && !has(b"PATH="));
            worker.pidfd.kill(libc::SIGKILL).unwrap();
            assert_eq!(worker.pidfd.wait(), Ended::Signaled { signal: libc::SIGKILL, core: false });
        }
    }

    #[test]
    fn a_worker_that_is_not_waited_for_is_killed_and_reaped() {
        let starting = StartingWorker::begin(&SpawnOptions::default()).unwrap();
        let pid = starting.process.as_ref().unwrap().pid;
        drop(starting);
        assert_eq!(stat(pid), "");
    }

    #[test]
    fn a_worker_that_dies_before_init_is_reported_with_its_cause() {
        let starting = StartingWorker::begin(&SpawnOptions::default()).unwrap();
        let process = starting.process.as_ref().unwrap();
        // It may have said hello first, and then starting it was a success.
        process.pidfd.kill(libc::SIGKILL).unwrap();
        if let Err(error) = starting.finish(None) {
            assert_eq!(error.kind(), ErrorKind::WorkerDied);
            let message = error.to_string();
            assert!(
                message.contains("before it reached ndshm::init: it was killed by signal 9 (SIGKILL)"),
                "{message}"
            );
        }
    }
}
