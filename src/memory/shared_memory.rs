//! A block of bytes that several processes map.
#![expect(unsafe_code, reason = "hands out slices of the mapping through unsafe functions")]

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::layout;
use crate::memory::name::{self, OwnedName};
use crate::memory::{Block, LockHandle, SharedMemoryOptions, copy, spare};
use crate::sys::file::{self, Links, SHM_DIR};
use crate::sys::map::{Access, Mapping, round_to_pages};
use crate::sys::space::{self, Place};
use crate::{Error, ErrorKind, Result};

/// A block of bytes that several processes map: Python's `multiprocessing.shared_memory.SharedMemory`, and compatible
/// with it in both directions.
///
/// Bytes go in and out by copy, with [`read_at`](Self::read_at) and [`write_at`](Self::write_at), which hold the block's
/// lock meanwhile; no other process that takes the locks sees half of a write, unless the writer was killed in the middle
/// of it, which leaves no mark here. For typed arrays without copies see
/// `SharedArray`.
///
/// The process that creates a named block owns the name and removes it when the handle is dropped, unless
/// [`keep`](Self::keep) was called; whoever attaches owns nothing. Where that process is killed before, or ends without
/// dropping the handle, the next process of the same user that creates its first named block removes the name, as does
/// [`prune`](crate::prune). The memory itself is freed when the name is gone and the last process has dropped its handle.
///
/// Python before 3.13 removes a block that it has merely attached to with `SharedMemory(name=…)` when it ends, kept or not:
/// there `np.memmap` opens it, or `resource_tracker.unregister(memory._name, "shared_memory")` after attaching helps. From
/// 3.13 on there is `track=False`.
///
/// In a forked child a handle is no longer mapped: every call that needs the bytes is an [`ErrorKind::Closed`] error and
/// dropping it does nothing.
///
/// A block that has a name can be cut short by anyone who may write it (`np.save` over it, `O_TRUNC`); the kernel
/// then ends whichever process touches what is missing, with a bus error. Anonymous blocks are sealed against that.
///
/// # Examples
///
/// ```
/// use ndshm::SharedMemory;
///
/// let memory = SharedMemory::create(16)?;
/// memory.write_at(4, b"hello")?;
///
/// // In another process, given the name:
/// let other = SharedMemory::attach(memory.name().expect("created with a name"))?;
/// let mut bytes = [0; 5];
/// other.read_at(4, &mut bytes)?;
/// assert_eq!(&bytes, b"hello");
/// # Ok::<(), ndshm::Error>(())
/// ```
#[doc(alias = "multiprocessing.shared_memory.SharedMemory")]
#[doc(alias = "shm_open")]
#[doc(alias = "mmap")]
pub struct SharedMemory {
    /// Ended before the memory goes.
    owned: Option<OwnedName>,
    pub(super) whereabouts: Whereabouts,
    pub(super) mapping: Mapping,
    pub(super) lock: LockHandle,
    /// For reading headers, opening anew and removing the name, which takes the only lock that it is used for.
    pub(super) file: OwnedFd,
    /// What `share_fd` has handed out; nobody of this process locks through it.
    shared: Option<OwnedFd>,
}

/// How a block can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    Anonymous,
    Named(String),
    Path(PathBuf),
    /// It came as a descriptor, or its name was removed through this handle.
    Nameless,
}

impl SharedMemory {
    /// Creates a block of `size` bytes, all zero, under a new name of the form `ndshm_0123456789abcdef`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidSize`] for 0 bytes and for more than an address range can be; [`ErrorKind::NoSpace`] where it
    /// does not fit `/dev/shm`, the control group, the machine or the process's limits, which is found out before
    /// anything is taken; [`ErrorKind::Permission`] where `/dev/shm` may not be written.
    ///
    /// # Examples
    ///
    /// ```
    /// let memory = ndshm::SharedMemory::create(1000)?;
    /// assert!(memory.name().is_some_and(|name| name.starts_with("ndshm_")));
    /// assert_eq!(memory.size(), 1000);
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    #[doc(alias = "shm_open")]
    pub fn create(size: usize) -> Result<Self> {
        Self::options().create(size)
    }

    /// Creates a block of `size` bytes, all zero, under `name`: 1 to 255 bytes without `/` and NUL, and not beginning with
    /// `.ndshm`. Python and other programs find it by the same name, which is that of a file in `/dev/shm`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`]; [`ErrorKind::AlreadyExists`] where the name is taken; and as for
    /// [`create`](Self::create).
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{ErrorKind, SharedMemory};
    ///
    /// let name = format!("docs-{}", std::process::id());
    /// let memory = SharedMemory::create_named(&name, 64)?;
    /// assert_eq!(SharedMemory::create_named(&name, 64).unwrap_err().kind(), ErrorKind::AlreadyExists);
    /// drop(memory);
    /// assert_eq!(SharedMemory::attach(&name).unwrap_err().kind(), ErrorKind::NotFound);
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    #[doc(alias = "shm_open")]
    pub fn create_named(name: &str, size: usize) -> Result<Self> {
        Self::options().create_named(name, size)
    }

    /// Creates a block of `size` bytes, all zero, that has no name: others reach it through a descriptor alone. It can
    /// neither shrink nor grow, and `/dev/shm` does not limit it.
    ///
    /// # Errors
    ///
    /// As for [`create`](Self::create), `/dev/shm` apart; [`ErrorKind::Unsupported`] where the kernel has no memfds.
    ///
    /// # Examples
    ///
    /// ```
    /// let memory = ndshm::SharedMemory::anonymous(8)?;
    /// assert_eq!(memory.name(), None);
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    #[doc(alias = "memfd_create")]
    pub fn anonymous(size: usize) -> Result<Self> {
        Self::options().anonymous(size)
    }

    /// Attaches to the block `name`, whoever made it, to read and to write.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidName`]; [`ErrorKind::Permission`] where the block's mode does not let
    /// this user write it, see [`read_only`](SharedMemoryOptions::read_only); [`ErrorKind::Layout`] where that name is
    /// not a regular file, or one that its creator has not given a size yet.
    #[doc(alias = "shm_open")]
    #[doc(alias = "mmap")]
    pub fn attach(name: &str) -> Result<Self> {
        Self::options().attach(name)
    }

    /// Creates or attaches with other than the default options.
    pub fn options() -> SharedMemoryOptions {
        SharedMemoryOptions::default()
    }

    pub(super) fn attach_with(options: &SharedMemoryOptions, name: &str, access: Access) -> Result<Self> {
        let path = name::path_of(name)?;
        let file = file::open_existing(&path, access, Links::Refuse).map_err(|error| match error.kind() {
            ErrorKind::NotFound => name::not_found(name),
            _ => error,
        })?;
        Self::from_file(options, file, access, Whereabouts::Named(name.to_owned()))
    }

    /// Maps a file on disk. A symbolic link is followed, as programs do with their users' files.
    pub(crate) fn open_path(path: &Path, access: Access) -> Result<Self> {
        let file = file::open_existing(path, access, Links::Follow)?;
        Self::from_file(&Self::options(), file, access, Whereabouts::Path(path.to_owned()))
    }

    /// Maps the file of a descriptor, which is opened anew: the caller's stays the caller's.
    pub(crate) fn from_fd(fd: BorrowedFd<'_>, access: Access) -> Result<Self> {
        file::require_regular(fd, Path::new("the descriptor"))?;
        let file = file::reopen(fd, access)?;
        Self::from_file(&Self::options(), file, access, Whereabouts::Nameless)
    }

    /// The same, under the name that somebody gave to the block.
    pub(crate) fn from_named_fd(fd: BorrowedFd<'_>, access: Access, name: String) -> Result<Self> {
        file::require_regular(fd, Path::new("the descriptor"))?;
        let file = file::reopen(fd, access)?;
        Self::from_file(&Self::options(), file, access, Whereabouts::Named(name))
    }

    fn from_file(
        options: &SharedMemoryOptions,
        file: OwnedFd,
        access: Access,
        whereabouts: Whereabouts,
    ) -> Result<Self> {
        let size = file::size(file.as_fd())?;
        if size == 0 {
            let message =
                format!("{whereabouts} has no size: its creator has not given it one yet, or has cut it to nothing");
            return Err(Error::new(ErrorKind::Layout, message));
        }
        let len = usize::try_from(size).ok().filter(|&len| round_to_pages(len).is_some()).ok_or_else(|| {
            Error::new(ErrorKind::InvalidSize, format!("{whereabouts} has {size} bytes, more than can be mapped"))
        })?;
        let lock = file::reopen(file.as_fd(), access)?;
        let mapping = Mapping::new(file.as_fd(), len, access, options.aligns(len), options.core_dump)?;
        if options.populate {
            check_room_to_populate(file.as_fd(), len)?;
            mapping.populate(0..len, false)?;
        }
        let lock = LockHandle::new(Block::open(lock, access, false)?);
        Ok(Self::assemble(file, lock, mapping, whereabouts, None))
    }

    pub(super) fn assemble(
        file: OwnedFd,
        lock: LockHandle,
        mapping: Mapping,
        whereabouts: Whereabouts,
        owned: Option<OwnedName>,
    ) -> Self {
        Self { owned, whereabouts, mapping, lock, file, shared: None }
    }

    /// The name that the block was created or attached under; `None` for one without, and after
    /// [`unlink`](Self::unlink).
    pub fn name(&self) -> Option<&str> {
        match &self.whereabouts {
            Whereabouts::Named(name) => Some(name),
            _ => None,
        }
    }

    /// The bytes of the block, exactly as many as were asked for when it was made.
    #[inline]
    pub fn size(&self) -> usize {
        self.mapping.len()
    }

    /// The bytes that are mapped: [`size`](Self::size) rounded up to pages. Those past the size are zero and belong to
    /// nobody.
    pub fn capacity(&self) -> usize {
        self.mapping.capacity()
    }

    /// Whether the block was attached for reading alone.
    pub fn is_read_only(&self) -> bool {
        self.mapping.access() == Access::ReadOnly
    }

    /// Copies the bytes from `offset` on to `out`, as many as it holds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidSize`] where that goes past the end; [`ErrorKind::WouldBlock`] where this thread holds a guard
    /// that writes the same block; [`ErrorKind::Closed`] in a forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// let memory = ndshm::SharedMemory::anonymous(8)?;
    /// let mut bytes = [1; 4];
    /// memory.read_at(2, &mut bytes)?;
    /// assert_eq!(bytes, [0; 4]);
    /// assert!(memory.read_at(6, &mut bytes).is_err());
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn read_at(&self, offset: usize, out: &mut [u8]) -> Result<()> {
        self.check_range(offset, out.len(), "read")?;
        self.lock.with_shared(|| copy::copy_out(&self.mapping, offset, out))
    }

    /// Copies `bytes` into the block, from `offset` on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidSize`] where that goes past the end, and nothing is written; [`ErrorKind::Permission`] where
    /// the block was attached for reading alone, or is a typed array and the first six bytes of its header would change; [`ErrorKind::WouldBlock`] where this thread holds a guard of the same
    /// block; [`ErrorKind::Closed`] in a forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// let memory = ndshm::SharedMemory::anonymous(8)?;
    /// memory.write_at(3, &[7, 8])?;
    /// let mut bytes = [0; 8];
    /// memory.read_at(0, &mut bytes)?;
    /// assert_eq!(bytes, [0, 0, 0, 7, 8, 0, 0, 0]);
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        if self.is_read_only() {
            let message = format!("{} was attached read-only", self.whereabouts);
            return Err(Error::new(ErrorKind::Permission, message));
        }
        self.check_range(offset, bytes.len(), "write")?;
        self.lock.with_exclusive(|| {
            self.check_stays_array(offset, bytes)?;
            copy::copy_in(&self.mapping, offset, bytes);
            Ok(())
        })?
    }

    /// A typed array stays one: if its first bytes could become those of a list, whose numbers are written without the
    /// lock, a guard that somebody holds on the array would not exclude such writes.
    fn check_stays_array(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let mut now = [0; layout::MAGIC.len()];
        if offset >= now.len() || self.size() < now.len() {
            return Ok(());
        }
        copy::copy_out(&self.mapping, 0, &mut now);
        let touched = &now[offset..now.len().min(offset + bytes.len())];
        if now != layout::MAGIC || touched == &bytes[..touched.len()] {
            return Ok(());
        }
        let message =
            format!("{} is a typed array, whose first {} bytes cannot be changed", self.whereabouts, now.len());
        Err(Error::new(ErrorKind::Permission, message))
    }

    fn check_range(&self, offset: usize, len: usize, what: &str) -> Result<()> {
        let size = self.size();
        if offset.checked_add(len).is_some_and(|end| end <= size) {
            return Ok(());
        }
        let message = format!("cannot {what} {len} bytes at offset {offset} of a block of {size} bytes");
        Err(Error::new(ErrorKind::InvalidSize, message))
    }

    /// The address of the first byte, aligned to a page at least. It stays the same for as long as the handle lives.
    ///
    /// Other processes may write what it points to at any time; nothing is mapped there in a forked child, and where
    /// [`is_read_only`](Self::is_read_only) says so it must not be written.
    #[doc(alias = "mmap")]
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.ptr().as_ptr()
    }

    /// The bytes of the block, in place.
    ///
    /// # Safety
    ///
    /// For as long as the slice lives no process and no thread may write the block, with or without the block's lock, nor
    /// cut it short, and it must not be used in a forked child.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: `size` bytes are mapped from there on, initialised by the kernel, for as long as `self` is borrowed; at
        // most isize::MAX (Mapping::new). The caller vouches that nobody writes them and that this is no forked child.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.size()) }
    }

    /// The bytes of the block, in place and to be written.
    ///
    /// # Safety
    ///
    /// For as long as the slice lives no other process, thread or handle may read or write the block, with or without the
    /// block's lock, nor cut it short, and it must not be used in a forked child.
    ///
    /// # Panics
    ///
    /// If the block was attached for reading alone.
    pub unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        assert!(!self.is_read_only(), "{} was attached read-only", self.whereabouts);
        // SAFETY: `size` bytes are mapped writable from there on, initialised by the kernel, for as long as `self` is
        // borrowed; at most isize::MAX (Mapping::new). The caller vouches that nobody else reads or writes them and
        // that this is no forked child.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.size()) }
    }

    /// Leaves the name where it is when this handle is dropped, for programs that come later; they, or
    /// [`unlink_name`](Self::unlink_name), have to remove it. From here on it belongs to nobody, and
    /// [`prune`](crate::prune) leaves it alone. Does nothing for a block that this process does not own.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::SharedMemory;
    ///
    /// let mut memory = SharedMemory::create(8)?;
    /// let name = memory.name().expect("created with a name").to_owned();
    /// memory.keep();
    /// drop(memory);
    /// assert!(SharedMemory::attach(&name).is_ok());
    /// SharedMemory::unlink_name(&name)?;
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn keep(&mut self) {
        if let Some(owned) = self.owned.take() {
            owned.forget();
        }
    }

    /// Removes the name now, if it still is this block's. Who has the block attached keeps it, and so does this handle.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] where the block has no name, no longer has it, or the name is another block's by now;
    /// [`ErrorKind::Permission`]; [`ErrorKind::WouldBlock`] where another process holds the block locked with `flock`, as
    /// one does that removes it, for over a second; [`ErrorKind::Closed`] in a forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{ErrorKind, SharedMemory};
    ///
    /// let mut memory = SharedMemory::create(8)?;
    /// memory.unlink()?;
    /// assert_eq!(memory.unlink().unwrap_err().kind(), ErrorKind::NotFound);
    /// memory.write_at(0, b"still ok")?;
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    #[doc(alias = "shm_unlink")]
    pub fn unlink(&mut self) -> Result<()> {
        if !self.mapping.is_here() {
            let message = "a forked child cannot remove the name of its parent's block";
            return Err(Error::new(ErrorKind::Closed, message));
        }
        let Whereabouts::Named(name) = &self.whereabouts else {
            return Err(Error::new(ErrorKind::NotFound, format!("{} has no name to remove", self.whereabouts)));
        };
        let removed = name::unlink_same(name, self.file.as_fd());
        if removed.as_ref().map_or_else(|error| error.kind() == ErrorKind::NotFound, |()| true) {
            self.keep();
            self.whereabouts = Whereabouts::Nameless;
        }
        removed
    }

    /// Removes a name, whoever made the block. Who has it attached keeps it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidName`]; [`ErrorKind::Permission`]; [`ErrorKind::WouldBlock`] as for
    /// [`unlink`](Self::unlink).
    #[doc(alias = "shm_unlink")]
    pub fn unlink_name(name: &str) -> Result<()> {
        name::unlink_any(name)
    }

    /// A descriptor of the block, to be handed to another process. From then on the block counts as one that others can
    /// write, for good: its locks are the kernel's.
    ///
    /// It is an open file description of its own, so that locks taken through it exclude those of this process.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`] where the block's mode does not let this user open it; [`ErrorKind::Io`] where no
    /// descriptor is left; [`ErrorKind::Closed`] in a forked child.
    pub fn share_fd(&mut self) -> Result<BorrowedFd<'_>> {
        if !self.mapping.is_here() {
            return Err(Error::new(ErrorKind::Closed, "a forked child cannot share its parent's block"));
        }
        let fd = match self.shared.take() {
            Some(fd) => fd,
            None => self.reopen(self.mapping.access())?,
        };
        self.lock.end_privacy()?;
        let fd: &OwnedFd = self.shared.insert(fd);
        Ok(fd.as_fd())
    }

    /// Is this the only handle on memory that nobody but this process and workers of its pools ever could reach, and is it
    /// mapped for writing?
    pub(crate) fn is_unshared(&self) -> bool {
        let mapping = &self.mapping;
        self.whereabouts == Whereabouts::Anonymous
            && self.shared.is_none()
            && mapping.is_here()
            && mapping.is_mapped()
            && mapping.access() == Access::ReadWrite
            && self.lock.is_sole_and_private()
    }

    /// Another open file description of the block. Whoever lets it out of this process ends the block's privacy first.
    pub(crate) fn reopen(&self, access: Access) -> Result<OwnedFd> {
        file::reopen(self.file.as_fd(), access)
    }

    /// A descriptor that nobody locks through.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    #[inline]
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    #[inline]
    pub(crate) fn lock(&self) -> &LockHandle {
        &self.lock
    }

    #[inline]
    pub(crate) fn lock_mut(&mut self) -> &mut LockHandle {
        &mut self.lock
    }

    /// Adds the block's name or path to an error about what is in it.
    #[cold]
    pub(crate) fn blame(&self, error: Error) -> Error {
        match &self.whereabouts {
            Whereabouts::Named(name) => error.about(format_args!("{name:?}")),
            Whereabouts::Path(path) => error.about(path.display()),
            Whereabouts::Anonymous | Whereabouts::Nameless => error,
        }
    }

    /// Reads what is at `offset` through the file, and says how many bytes there were: a block that was cut short is no
    /// bus error here.
    pub(crate) fn read_header(&self, offset: usize, out: &mut [u8]) -> Result<usize> {
        file::read_at(self.file.as_fd(), offset, out)
    }
}

/// To populate a block makes the memory that it does not have yet, and where a control group has none left the kernel kills.
fn check_room_to_populate(fd: BorrowedFd<'_>, len: usize) -> Result<()> {
    let missing = file::missing(fd, len)?;
    let check = || if missing == 0 { Ok(()) } else { space::check_room(Place::Directory(Path::new(SHM_DIR)), missing) };
    // What is kept for reuse is room too.
    check().or_else(|error| if spare::release() > 0 { check() } else { Err(error) })
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if let Some(owned) = self.owned.take() {
            owned.remove(self.file.as_fd());
        }
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("the anonymous block"),
            Self::Named(name) => write!(f, "the block {name:?}"),
            Self::Path(path) => write!(f, "the file {}", path.display()),
            Self::Nameless => f.write_str("the block"),
        }
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory")
            .field("name", &self.name())
            .field("size", &self.size())
            .field("read_only", &self.is_read_only())
            .finish_non_exhaustive()
    }
}
