//! Stops a thread of another process at each system call that it makes.
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]

use std::ptr;

use nix::errno::Errno;
use nix::libc::{self, c_int, c_uint, pid_t};

/// A thread that is traced by the thread that made this. Dropped, it runs on.
#[derive(Debug)]
pub(crate) struct Traced {
    tid: pid_t,
    /// Whether there is anything left to trace.
    alive: bool,
}

fn request(what: c_uint, tid: pid_t, data: c_int) -> Result<(), Errno> {
    let address = ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the requests that are made here reads or writes memory of either process.
    let status = unsafe { libc::ptrace(what, tid, address, libc::c_long::from(data)) };
    Errno::result(status).map(drop)
}

impl Traced {
    /// Begins to trace a thread, which is stopped when this returns; `None` where that is not allowed.
    pub(crate) fn seize(tid: pid_t) -> Option<Self> {
        if let Err(errno) = request(libc::PTRACE_SEIZE, tid, libc::PTRACE_O_TRACESYSGOOD) {
            println!("skipped: no permission to trace a process ({errno})");
            return None;
        }
        let mut traced = Self { tid, alive: true };
        request(libc::PTRACE_INTERRUPT, tid, 0).unwrap();
        traced.wait();
        Some(traced)
    }

    /// Lets it run until it is about to make its next system call, or has ended: then it is false.
    pub(crate) fn next_call(&mut self) -> bool {
        while self.alive {
            request(libc::PTRACE_SYSCALL, self.tid, 0).unwrap();
            // A call has two stops, one before it and one after.
            if self.wait() == Some(libc::SIGTRAP | 0x80) && self.begins() {
                return true;
            }
        }
        false
    }

    /// To be called when its process has been killed: until its tracer has seen it end, the process does not.
    pub(crate) fn end(mut self) {
        while self.alive {
            // It is on its way out, or has this one stop to make.
            let _ = request(libc::PTRACE_CONT, self.tid, 0);
            self.wait();
        }
    }

    /// Is it about to make a call, not about to return from one?
    fn begins(&self) -> bool {
        const PTRACE_GET_SYSCALL_INFO: c_uint = 0x420e;
        let mut info = [0_u64; 12];
        // SAFETY: the kernel writes at most as many bytes as the third argument says, which `info` has.
        let got = unsafe {
            libc::ptrace(
                PTRACE_GET_SYSCALL_INFO,
                self.tid,
                size_of_val(&info),
                info.as_mut_ptr().cast::<libc::c_void>(),
            )
        };
        assert!(got > 0, "{}", Errno::last());
        // PTRACE_SYSCALL_INFO_ENTRY, in the first byte.
        info[0].to_ne_bytes()[0] == 1
    }

    /// Waits until it stops, and says with which signal; `None` when it has ended.
    fn wait(&mut self) -> Option<c_int> {
        let mut status = 0;
        // SAFETY: `status` is writable and outlives the call.
        let waited = Errno::result(unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL) });
        assert_eq!(waited, Ok(self.tid));
        self.alive = libc::WIFSTOPPED(status);
        self.alive.then(|| libc::WSTOPSIG(status))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.alive {
            // It may have been killed meanwhile.
            let _ = request(libc::PTRACE_DETACH, self.tid, 0);
        }
    }
}
