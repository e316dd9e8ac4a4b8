//! How a block is made or attached.

use crate::memory::draft::Target;
use crate::memory::spare::Recipe;
use crate::memory::{Draft, SharedMemory, name};
use crate::sys::map::{Access, HUGE_PAGE};
use crate::{Error, ErrorKind, Result};

/// When a block's memory is set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reserve {
    /// When it is made: what does not fit is an [`ErrorKind::NoSpace`] error then and there.
    #[default]
    Now,
    /// When a page is first touched. Making a block costs nothing then, but where memory has run out by the time of the
    /// first touch the kernel ends the process, with a bus error or an out-of-memory kill.
    ///
    /// On a machine with several NUMA nodes a page comes from the node of the processor that touches it first. An array
    /// that is reserved lazily lies near the workers that touch their own rows of it first, by
    /// [`Schedule::Static`](crate::Schedule::Static); one that is reserved at once lies on the node of the process that made
    /// it, as far as that has room.
    Lazily,
}

/// Whether a block is made of pages of 2 MiB, which are faster to make, to fill and to walk over, in place of 4 KiB.
///
/// What is left over at the end of a block after the last whole 2 MiB is always made of small pages, so that no memory is
/// wasted. Huge pages are there from the start, whatever [`Reserve`] says.
///
/// They need no administrator: the kernel is asked for each of them (`MADV_COLLAPSE`, Linux 6.1), whatever is set under
/// `/sys/kernel/mm/transparent_hugepage`. A process that was started with `PR_SET_THP_DISABLE` gets none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HugePages {
    /// Small pages, unless the administrator has it otherwise.
    Never,
    /// Huge pages where the machine has them, else small ones; also where it takes much longer to find some than to use them
    /// saves, for a part of the block.
    #[default]
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
    /// As set; what holds where nothing is, [`SharedMemoryOptions::huge_pages_of`] says.
    pub(crate) huge_pages: Option<HugePages>,
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

    /// Sets whether the block is made of huge pages. By default they are [tried](HugePages::Try) for memory that is reserved
    /// when it is made, from 2 MiB on, and not asked for where it is [reserved lazily](Reserve::Lazily) or lies in a file
    /// on disk. When attaching, [`HugePages::Never`] alone makes a difference: the mapping is then not aligned to them.
    #[doc(alias = "MADV_COLLAPSE")]
    #[doc(alias = "MADV_HUGEPAGE")]
    pub fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.huge_pages = Some(huge_pages);
        self
    }

    /// Sets whether every page is mapped at once, so that no later access waits for a page fault; off by default. It
    /// sets memory aside too, whatever [`Reserve`] says, also when attaching: where there is not enough for what is missing,
    /// that is [`NoSpace`](crate::ErrorKind::NoSpace).
    ///
    /// When attaching it pays for who is going to fill most of a large block of small pages, or to write it without having
    /// read it: the kernel otherwise enters them one by one. Who reads first gains little. A first writing pass over 1 GiB then took 78 ms in place of 450 ms on a
    /// machine of two processors, of which 40 ms are for writing; attaching takes the other 38 ms in place of some
    /// microseconds. Blocks of huge pages need no populating.
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

    /// Is memory set aside when a block is made?
    pub(crate) fn is_eager(&self) -> bool {
        self.reserve == Reserve::Now || self.populate || self.huge_pages.unwrap_or(HugePages::Never) != HugePages::Never
    }

    /// The huge pages of a new block of `size` bytes that is made of memory.
    pub(crate) fn huge_pages_of(&self, size: usize) -> HugePages {
        let worthwhile = self.is_eager() && size >= HUGE_PAGE;
        self.huge_pages.unwrap_or(if worthwhile { HugePages::Try } else { HugePages::Never })
    }

    /// What an anonymous block of `size` bytes has to be like to stand in for one that these options make; `None` where none
    /// can.
    pub(crate) fn recipe(&self, size: usize) -> Option<Recipe> {
        let plain = self.mode.is_none() && self.reserve == Reserve::Now && !self.core_dump;
        plain.then(|| Recipe { size, huge_pages: self.huge_pages_of(size) })
    }

    /// Whether a mapping of `size` bytes is aligned so that huge pages that are there, or come, can be used.
    pub(crate) fn aligns(&self, size: usize) -> bool {
        size >= HUGE_PAGE && self.huge_pages != Some(HugePages::Never)
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
