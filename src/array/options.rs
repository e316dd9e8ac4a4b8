//! How an array is made or attached.

use std::marker::PhantomData;

use crate::memory::{HugePages, Reserve, SharedMemoryOptions, Target};

/// How to make a [`SharedArray`](super::SharedArray), or attach to one: its name, permissions and pages. The constructors
/// are those of the array itself.
///
/// # Examples
///
/// ```
/// use ndshm::SharedArray;
///
/// # fn main() -> ndshm::Result<()> {
/// # let name = format!("climate_{}", std::process::id());
/// let climate = SharedArray::options().name(&name).mode(0o640).zeros((12, 180, 360))?;
/// climate.read()?.iter().for_each(|t: &f32| assert_eq!(*t, 0.0));
/// assert_eq!(climate.name(), Some(&*name));
/// # Ok(()) }
/// ```
#[must_use = "options do nothing until a constructor is called"]
pub struct ArrayOptions<T, D> {
    pub(super) name: Option<String>,
    pub(super) memory: SharedMemoryOptions,
    types: PhantomData<fn() -> (T, D)>,
}

impl<T, D> ArrayOptions<T, D> {
    pub(super) fn new() -> Self {
        Self { name: None, memory: SharedMemoryOptions::default(), types: PhantomData }
    }

    pub(crate) fn with_memory(memory: SharedMemoryOptions) -> Self {
        Self { name: None, memory, types: PhantomData }
    }

    /// Gives the array a name in `/dev/shm`, under which other programs attach to it; without one it is anonymous.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Permission bits of a named array or a file, 0600 by default, whatever the umask.
    pub fn mode(mut self, mode: u32) -> Self {
        self.memory = self.memory.mode(mode);
        self
    }

    /// Whether the memory is set aside at once (the default) or page by page as it is touched.
    pub fn reserve(mut self, reserve: Reserve) -> Self {
        self.memory = self.memory.reserve(reserve);
        self
    }

    /// Whether to ask for huge pages; by default where they pay, see
    /// [`SharedMemoryOptions::huge_pages`](crate::SharedMemoryOptions::huge_pages).
    pub fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.memory = self.memory.huge_pages(huge_pages);
        self
    }

    /// Whether to enter all pages into this process's page table at once, see
    /// [`SharedMemoryOptions::populate`](crate::SharedMemoryOptions::populate).
    pub fn populate(mut self, populate: bool) -> Self {
        self.memory = self.memory.populate(populate);
        self
    }

    /// Whether the array is part of core dumps; it is not by default, because a dump delays the release of locks.
    pub fn core_dump(mut self, core_dump: bool) -> Self {
        self.memory = self.memory.core_dump(core_dump);
        self
    }

    pub(super) fn target(&self) -> Target {
        self.name.clone().map_or(Target::Anonymous, Target::Named)
    }
}

impl<T, D> Clone for ArrayOptions<T, D> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), memory: self.memory.clone(), types: PhantomData }
    }
}

impl<T, D> std::fmt::Debug for ArrayOptions<T, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrayOptions").field("name", &self.name).field("memory", &self.memory).finish()
    }
}
