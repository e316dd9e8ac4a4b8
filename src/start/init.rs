//! The started copy's side: [`init`] and [`init_before_main!`](crate::init_before_main).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, geteuid, getppid, setsid};

use super::{Hello, Role, SERVER_ARGUMENT, WORKER_ARGUMENT};
use crate::manager::server_main;
use crate::pool::worker::worker_main;
use crate::sys::process::{PidFd, poll_readable};
use crate::sys::socket::Socket;
use crate::sys::{exe, process as sys_process};

/// The exit code of a process that was told to be a worker or a server and cannot be one.
const NOT_STARTED: i32 = 2;
/// The exit code of Rust's own runtime after a panic.
const PANICKED: i32 = 101;

static INITIALIZED: AtomicBool = AtomicBool::new(false);

/// Lets this program start copies of itself as workers and servers; to be called early in `main`.
///
/// A pool starts its worker processes as copies of the running program, and a manager its server. In such a copy this
/// function never returns: the process does the pool's or the manager's work and ends. In every other process it takes
/// note and returns at once, any number of times.
///
/// What stands before it in `main` also runs in every worker and server, such as setting up a logger or a panic hook. Nothing before
/// it should look at the program's arguments, start threads, or take long. Where `main` belongs to somebody else, as in
/// tests, benches and libraries, use [`init_before_main!`](crate::init_before_main).
///
/// The arguments of a worker, as tasks see them in `std::env::args()`, are not the program's but `[…, "--ndshm-worker=1"]`:
/// what a task needs of the command line goes to it as a [`Param`](crate::Param).
///
/// A process that has a worker's argument (`--ndshm-worker=…`) or a server's (`--ndshm-server`) but was not started by a
/// pool or a manager ends with a message and exit code 2.
///
/// # Examples
/// ```
/// ndshm::init();
/// // Only the program itself comes here, never its workers and servers.
/// assert_eq!(std::env::args().count(), 1);
/// ```
pub fn init() {
    start(Moment::InMain);
}

/// Calls [`init`] before `main`: to be written once in a crate whose `main` is someone else's, such as a test,
/// a bench or a library.
///
/// Workers then never reach `main`, so nothing in it, such as a logger or a panic hook, is set up in them; static
/// constructors of C++ libraries may not have run either.
///
/// # Examples
/// ```
/// ndshm::init_before_main!();
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! init_before_main {
    () => {
        const _: () = {
            #[used]
            #[unsafe(link_section = ".init_array")]
            static INIT: extern "C" fn() = $crate::__init_before_main;
        };
    };
}

/// What [`init_before_main!`](crate::init_before_main) places among the functions that run before `main`.
#[doc(hidden)]
pub extern "C" fn __init_before_main() {
    start(Moment::BeforeMain);
}

/// Whether `init` was called in this program.
pub(crate) fn is_initialized() -> bool {
    // Relaxed: the flag says that a function ran, and nothing was written for others to read.
    INITIALIZED.load(Ordering::Relaxed)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    InMain,
    BeforeMain,
}

/// Why this process, told to be a worker or a server, is not one.
enum Refusal {
    /// Nobody started it as one.
    NotStarted(&'static str),
    /// Somebody did, and something does not fit.
    Failed(String),
    /// There is nobody left to work for, or to tell.
    ParentGone,
}

impl Refusal {
    fn tell(&self, role: Role) {
        let noun = role.noun();
        match self {
            Refusal::NotStarted(why) => {
                let (argument, starter) = match role {
                    Role::Worker(_) => (WORKER_ARGUMENT, "worker processes that a pool starts"),
                    Role::Server => (SERVER_ARGUMENT, "the server processes that managers start"),
                };
                eprintln!("ndshm: {argument} is for {starter}, and this is none: {why}");
            }
            Refusal::Failed(why) => eprintln!("ndshm: {noun} could not start: {why}"),
            Refusal::ParentGone => {}
        }
    }
}

fn start(moment: Moment) {
    if INITIALIZED.swap(true, Ordering::Relaxed) {
        return;
    }
    let Some(argument) = first_argument(moment) else { return };
    let (role, index) = match argument.as_bytes().strip_prefix(WORKER_ARGUMENT.as_bytes()) {
        Some(index) => {
            let index: Option<usize> = std::str::from_utf8(index).ok().and_then(|index| index.parse().ok());
            (Role::Worker(index.unwrap_or(0)), index)
        }
        None if argument.as_bytes() == SERVER_ARGUMENT.as_bytes() => (Role::Server, None),
        None => return,
    };
    // From here on `main` must not go on, not even by a panic that it catches.
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let refusal = match role {
            Role::Worker(_) => match become_worker(index, moment) {
                Ok((socket, index)) => worker_main(socket, index),
                Err(refusal) => refusal,
            },
            Role::Server => match become_server() {
                Ok((socket, owner)) => server_main(socket, owner),
                Err(refusal) => refusal,
            },
        };
        refusal.tell(role);
        process::exit(NOT_STARTED)
    }));
    match ended {
        Ok(never) => never,
        Err(_panic) => process::exit(PANICKED),
    }
}

/// Before `main` only glibc has handed its arguments to Rust; the kernel's copy serves the others.
fn first_argument(moment: Moment) -> Option<OsString> {
    if moment == Moment::InMain || cfg!(target_env = "gnu") {
        return std::env::args_os().nth(1);
    }
    let line = std::fs::read("/proc/self/cmdline").ok()?;
    line.split(|byte| *byte == 0).nth(1).map(|argument| OsStr::from_bytes(argument).to_owned())
}

/// The socket that this process was started with, and who started it.
fn socket_and_parent() -> Result<(Socket, i32), Refusal> {
    if exe::is_secure_execution() {
        return Err(Refusal::NotStarted("the program runs with other rights than its caller's"));
    }
    // Among the numbers of the standard streams nothing of ours may lie: this clones to 3 or above.
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .and_then(Socket::from_fd)
        .map_err(|_| Refusal::NotStarted("its standard input is not the socket of who starts it"))?;
    let (parent, user) = socket.peer_pid_uid().map_err(failed)?;
    if user != geteuid().as_raw() {
        return Err(Refusal::NotStarted("its socket belongs to another user"));
    }
    Ok((socket, parent))
}

/// No signal comes before the end of this: the thread that started the process blocks them all.
fn become_server() -> Result<(Socket, PidFd), Refusal> {
    let (socket, parent) = socket_and_parent()?;
    let owner = PidFd::open(parent).map_err(failed)?;
    // Still its child, so the descriptor is the parent's and not that of a later process with its id.
    if getppid().as_raw() != parent {
        return Err(Refusal::ParentGone);
    }
    // Out of reach of the terminal: it has work to do when its owner has ended.
    setsid().map_err(failed)?;
    sys_process::ignore(&[
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGPIPE,
    ]);
    // Keeps no file system from being unmounted.
    let _ = std::env::set_current_dir("/");
    let _ = prctl::set_name(c"ndshm server");
    fill_standard_streams().map_err(failed)?;
    // A child that the parent forked may have its end of the socket, which then does not close with the parent.
    let ready = poll_readable(&[socket.as_fd(), owner.as_fd()], None).map_err(failed)?;
    if !ready[0] {
        return Err(Refusal::ParentGone);
    }
    say_hello(&socket, parent)?;
    let null = File::options().write(true).open("/dev/null").map_err(failed)?;
    dup2_stdout(&null).map_err(failed)?;
    dup2_stderr(&null).map_err(failed)?;
    Ok((socket, owner))
}

fn become_worker(index: Option<usize>, moment: Moment) -> Result<(Socket, usize), Refusal> {
    let index = index.ok_or(Refusal::NotStarted("no number follows"))?;
    let (socket, parent) = socket_and_parent()?;

    // Reaches a worker that is stopped, too, which never sees its socket close. Checked after it is set: the parent may
    // have ended before.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed)?;
    if getppid().as_raw() != parent {
        return Err(Refusal::ParentGone);
    }
    fill_standard_streams().map_err(failed)?;
    // The thread that started this process blocks them all.
    sys_process::unblock_signals();
    sys_process::leave_interrupts_to_parent();
    if moment == Moment::BeforeMain {
        sys_process::ignore_broken_pipes();
    }
    // Only a help for who reads `ps` or `top`.
    let _ = prctl::set_name(&thread_name(index));

    say_hello(&socket, parent)?;
    Ok((socket, index))
}

/// Puts `/dev/null` in the place of the socket as standard input, and wherever else the parent left a gap, so that no file
/// that a task opens is written to by `println!`.
fn fill_standard_streams() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // The file itself may have landed in a gap; the copy lies above.
    let null = null.as_fd().try_clone_to_owned()?;
    dup2_stdin(&null)?;
    if fcntl(io::stdout().as_fd(), FcntlArg::F_GETFD).is_err() {
        dup2_stdout(&null)?;
    }
    if fcntl(io::stderr().as_fd(), FcntlArg::F_GETFD).is_err() {
        dup2_stderr(&null)?;
    }
    Ok(())
}

/// Waits for the parent's greeting and answers it, even a wrong one: the parent has the words to explain it.
fn say_hello(socket: &Socket, parent: i32) -> Result<(), Refusal> {
    let ours = Hello::of_this_process(exe::main_executable().map_err(failed)?.build_id());
    let greeting = socket.recv().map_err(failed)?.ok_or(Refusal::ParentGone)?;
    socket.send(&ours.encode(), &[]).map_err(|_| Refusal::ParentGone)?;
    match Hello::decode(&greeting.bytes) {
        Some(theirs)
            if theirs.protocol == ours.protocol
                && theirs.build_id == ours.build_id
                && theirs.pid.cast_signed() == parent =>
        {
            Ok(())
        }
        _ => Err(Refusal::Failed("the process that started it is another build of this program".to_owned())),
    }
}

fn failed(error: impl fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string())
}

/// At most 15 bytes, or the kernel cuts it.
fn thread_name(index: usize) -> std::ffi::CString {
    let names = [format!("ndshm worker {index}"), format!("ndshm w{index}"), "ndshm worker".to_owned()];
    let name = names.into_iter().find(|name| name.len() <= 15).unwrap_or_default();
    std::ffi::CString::new(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_what_the_kernel_keeps() {
        assert_eq!(thread_name(7).to_bytes(), b"ndshm worker 7");
        assert_eq!(thread_name(99).to_bytes(), b"ndshm worker 99");
        assert_eq!(thread_name(1234).to_bytes(), b"ndshm w1234");
        assert_eq!(thread_name(usize::MAX).to_bytes(), b"ndshm worker");
    }

    #[test]
    fn tests_are_initialized_before_main() {
        assert!(is_initialized());
    }
}
