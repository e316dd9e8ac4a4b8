//! Blocks by label.
#![expect(unsafe_code, reason = "attaching asks the caller to vouch for the other writers")]

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use bytemuck::Pod;
use ndarray::Dimension;

use super::protocol::{Answer, Content, Request};
use super::{Publish, SharedMemoryManager, unexpected};
use crate::array::{FrozenArray, SharedArray};
use crate::error::{Error, ErrorKind, Result};
use crate::list::ShareableList;
use crate::memory::SharedMemory;
use crate::sys::map::Access;

/// How long to ask again while somebody else is removing the same name.
const PATIENCE: Duration = Duration::from_secs(1);

impl SharedMemoryManager {
    /// Lets others attach to a block by a label of one's choosing: an array, a frozen array, a list or bare memory, made
    /// anywhere.
    ///
    /// The manager keeps the block until it ends or [`remove`](Self::remove)s it, even when this process has ended. A name in
    /// `/dev/shm` stays whose it was.
    ///
    /// # Errors
    ///
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) where the manager has such a label; [`InvalidName`](ErrorKind::InvalidName)
    /// for one that is empty, longer than 255 bytes or has control characters; [`Unsupported`](ErrorKind::Unsupported) for a
    /// file on disk, which is attached to by its path; [`Closed`](ErrorKind::Closed) where the server is gone, and in a
    /// forked child.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// use ndshm::{SharedArray, SharedMemoryManager};
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// # ndshm::init();
    /// let manager = SharedMemoryManager::start()?;
    /// let table = SharedArray::<u32, _>::from_shape_fn((2, 3), |(i, j)| (10 * i + j) as u32)?.freeze()?;
    /// manager.publish("table", &table)?;
    ///
    /// // In another process:
    /// let same = manager.attach_frozen::<u32, ndarray::Ix2>("table")?;
    /// assert_eq!(same.view(), table.view());
    /// # Ok(()) }
    /// ```
    pub fn publish(&self, label: &str, block: impl Publish) -> Result<()> {
        super::protocol::check_label(label)?;
        self.check_process()?;
        let label = label.to_owned();
        block.give(|kind, fd| self.give(&Request::Publish { label: Some(label), kind }, fd)).map(drop)
    }

    /// Attaches to the array of that label, for reading and writing.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) where the manager has no such label; [`Permission`](ErrorKind::Permission) for a
    /// frozen array, see [`attach_frozen`](Self::attach_frozen); otherwise as for [`SharedArray::attach`], and
    /// [`Closed`](ErrorKind::Closed) where the server is gone, and in a forked child.
    ///
    /// # Safety
    ///
    /// As for [`SharedArray::attach`]: every process that writes to the block does so under its lock.
    pub unsafe fn attach_array<T: Pod, D: Dimension>(&self, label: &str) -> Result<SharedArray<T, D>> {
        // SAFETY: passed on to the caller.
        unsafe { self.open_array(label, Access::ReadWrite) }
    }

    /// Attaches to the array of that label for reading only, as [`SharedArray::attach_read_only`] does.
    ///
    /// # Errors
    ///
    /// As for [`attach_array`](Self::attach_array); a frozen array is none.
    ///
    /// # Safety
    ///
    /// As for [`attach_array`](Self::attach_array).
    pub unsafe fn attach_array_read_only<T: Pod, D: Dimension>(&self, label: &str) -> Result<SharedArray<T, D>> {
        // SAFETY: passed on to the caller.
        unsafe { self.open_array(label, Access::ReadOnly) }
    }

    unsafe fn open_array<T: Pod, D: Dimension>(&self, label: &str, access: Access) -> Result<SharedArray<T, D>> {
        let found = self.find(label)?;
        match found.content {
            Content::Array { frozen: true, .. } if access == Access::ReadWrite => Err(Error::new(
                ErrorKind::Permission,
                format!("{label:?} is a frozen array, which nobody can write; use attach_frozen"),
            )),
            Content::Array { .. } => {
                let memory = found.memory(access)?;
                // SAFETY: passed on to the caller.
                unsafe { SharedArray::open_memory(memory) }
            }
            other => Err(mismatch(label, &other, "an array")),
        }
    }

    /// Attaches to the frozen array of that label. The kernel lets nobody write it, which is checked, so this needs no
    /// `unsafe`.
    ///
    /// # Errors
    ///
    /// [`Permission`](ErrorKind::Permission) where the array is not frozen; otherwise as for
    /// [`attach_array`](Self::attach_array).
    pub fn attach_frozen<T: Pod, D: Dimension>(&self, label: &str) -> Result<FrozenArray<T, D>> {
        let found = self.find(label)?;
        match found.content {
            Content::Array { .. } => FrozenArray::attach_fd(found.fd.as_fd()),
            other => Err(mismatch(label, &other, "a frozen array")),
        }
    }

    /// Attaches to the list of that label.
    ///
    /// # Errors
    ///
    /// As for [`ShareableList::attach`]; [`NotFound`](ErrorKind::NotFound) where the manager has no such label;
    /// [`Closed`](ErrorKind::Closed) where the server is gone, and in a forked child.
    pub fn attach_list(&self, label: &str) -> Result<ShareableList> {
        let found = self.find(label)?;
        match found.content {
            Content::List { .. } => ShareableList::from_memory(found.memory(Access::ReadWrite)?),
            other => Err(mismatch(label, &other, "a list")),
        }
    }

    /// Attaches to the block of that label, whatever is in it.
    ///
    /// # Errors
    ///
    /// As for [`SharedMemory::attach`]; [`NotFound`](ErrorKind::NotFound) where the manager has no such label;
    /// [`Permission`](ErrorKind::Permission) for a frozen array; [`Closed`](ErrorKind::Closed) where the server is gone,
    /// and in a forked child.
    pub fn attach_memory(&self, label: &str) -> Result<SharedMemory> {
        let found = self.find(label)?;
        if matches!(found.content, Content::Array { frozen: true, .. }) {
            let message = format!("{label:?} is a frozen array, which nobody can write; use attach_frozen");
            return Err(Error::new(ErrorKind::Permission, message));
        }
        found.memory(Access::ReadWrite)
    }

    /// Removes the block of that label from the manager, and its name where the manager gave it one. Who has it attached
    /// keeps it.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) where the manager has no such label; [`WouldBlock`](ErrorKind::WouldBlock) where
    /// another process holds the block locked with `flock` for over a second; [`Closed`](ErrorKind::Closed) where the server
    /// is gone, and in a forked child.
    pub fn remove(&self, label: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.order(&Request::Remove { label: label.to_owned() }) {
                // The server itself waits for nobody.
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return other,
            }
        }
    }

    /// Lets the manager forget a block and leaves it its name: from here on it belongs to nobody, as after
    /// [`SharedMemory::keep`].
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) where the manager has no such label; [`Unsupported`](ErrorKind::Unsupported) where
    /// it gave the block no name; [`Closed`](ErrorKind::Closed) where the server is gone, and in a forked child.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// use ndshm::{SharedMemory, SharedMemoryManager};
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// # ndshm::init();
    /// let manager = SharedMemoryManager::start()?;
    /// let memory = manager.shared_memory(100)?;
    /// let name = memory.name().expect("it has one");
    /// manager.keep(name)?; // the label is the name unless another one was set
    /// drop(manager);
    /// assert!(SharedMemory::attach(name).is_ok());
    /// SharedMemory::unlink_name(name)?;
    /// # Ok(()) }
    /// ```
    pub fn keep(&self, label: &str) -> Result<()> {
        self.order(&Request::Keep { label: label.to_owned() })
    }

    fn order(&self, request: &Request) -> Result<()> {
        match self.connection.ask(request, &[])? {
            (Answer::Done, _) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    fn find(&self, label: &str) -> Result<Found> {
        match self.connection.ask(&Request::Attach { label: label.to_owned() }, &[])? {
            (Answer::Block { name, content }, Some(fd)) => Ok(Found { fd, name, content }),
            _ => Err(unexpected()),
        }
    }
}

/// What the server has handed over.
struct Found {
    fd: OwnedFd,
    name: Option<String>,
    content: Content,
}

impl Found {
    fn memory(self, access: Access) -> Result<SharedMemory> {
        match self.name {
            Some(name) => SharedMemory::from_named_fd(self.fd.as_fd(), access, name),
            None => SharedMemory::from_fd(self.fd.as_fd(), access),
        }
    }
}

#[cold]
fn mismatch(label: &str, found: &Content, expected: &str) -> Error {
    Error::new(ErrorKind::Layout, format!("{label:?} is {}, expected {expected}", found.noun()))
}
