//! Lists that are there already.

use super::ShareableList;
use crate::error::Result;
use crate::layout::list::{ListLayout, damaged};
use crate::memory::SharedMemory;

impl ShareableList {
    /// Attaches to the list `name`, whoever made it, to read and to write.
    ///
    /// # Errors
    ///
    /// [`Layout`](crate::ErrorKind::Layout) where the block does not contain a list, or a damaged one, or one of CPython
    /// 3.8, which had another layout; otherwise as for [`SharedMemory::attach`].
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{ErrorKind, ShareableList, SharedMemory};
    ///
    /// let list = ShareableList::new([1, 2, 3])?;
    /// let attached = ShareableList::attach(list.shm().name().expect("created with a name"))?;
    /// attached.set(0, 4)?;
    /// assert_eq!(list.get(0)?.as_int(), Some(4));
    ///
    /// let memory = SharedMemory::create(100)?;
    /// memory.write_at(0, b"something else")?;
    /// let error = ShareableList::attach(memory.name().expect("created with a name")).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Layout);
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn attach(name: &str) -> Result<Self> {
        Self::from_memory(SharedMemory::attach(name)?)
    }

    /// Attaches to the list `name` for reading alone, which works where writing is not permitted.
    ///
    /// # Errors
    ///
    /// As for [`attach`](Self::attach).
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{ErrorKind, ShareableList};
    ///
    /// let list = ShareableList::new([1, 2, 3])?;
    /// let attached = ShareableList::attach_read_only(list.shm().name().expect("created with a name"))?;
    /// assert_eq!(attached.get(2)?.as_int(), Some(3));
    /// assert_eq!(attached.set(2, 4).unwrap_err().kind(), ErrorKind::Permission);
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn attach_read_only(name: &str) -> Result<Self> {
        Self::from_memory(SharedMemory::options().read_only(true).attach(name)?)
    }

    /// The list in a block that was attached with other options, or came without a name. The handle takes over what the
    /// memory owns.
    ///
    /// # Errors
    ///
    /// [`Layout`](crate::ErrorKind::Layout) as for [`attach`](Self::attach).
    pub fn from_memory(memory: SharedMemory) -> Result<Self> {
        // Through the file and not the mapping, so that a block that was cut short is no bus error here.
        let layout = ListLayout::parse(memory.size(), |offset, out| {
            let read = memory.read_header(offset, out)?;
            if read == out.len() {
                return Ok(());
            }
            Err(damaged(format!("it was cut short: found {read} bytes at {offset}, expected {}", out.len())))
        });
        let layout = layout.map_err(|error| memory.blame(error))?;
        Ok(Self { memory, layout })
    }
}
