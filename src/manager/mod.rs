//! [`SharedMemoryManager`]: a server process that owns blocks for the programs connected to it.
//!
//! | file | idea |
//! |---|---|
//! | `builder` | how a manager starts |
//! | `address`, `connection`, `protocol` | where it is, and what is said |
//! | `options` | blocks that it owns: made by the client, named or kept by the server |
//! | `publish`, `attach` | blocks by label |
//! | `listing`, `shutdown` | what it tells |
//! | [`server`] | the other side |
//!
//! # Who cleans up
//!
//! ```text
//!                        anonymous blocks                 names in /dev/shm
//! owner drops, panics    go with the last who has them    the server removes them, then answers and ends
//! owner killed           the same                         the server's pidfd of it tells; it removes them and ends
//! server killed          the same                         the owner removes them when it drops: it has a record
//! both killed            the same                         the next sweep does: the server has a ledger
//! client killed          stay with the manager            stay with the manager
//! ```
//!
//! A name stands in the record and in the ledger before the server gives it, and until it is gone.

mod address;
mod attach;
mod builder;
mod connection;
#[cfg(test)]
mod kill_tests;
mod listing;
mod options;
mod protocol;
mod publish;
mod server;
mod shutdown;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use ndarray::ShapeBuilder;

pub use self::builder::ManagerBuilder;
pub use self::listing::ManagedBlock;
pub use self::options::ManagedOptions;
pub use self::publish::Publish;
pub use self::server::ManagerServer;
pub(crate) use self::server::server_main;
pub use self::shutdown::Shutdown;

use self::address::Address;
use self::connection::{Connection, PATIENCE};
use self::protocol::{Answer, Request};
use crate::array::SharedArray;
use crate::error::{Error, ErrorKind, Result};
use crate::list::{ShareableList, Value};
use crate::memory::{Record, SharedMemory};

/// A server process that owns blocks for the programs of one user: Python's
/// `multiprocessing.managers.SharedMemoryManager`, and a place where processes find each other's arrays.
///
/// [`start`](Self::start) starts the server, as a copy of this program. It has the names of the blocks made through it,
/// and keeps those that have none; whatever happens to the programs that use them, they stay until the manager ends, and none
/// stays after it: not when this process drops the manager, panics, or is killed. Where the server is killed, this process
/// removes the names when it drops the manager; where nobody is left who could, the next sweep does, see
/// [`prune`](crate::prune).
///
/// Python programs that attach must be kept from removing what they have attached to, see [`ShareableList`] and
/// [`SharedMemory`].
///
/// Other processes of the same user [`connect`](Self::connect) by its [`address`](Self::address), make blocks too, and
/// find blocks by *label*.
///
/// | block | in `/dev/shm` | attach by |
/// |---|---|---|
/// | [`shared_memory`](Self::shared_memory), [`shareable_list`](Self::shareable_list) | under a name, so that Python attaches too | label or name |
/// | [`array`](Self::array) | no: no outsider finds it, and it cannot leak | label |
/// | with [`options().name(…)`](ManagedOptions::name) | under that name | label or name |
/// | [`publish`](Self::publish)ed | as it was | label |
///
/// Blocks are made by the process that asks for them, in its control group and under its limits; the server only names and
/// keeps them, maps none, and waits for no client. Handles work without the manager once they are made. Everything that
/// has no label of yours gets one from the manager; [`list`](Self::list) tells.
///
/// A manager that is to outlive this program is started with [`ManagerBuilder::start_detached`], or runs in a program of
/// its own with [`ManagerBuilder::bind`].
///
/// # Other users, other processes
///
/// A manager serves its own user alone; both sides ask the kernel who the other one is. Its address is an abstract
/// socket name: nothing in the file system, and only within the network namespace. Server and clients have to be
/// built with the same protocol version, not be the same program.
///
/// In a forked child the manager is [`Closed`](ErrorKind::Closed), and dropping it does nothing. A program that replaces
/// itself (`exec`) ends the manager.
///
/// # Examples
///
/// ```standalone_crate
/// use ndshm::SharedMemoryManager;
///
/// # fn main() -> ndshm::Result<()> {
/// ndshm::init(); // early in main: turns a started copy of the program into the server
/// let manager = SharedMemoryManager::start()?;
/// let mut field = manager.options().label("field").array::<f64, _>((100, 100))?;
/// field.write()?.fill(0.5);
///
/// // In another process, which was given `manager.address()`:
/// let client = SharedMemoryManager::connect(manager.address())?;
/// // SAFETY: whoever writes to it does so through guards.
/// let same = unsafe { client.attach_array::<f64, ndarray::Ix2>("field")? };
/// assert_eq!(same.read()?.sum(), 5000.0);
///
/// let totals = client.shareable_list([1.5, 2.5])?; // in Python: ShareableList(name=…)
/// assert_eq!(manager.list()?.len(), 2);
/// drop((client, totals)); // both blocks stay with the manager
/// assert!(!manager.shutdown()?.server_was_gone());
/// # Ok(()) }
/// ```
#[doc(alias = "multiprocessing.managers.SharedMemoryManager")]
pub struct SharedMemoryManager {
    connection: Connection,
    /// For who has started the server, which ends with this.
    owned: Option<Owned>,
}

/// What the process that started a server needs to end it.
struct Owned {
    /// What the server owns, by its own account.
    record: Record,
    /// Nothing is left to do.
    ended: bool,
}

impl SharedMemoryManager {
    /// Starts a manager whose server ends with this process: [`ManagerBuilder::start`] with no name.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Sets a name for the manager, or where its server runs.
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder::default()
    }

    /// Connects to a manager of this user by its address, or the [name](ManagerBuilder::name) that it was given.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) where none serves there; [`Permission`](ErrorKind::Permission) where it is
    /// another user's; [`InvalidName`](ErrorKind::InvalidName) for what cannot be an address;
    /// [`Unsupported`](ErrorKind::Unsupported) where it speaks another version; [`NoSpace`](ErrorKind::NoSpace) where it
    /// has as many clients as it can serve; [`WouldBlock`](ErrorKind::WouldBlock) where it does not answer within 10
    /// seconds.
    pub fn connect(address: &str) -> Result<Self> {
        Ok(Self { connection: Connection::open(&Address::parse(address)?)?, owned: None })
    }

    /// Where other processes [`connect`](Self::connect) to: text without spaces that goes into an argument or an environment
    /// variable, such as `@ndshm/1000/9f86d081884c7d65`.
    pub fn address(&self) -> &str {
        self.connection.address()
    }

    /// The id of the server's process.
    pub fn server_pid(&self) -> u32 {
        self.connection.pid()
    }

    /// Makes a block of `size` bytes, all zero, under a new name that the manager removes when it ends.
    ///
    /// Python attaches to it with `SharedMemory(name=…)`, as to any [`SharedMemory`].
    ///
    /// # Errors
    ///
    /// As for [`SharedMemory::create`]; [`Closed`](ErrorKind::Closed) where the server is gone, and in a forked child.
    #[doc(alias = "SharedMemoryManager.SharedMemory")]
    pub fn shared_memory(&self, size: usize) -> Result<SharedMemory> {
        self.options().shared_memory(size)
    }

    /// Makes a list of these values under a new name that the manager removes when it ends.
    ///
    /// # Errors
    ///
    /// As for [`ShareableList::new`]; [`Closed`](ErrorKind::Closed) where the server is gone, and in a forked child.
    #[doc(alias = "SharedMemoryManager.ShareableList")]
    pub fn shareable_list<V: Into<Value>>(&self, values: impl IntoIterator<Item = V>) -> Result<ShareableList> {
        self.options().shareable_list(values)
    }

    /// Makes an array of zeros, anonymous. The manager keeps it and hands it to whoever asks for its label, so its locks are
    /// the kernel's.
    ///
    /// # Errors
    ///
    /// As for [`SharedArray::zeros`]; [`Closed`](ErrorKind::Closed) where the server is gone, and in a forked child.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fn main() -> ndshm::Result<()> {
    /// # ndshm::init();
    /// let manager = ndshm::SharedMemoryManager::start()?;
    /// let mut counts = manager.array::<u32, _>((2, 3))?;
    /// counts.write()?[[1, 2]] = 7;
    /// let blocks = manager.list()?;
    /// assert_eq!(blocks[0].label(), "array-1");
    /// assert_eq!(blocks[0].shape(), Some([2, 3].as_slice()));
    /// # Ok(()) }
    /// ```
    pub fn array<T: Pod, Sh: ShapeBuilder>(&self, shape: Sh) -> Result<SharedArray<T, Sh::Dim>> {
        self.options().array(shape)
    }

    /// Sets label, name, permissions or pages of a block to be made.
    pub fn options(&self) -> ManagedOptions<'_> {
        ManagedOptions::new(self)
    }

    /// What the manager has, by label.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) where the server is gone, and in a forked child.
    pub fn list(&self) -> Result<Vec<ManagedBlock>> {
        match self.connection.ask(&Request::List, &[])? {
            (Answer::List(blocks), _) => blocks.into_iter().map(ManagedBlock::new).collect(),
            _ => Err(unexpected()),
        }
    }

    /// Ends the manager: its server removes the names of all its blocks and ends. Who has blocks attached keeps them.
    ///
    /// The process that started the manager waits for the server; one that is stopped is killed after 10 seconds. Where the
    /// server is gone, that process removes the names itself, and [`Shutdown::server_was_gone`] says so. Dropping the manager
    /// there does the same, in silence. Elsewhere dropping only disconnects, while this ends the manager for everybody.
    ///
    /// # Errors
    ///
    /// [`Closed`](ErrorKind::Closed) in a forked child, and for a connected process where the server is gone;
    /// [`WouldBlock`](ErrorKind::WouldBlock) for a connected process where it does not answer within 10 seconds.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// # fn main() -> ndshm::Result<()> {
    /// # ndshm::init();
    /// let manager = ndshm::SharedMemoryManager::start()?;
    /// let memory = manager.shared_memory(100)?;
    /// let ended = manager.shutdown()?;
    /// assert!(!ended.server_was_gone());
    /// assert!(ndshm::SharedMemory::attach(memory.name().expect("it has one")).is_err());
    /// memory.write_at(0, b"still mapped here")?;
    /// # Ok(()) }
    /// ```
    pub fn shutdown(mut self) -> Result<Shutdown> {
        self.end(PATIENCE)
    }

    fn end(&mut self, patience: Duration) -> Result<Shutdown> {
        let answer = self.connection.ask_until(&Request::ShutDown, &[], Some(Instant::now() + patience));
        let in_order = answer.and_then(|(answer, _)| match answer {
            Answer::ShutDown { problems } => Ok(Shutdown::in_order(problems.into_iter().map(Error::from).collect())),
            _ => Err(unexpected()),
        });
        let (Some(owned), Some(server)) = (&mut self.owned, self.connection.server()) else { return in_order };
        self.connection.check_process()?;
        owned.ended = true;
        // A server that could not be asked ends by that, too.
        self.connection.hang_up();
        let mut by_whom = "";
        let ended = server.wait_timeout(patience).unwrap_or_else(|| {
            // It has ended where that fails.
            let _ = server.kill(libc::SIGKILL);
            by_whom = " by this process, which it did not answer";
            server.wait()
        });
        in_order.or_else(|_| {
            let pruned = owned.record.clean_up(self.connection.pid());
            Ok(Shutdown::without_server(format!("{ended}{by_whom}"), pruned))
        })
    }

    fn check_process(&self) -> Result<()> {
        self.connection.check_process()
    }

    /// Sends a block, and gives the label that it has got.
    fn give(&self, request: &Request, fd: BorrowedFd<'_>) -> Result<String> {
        match self.connection.ask(request, &[fd])? {
            (Answer::Labelled(label), _) => Ok(label),
            _ => Err(unexpected()),
        }
    }
}

impl Drop for SharedMemoryManager {
    fn drop(&mut self) {
        if self.owned.as_ref().is_some_and(|owned| !owned.ended) && self.connection.is_of_this_process() {
            // There is nobody to tell; what could not be removed stays in a ledger.
            let _ = self.end(PATIENCE);
        }
    }
}

impl fmt::Debug for SharedMemoryManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemoryManager")
            .field("address", &self.address())
            .field("server_pid", &self.server_pid())
            .field("owned", &self.owned.is_some())
            .finish_non_exhaustive()
    }
}

#[cold]
fn unexpected() -> Error {
    Error::new(ErrorKind::Layout, "a manager's server gave an answer to another question")
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_server_that_is_stopped_is_not_waited_for_in_vain() {
        let mut manager = SharedMemoryManager::start().unwrap();
        let memory = manager.shared_memory(10).unwrap();
        let pid = manager.server_pid();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).unwrap();
        let ended = manager.end(Duration::from_millis(100)).unwrap();
        let fate = ended.server_fate().unwrap();
        assert_eq!(fate, "was killed by signal 9 (SIGKILL) by this process, which it did not answer");
        assert_eq!(ended.removed()[0].name(), memory.name().unwrap());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "it was reaped");
    }
}
