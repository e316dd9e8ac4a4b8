//! How a copy of the running program becomes a worker or a manager's server.
//!
//! Pools and managers both start such copies, so this lies beside them. A server starts as a worker does, with another
//! argument, but outlives its parent: it has a session of its own, and leaves when it has cleaned up.
//!
//! ```text
//! parent                                              worker
//! a thread that lives as long as the process:
//!   /proc/self/exe --ndshm-worker=3, stdin = socket → main's start, or what stands before main
//!   pidfd of the worker                               init(): argument, socket and its maker agree? else exit 2
//! greeting ──────────────────────────────────────────→ dies with the parent from here on
//! compare ←───────────────────────────────────── hello worker_main
//! ```
//!
//! The greeting is sent once the pidfd is open, and the hello answers it. So a hello with the id that was started proves
//! that the worker was alive when its pidfd was opened: the pidfd is the worker's, even in a program that ignores
//! `SIGCHLD`, where the id of a process that ends at once is free for others.
//!
//! - [`init`](self::init::init) is the worker's side, and in every other process a note that it was called.
//! - [`spawn`] is the parent's.

pub(crate) mod init;
pub(crate) mod output;
pub(crate) mod spawn;

/// Parent and worker refuse each other where this differs.
pub(crate) const PROTOCOL: u32 = 1;

/// The first argument of a worker, followed by its index.
const WORKER_ARGUMENT: &str = "--ndshm-worker=";
/// The first argument of a manager's server.
const SERVER_ARGUMENT: &str = "--ndshm-server";

/// What a copy of the program is started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The worker of that index.
    Worker(usize),
    /// A manager's server.
    Server,
}

impl Default for Role {
    fn default() -> Self {
        Self::Worker(0)
    }
}

impl Role {
    fn argument(self) -> String {
        match self {
            Self::Worker(index) => format!("{WORKER_ARGUMENT}{index}"),
            Self::Server => SERVER_ARGUMENT.to_owned(),
        }
    }

    /// What to call such a process in a sentence.
    fn noun(self) -> &'static str {
        match self {
            Self::Worker(_) => "a worker process",
            Self::Server => "a manager's server process",
        }
    }
}

const MAGIC: [u8; 8] = *b"ndshm-hi";

/// What both sides say first, the parent as its greeting and the worker as its hello.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hello {
    protocol: u32,
    /// Of the process that says it.
    pid: u32,
    build_id: Vec<u8>,
}

impl Hello {
    fn of_this_process(build_id: &[u8]) -> Hello {
        Hello { protocol: PROTOCOL, pid: std::process::id(), build_id: build_id.to_vec() }
    }

    fn encode(&self) -> Vec<u8> {
        [&MAGIC, self.protocol.to_ne_bytes().as_slice(), &self.pid.to_ne_bytes(), &self.build_id].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Hello> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (protocol, rest) = rest.split_first_chunk::<4>()?;
        let (pid, build_id) = rest.split_first_chunk::<4>()?;
        (*magic == MAGIC).then(|| Hello {
            protocol: u32::from_ne_bytes(*protocol),
            pid: u32::from_ne_bytes(*pid),
            build_id: build_id.to_vec(),
        })
    }
}

/// Unit tests start workers too, and their `main` is the test harness's.
#[cfg(test)]
mod harness {
    #![expect(unsafe_code, reason = "the macro places a function pointer in a section that runs before main")]
    crate::init_before_main!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_comes_back_as_it_was_said() {
        let hello = Hello::of_this_process(b"some build");
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        assert_eq!(Hello::decode(b"ndshm-hi\x01"), None);
        assert_eq!(Hello::decode(&[0; 64]), None);
    }
}
