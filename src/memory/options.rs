//! How a block is made or attached.

use crate::memory::draft::Target;
use crate::memory::{Draft, SharedMemory, name};
use crate::sys::map::Access;
use crate::{Error, ErrorKind, Result};

/// When a block's memory is set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reserve {
    /// When it is made: what does not fit is an [`ErrorKind::NoSpace`] error then and there.
    #[default]
    Now,
    /// When a page is first touched. Making a block costs nothing then, but where memory has run out by the time of the
    /// first touch the kernel ends the process, with a bus error or an out-of-memory kill.
    Lazily,
}

/// Whether a block is made of pages of 2 MiB, which are faster to fill and to walk over, in place of 4 KiB.
///
/// What is left over at the end of a block after the last whole 2 MiB is always made of small pages. Huge pages are there
/// from the start, whatever [`Reserve`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HugePages {
    /// Small pages, unless the administrator has it otherwise.
    #[default]
    Never,
    /// Huge pages where the machine has them, else small ones.
    Try,
    /// Huge pages, or an [`ErrorKind::Unsupported`] error.
    Require,
}

/// How to make or attach a [`SharedMemory`]: set what differs from the default, then call one of
/// [`create`](Self::create), [`create_named`](Self::create_named), [`anonymous`](Self::anonymous) and
/// [`attach`](Self::attach).
///
/// # Examples
///
/// ```
/// use ndshm::SharedMemory;
///
/// let memory = SharedMemory::options().mode(0o640).populate(true).create(1 << 20)?;
/// assert_eq!(memory.size(), 1 << 20);
/// # Ok::<(), ndshm::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "options do nothing until they are used to create or attach a block"]
pub struct SharedMemoryOptions {
    pub(crate) mode: Option<u32>,
    pub(crate) reserve: Reserve,
    pub(crate) huge_pages: HugePages,
    pub(crate) populate: bool,
    pub(crate) read_only: bool,
    pub(crate) core_dump: bool,
}

impl SharedMemoryOptions {
    /// Sets who may open the block: permission bits as for `chmod`, whatever the umask is; 0o600 by default, this user
    /// alone.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets when memory is set aside: [`Reserve::Now`] by default.
    pub fn reserve(mut self, reserve: Reserve) -> Self {
        self.reserve = reserve;
        self
    }

    /// Sets whether the block is made of huge pages: [`HugePages::Never`] by default. When attaching, anything else aligns
    /// the mapping so that huge pages which are there can be used.
    pub fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    /// Sets whether every page is mapped at once, so that no later access waits for a page fault; off by default. It
    /// sets memory aside too, whatever [`Reserve`] says.
    pub fn populate(mut self, populate: bool) -> Self {
        self.populate = populate;
        self
    }

    /// Sets whether [`attach`](Self::attach) asks for reading alone, which works where writing is not permitted; off by
    /// default.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets whether the block's contents go into a core dump of this process; off by default, since dumping them delays
    /// the moment at which others learn of the crash.
    #[doc(alias = "MADV_DONTDUMP")]
    pub fn core_dump(mut self, core_dump: bool) -> Self {
        self.core_dump = core_dump;
        self
    }

    /// Creates a block of `size` bytes, all zero, under a new name: [`SharedMemory::create`] with these options.
    ///
    /// # Errors
    ///
    /// As for [`SharedMemory::create`]; [`ErrorKind::InvalidArgument`] for [`read_only`](Self::read_only) and for a mode
    /// above 0o777; [`ErrorKind::Unsupported`] where huge pages are required and can't be had.
    #[doc(alias = "shm_open")]
    pub fn create(&self, size: usize) -> Result<SharedMemory> {
        self.draft(Target::Generated, size)?.publish()
    }

    /// Creates a block of `size` bytes, all zero, under `name`: [`SharedMemory::create_named`] with these options.
    ///
    /// # Errors
    ///
    /// As for [`SharedMemory::create_named`] and [`create`](Self::create).
    #[doc(alias = "shm_open")]
    pub fn create_named(&self, name: &str, size: usize) -> Result<SharedMemory> {
        self.draft(Target::Named(name.to_owned()), size)?.publish()
    }

    /// Creates a block of `size` bytes, all zero, without a name: [`SharedMemory::anonymous`] with these options.
    ///
    /// # Errors
    ///
    /// As for [`SharedMemory::anonymous`] and [`create`](Self::create).
    #[doc(alias = "memfd_create")]
    pub fn anonymous(&self, size: usize) -> Result<SharedMemory> {
        self.draft(Target::Anonymous, size)?.publish()
    }

    /// Attaches to the block `name`: [`SharedMemory::attach`] with these options.
    ///
    /// # Errors
    ///
    /// As for [`SharedMemory::attach`].
    #[doc(alias = "shm_open")]
    #[doc(alias = "mmap")]
    pub fn attach(&self, name: &str) -> Result<SharedMemory> {
        let access = if self.read_only { Access::ReadOnly } else { Access::ReadWrite };
        SharedMemory::attach_with(self, name, access)
    }

    /// Makes a block that nobody can find until it is published.
    pub(crate) fn draft(&self, target: Target, size: usize) -> Result<Draft> {
        if size == 0 {
            return Err(Error::new(ErrorKind::InvalidSize, "a block of 0 bytes was asked for, expected at least 1"));
        }
        if crate::sys::map::round_to_pages(size).is_none() {
            let largest = isize::MAX;
            let message =
                format!("a block of {size} bytes was asked for, expected at most {largest}, rounded up to pages");
            return Err(Error::new(ErrorKind::InvalidSize, message));
        }
        if self.read_only {
            let message = "a new block cannot be read-only: nobody could ever write it";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if let Some(mode) = self.mode.filter(|&mode| mode > 0o777) {
            let message = format!("the mode {mode:#o} has bits beyond 0o777, which are not for blocks");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if let Target::Named(name) = &target {
            name::path_of(name)?;
        }
        Draft::new(self, target, size)
    }
}
