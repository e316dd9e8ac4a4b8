//! Making blocks that a manager owns.

use std::os::fd::BorrowedFd;

use bytemuck::Pod;
use ndarray::{ArrayViewMut, ShapeBuilder};

use super::SharedMemoryManager;
use super::protocol::{Kind, Request, check_label};
use crate::array::{ArrayOptions, Failed, SharedArray};
use crate::error::{Error, Result};
use crate::list::{ShareableList, Value};
use crate::memory::{Draft, HugePages, Reserve, SharedMemory, SharedMemoryOptions, Target};

/// How a [`SharedMemoryManager`] makes a block: its label, its name, permissions and pages. Made by
/// [`options`](SharedMemoryManager::options).
///
/// # Examples
///
/// ```standalone_crate
/// use ndshm::{SharedArray, SharedMemoryManager};
///
/// # fn main() -> ndshm::Result<()> {
/// # ndshm::init();
/// let manager = SharedMemoryManager::start()?;
/// # let name = format!("climate_{}", std::process::id());
/// let climate = manager.options().name(&name).label("climate").array::<f32, _>((12, 180, 360))?;
/// assert_eq!(climate.name(), Some(&*name));
/// assert_eq!(manager.list()?[0].label(), "climate");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a block is made"]
pub struct ManagedOptions<'a> {
    manager: &'a SharedMemoryManager,
    label: Option<String>,
    name: Option<String>,
    memory: SharedMemoryOptions,
}

impl<'a> ManagedOptions<'a> {
    pub(super) fn new(manager: &'a SharedMemoryManager) -> Self {
        Self { manager, label: None, name: None, memory: SharedMemoryOptions::default() }
    }

    /// Sets the label that the block is attached by: 1 to 255 bytes of text without control characters, which no other
    /// block of the manager has. By default it is the name, or for an anonymous array a new one such as `array-1`.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Gives the block this name in `/dev/shm`, by which programs find it that know nothing of the manager. By default
    /// memory and lists have a new name of the form `ndshm_0123456789abcdef`, and arrays none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Permission bits of a block with a name, 0600 by default, whatever the umask. The manager itself serves its own user
    /// alone.
    pub fn mode(mut self, mode: u32) -> Self {
        self.memory = self.memory.mode(mode);
        self
    }

    /// Whether the memory is set aside at once (the default) or page by page as it is touched.
    pub fn reserve(mut self, reserve: Reserve) -> Self {
        self.memory = self.memory.reserve(reserve);
        self
    }

    /// Whether to ask for huge pages.
    pub fn huge_pages(mut self, huge_pages: HugePages) -> Self {
        self.memory = self.memory.huge_pages(huge_pages);
        self
    }

    /// Whether to enter all pages into this process's page table at once.
    pub fn populate(mut self, populate: bool) -> Self {
        self.memory = self.memory.populate(populate);
        self
    }

    /// See [`SharedMemoryManager::shared_memory`].
    ///
    /// # Errors
    ///
    /// As there, and [`AlreadyExists`](crate::ErrorKind::AlreadyExists) or [`InvalidName`](crate::ErrorKind::InvalidName)
    /// because of the label or the name.
    pub fn shared_memory(self, size: usize) -> Result<SharedMemory> {
        self.check()?;
        let draft = self.memory.draft(self.named(), size)?;
        self.publish(Kind::Memory)(draft)
    }

    /// See [`SharedMemoryManager::shareable_list`].
    ///
    /// # Errors
    ///
    /// As there, and as for [`shared_memory`](Self::shared_memory).
    pub fn shareable_list<V: Into<Value>>(self, values: impl IntoIterator<Item = V>) -> Result<ShareableList> {
        self.check()?;
        let values: Vec<Value> = values.into_iter().map(Into::into).collect();
        ShareableList::create_from(self.publish(Kind::List), &self.memory, self.named(), &values)
    }

    /// See [`SharedMemoryManager::array`].
    ///
    /// # Errors
    ///
    /// As there, and as for [`shared_memory`](Self::shared_memory).
    pub fn array<T: Pod, Sh: ShapeBuilder>(self, shape: Sh) -> Result<SharedArray<T, Sh::Dim>> {
        self.fill_with(shape, |_| Ok::<(), Error>(()))
    }

    /// An array that `fill` has filled in before others can attach to it; it begins as zeros. Nothing is left where `fill`
    /// fails or panics.
    ///
    /// # Errors
    ///
    /// As for [`array`](Self::array), and what `fill` returns.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// use ndshm::{SharedArray, SharedMemoryManager};
    ///
    /// # fn main() -> ndshm::Result<()> {
    /// # ndshm::init();
    /// let manager = SharedMemoryManager::start()?;
    /// let ones: SharedArray<f64, _> = manager.options().label("ones").fill_with(5, |mut view| -> ndshm::Result<()> {
    ///     view.fill(1.0);
    ///     Ok(())
    /// })?;
    /// assert_eq!(ones.read()?.sum(), 5.0);
    /// # Ok(()) }
    /// ```
    pub fn fill_with<T, Sh, E>(
        self,
        shape: Sh,
        fill: impl FnOnce(ArrayViewMut<'_, T, Sh::Dim>) -> Result<(), E>,
    ) -> Result<SharedArray<T, Sh::Dim>, E>
    where
        T: Pod,
        Sh: ShapeBuilder,
        E: From<Error>,
    {
        self.check()?;
        let options = ArrayOptions::<T, Sh::Dim>::with_memory(self.memory.clone());
        let built = match self.name {
            Some(_) => options.build_and(self.publish(Kind::Array), self.named(), shape, fill),
            None => options.build_and(Draft::publish, Target::Anonymous, shape, fill),
        };
        let mut array = match built {
            Ok(array) => array,
            Err(Failed::Ours(error)) => return Err(error.into()),
            Err(Failed::Theirs(error)) => return Err(error),
        };
        if self.name.is_none() {
            let fd = array.share_fd()?;
            self.manager.give(&Request::Publish { label: self.label, kind: Kind::Array }, fd)?;
        }
        Ok(array)
    }

    /// What can be known to fail fails before a large block is made and filled.
    fn check(&self) -> Result<()> {
        self.label.as_deref().map_or(Ok(()), check_label)?;
        self.manager.check_process()
    }

    fn named(&self) -> Target {
        self.name.clone().map_or(Target::Generated, Target::Named)
    }

    /// The last step of making a block: the server gives it its name.
    fn publish(&self, kind: Kind) -> impl FnOnce(Draft) -> Result<SharedMemory> {
        let (manager, label) = (self.manager, self.label.clone());
        move |draft| {
            draft.publish_through(|fd: BorrowedFd<'_>, name: &str| {
                let request = Request::Create { name: name.to_owned(), label, kind };
                manager.give(&request, fd).map(drop)
            })
        }
    }
}
