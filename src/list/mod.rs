//! [`ShareableList`]: a list of ints, floats, bools, strs, bytes and Nones in one block, CPython's byte for byte.
//!
//! | module | what it holds |
//! |---|---|
//! | [`value`] | what an item can be, in Rust |
//! | [`item`] | the protocol by which one item is read and written while others do the same |
//! | [`words`] | the block as atomic words; the only `unsafe` here |
//! | [`create`], [`attach`] | how a list comes about |
//! | [`iter`], [`display`], [`macros`] | for its users' comfort |

mod attach;
mod create;
mod display;
mod item;
mod iter;
mod macros;
mod value;
mod words;

use std::ops::{Bound, Range, RangeBounds};

pub use iter::ListIter;
pub use value::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::layout::list::ListLayout;
use crate::memory::SharedMemory;
use crate::sys::map::Access;
use item::{Encoded, Item};
use words::Words;

/// A list of ints, floats, bools, strs, bytes and Nones in shared memory: Python's
/// `multiprocessing.shared_memory.ShareableList`, byte for byte as CPython 3.9 to 3.14 writes it, so that Rust and Python
/// processes read and write one list together.
///
/// Its length never changes and each item keeps the room that it was made with: an int, float, bool or None goes
/// anywhere; a str or bytes goes where its bytes fit, which for an item made as one of `n` bytes is up to the next
/// multiple of 8 above `n`, and 8 for any other. What does not fit is an error that changes nothing.
///
/// What differs from CPython's: strs are sized by their bytes and not by their characters, so none is cut; NUL bytes at
/// the end of a str or bytes survive between Rust processes (CPython reads the value without them); deleting an item sets
/// it to None.
///
/// # Other processes
///
/// Any number of processes and threads may read and write the same items at once.
///
/// - Ints, floats, bools and None are never torn. They are read without a lock, and written without one where the item has
///   that type already: tens of nanoseconds. The same holds for reading strs and bytes in a slot of 8 bytes.
/// - A write that changes the type, and every write of a str or bytes, takes the block's lock, which is the kernel's: one or
///   two microseconds. So does reading a longer str or bytes. What is read was written as a whole by one process.
/// - CPython takes no locks: a str that it writes while it is read here may come as a mixture of old and new, which is
///   valid UTF-8 or an error; an item whose type it changes may show the old data under the new type. Where that
///   matters let Python lock too: `fcntl.lockf(list.shm._fd, fcntl.LOCK_EX, 2**62, 0)`. CPython in turn may see an item
///   that is being written here as None for a moment, unless it is a number that stays one of the same type.
/// - A process that is killed in the middle of a locked write leaves an item that is an [`ErrorKind::Layout`] error to read,
///   until somebody sets it again; to Python it is None.
///
/// Whatever a block contains, and whatever another process writes to it later, no call reads outside of it: where the
/// items lie is read once, when attaching. Only cutting its file short is fatal, as for any [`SharedMemory`].
///
/// # Ownership
///
/// As for [`SharedMemory`]: who creates a list owns its name and removes it when dropped, unless [`keep`](Self::keep) was
/// called; who attaches owns nothing. In a forked child every call that needs the block is an [`ErrorKind::Closed`] error.
///
/// A Python process, of any version, removes a list that it has merely attached to when it ends, kept or not, unless it
/// is told not to:
///
/// ```python
/// from multiprocessing import resource_tracker, shared_memory
///
/// items = shared_memory.ShareableList(name="the name")
/// resource_tracker.unregister(items.shm._name, "shared_memory")
/// ```
///
/// # Examples
///
/// ```
/// use ndshm::{ShareableList, Value, shareable_list};
///
/// let list = shareable_list![1, 2.5, "abc", b"xyz", true, None]?;
/// list.set(0, 42)?;
/// list.set(2, "shorter")?;
///
/// // In another process, given the name; in Python `ShareableList(name=...)`.
/// let other = ShareableList::attach(list.shm().name().expect("created with a name"))?;
/// assert_eq!(other.get(0)?, Value::Int(42));
/// assert_eq!(i64::try_from(other.get(0)?)?, 42);
/// other.set(5, -1.5)?;
/// assert_eq!(list.slice(3..)?, [Value::from(b"xyz"), Value::from(true), Value::from(-1.5)]);
/// # Ok::<(), ndshm::Error>(())
/// ```
#[doc(alias = "multiprocessing.shared_memory.ShareableList")]
pub struct ShareableList {
    memory: SharedMemory,
    /// Of `memory`, which is never exchanged for another: the layout's total lies within it.
    layout: ListLayout,
}

impl ShareableList {
    /// The number of items, which never changes.
    pub fn len(&self) -> usize {
        self.layout.len()
    }

    /// Whether it has no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The block that the list is in, which may be longer than the list: its name, size and descriptor.
    pub fn shm(&self) -> &SharedMemory {
        &self.memory
    }

    pub(crate) fn shm_mut(&mut self) -> &mut SharedMemory {
        &mut self.memory
    }

    /// Ends this handle on the list and gives back the block, with the ownership of its name.
    pub fn into_shm(self) -> SharedMemory {
        self.memory
    }

    /// Leaves the name where it is when this handle is dropped, as [`SharedMemory::keep`] does.
    pub fn keep(&mut self) {
        self.memory.keep();
    }

    /// Removes the name now, as [`SharedMemory::unlink`] does. Who has the list attached keeps it.
    ///
    /// # Errors
    ///
    /// As for [`SharedMemory::unlink`].
    #[doc(alias = "shm_unlink")]
    pub fn unlink(&mut self) -> Result<()> {
        self.memory.unlink()
    }

    /// The value of item `index`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] where there is no such item; [`ErrorKind::Layout`] for an item that is damaged, such
    /// as a str that CPython has cut in the middle of a character, or half written; [`ErrorKind::Closed`] in a forked
    /// child.
    ///
    /// # Examples
    ///
    /// ```
    /// let list = ndshm::ShareableList::new(["a", "b"])?;
    /// assert_eq!(list.get(1)?.as_str(), Some("b"));
    /// assert!(list.get(2).is_err());
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    #[doc(alias = "__getitem__")]
    #[inline]
    pub fn get(&self, index: usize) -> Result<Value> {
        let words = self.words()?;
        if let Some(value) = self.layout.place(index).and_then(|place| item::glance(words, place)) {
            return Ok(value);
        }
        self.get_closely(index)
    }

    #[inline(never)]
    fn get_closely(&self, index: usize) -> Result<Value> {
        self.item(self.words()?, index)?.get(self.memory.lock())
    }

    /// Overwrites item `index`. Whatever the error, the item is as it was.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidSize`] where a str or bytes has more bytes than the item's slot, or ends in more NUL bytes than
    /// can be noted beside it; [`ErrorKind::InvalidArgument`] where there is no such item; [`ErrorKind::Permission`] where
    /// the list was attached read-only; [`ErrorKind::WouldBlock`] where this thread holds a guard of the same block;
    /// [`ErrorKind::Closed`] in a forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{ErrorKind, ShareableList, Value};
    ///
    /// let list = ShareableList::new(["tea", "a longer text"])?;
    /// let error = list.set(0, "coffee and cake").unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::InvalidSize);
    /// assert_eq!(error.to_string(), "found 15 bytes, expected at most the 8 of the slot of item 0");
    /// assert_eq!(list.get(0)?, Value::from("tea"));
    /// list.set(1, "coffee and cake")?;
    /// list.set(0, 7)?;
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    #[doc(alias = "__setitem__")]
    pub fn set(&self, index: usize, value: impl Into<Value>) -> Result<()> {
        self.set_value(index, &value.into())
    }

    fn set_value(&self, index: usize, value: &Value) -> Result<()> {
        let item = self.item(self.writable_words()?, index)?;
        if item.overwrite(value) {
            return Ok(());
        }
        let new = Encoded::new(value, index, item.slot())?;
        self.memory.lock().with_exclusive(|| item.replace(&new))
    }

    /// The values of the items of a range, all of them read under one lock. Numbers may change meanwhile, strs and bytes
    /// that are written here cannot.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] where the range does not lie in the list or ends before it starts, otherwise as for
    /// [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// let list = ndshm::ShareableList::new(0..5)?;
    /// let ints: Vec<_> = list.slice(1..=2)?.iter().filter_map(|value| value.as_int()).collect();
    /// assert_eq!(ints, [1, 2]);
    /// assert!(list.slice(3..6).is_err());
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<Vec<Value>> {
        let range = self.range(&range)?;
        let mut values = Vec::with_capacity(range.len());
        self.visit(range, |_, value| {
            values.push(value);
            true
        })?;
        Ok(values)
    }

    /// Sets item `index` to None; the length stays.
    ///
    /// # Errors
    ///
    /// As for [`set`](Self::set), sizes apart.
    #[doc(alias = "__delitem__")]
    pub fn delete(&self, index: usize) -> Result<()> {
        self.set_value(index, &Value::None)
    }

    /// Sets the items of a range to None; the length stays.
    ///
    /// # Errors
    ///
    /// As for [`slice`](Self::slice) and [`delete`](Self::delete).
    ///
    /// # Examples
    ///
    /// ```
    /// let list = ndshm::ShareableList::new(0..5)?;
    /// list.delete_range(2..4)?;
    /// assert_eq!((list.count(&ndshm::Value::None)?, list.len()), (2, 5));
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn delete_range(&self, range: impl RangeBounds<usize>) -> Result<()> {
        let range = self.range(&range)?;
        let words = self.writable_words()?;
        self.memory.lock().with_exclusive(|| {
            for index in range {
                let item = self.item(words, index)?;
                if !item.overwrite(&Value::None) {
                    item.replace(&Encoded::NONE);
                }
            }
            Ok(())
        })?
    }

    /// How many items equal `value`, as Python's `==` sees it: [`Value::python_eq`].
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// let list = ndshm::shareable_list![1, 1.0, true, "1", None]?;
    /// assert_eq!(list.count(&1.into())?, 3);
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn count(&self, value: &Value) -> Result<usize> {
        let mut count = 0;
        self.visit(0..self.len(), |_, found| {
            count += usize::from(found.python_eq(value));
            true
        })?;
        Ok(count)
    }

    /// The first item that equals `value`, as Python's `==` sees it: [`Value::python_eq`]. `None` where Python raises.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// let list = ndshm::shareable_list!["zero", 1.0, 1]?;
    /// assert_eq!(list.index(&1.into())?, Some(1));
    /// assert_eq!(list.index(&2.into())?, None);
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn index(&self, value: &Value) -> Result<Option<usize>> {
        let mut first = None;
        self.visit(0..self.len(), |index, found| {
            first = found.python_eq(value).then_some(index);
            first.is_none()
        })?;
        Ok(first)
    }

    /// The `struct` formats of all items in a row, as Python's `format` gives them.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// assert_eq!(ndshm::shareable_list![1, 2.5, "abc", None]?.format()?, "qd8sxxxxxx?x");
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn format(&self) -> Result<String> {
        let words = self.words()?;
        self.memory
            .lock()
            .with_shared(|| (0..self.len()).map(|index| self.item(words, index)?.format_locked()).collect())?
    }

    /// The items one after another, each read when its turn comes.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{ShareableList, Value};
    ///
    /// let list = ShareableList::new([1.5, 2.5])?;
    /// let values = list.iter().collect::<ndshm::Result<Vec<_>>>()?;
    /// assert_eq!(values, [Value::Float(1.5), Value::Float(2.5)]);
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    #[doc(alias = "__iter__")]
    pub fn iter(&self) -> ListIter<'_> {
        ListIter::new(self)
    }

    /// Reads the items of a range that lies in the list, under one lock, for as long as `next` says so.
    fn visit(&self, range: Range<usize>, mut next: impl FnMut(usize, Value) -> bool) -> Result<()> {
        let words = self.words()?;
        self.memory.lock().with_shared(|| {
            for index in range {
                let glance = self.layout.place(index).and_then(|place| item::glance(words, place));
                let value = match glance {
                    Some(value) => value,
                    None => self.item(words, index)?.get_locked()?,
                };
                if !next(index, value) {
                    break;
                }
            }
            Ok(())
        })?
    }

    #[inline]
    fn item<'a>(&self, words: Words<'a>, index: usize) -> Result<Item<'a>> {
        match self.layout.place(index) {
            Some(place) => Ok(Item::new(words, place, index)),
            None => Err(self.no_item(index)),
        }
    }

    #[inline]
    fn words(&self) -> Result<Words<'_>> {
        Words::of(self.memory.mapping())
    }

    fn writable_words(&self) -> Result<Words<'_>> {
        if self.memory.mapping().access() == Access::ReadOnly {
            let message = "this list was attached read-only; attach to it for writing";
            return Err(Error::new(ErrorKind::Permission, message));
        }
        self.words()
    }

    #[cold]
    fn no_item(&self, index: usize) -> Error {
        let message = format!("found index {index}, expected one below the length {}", self.len());
        Error::new(ErrorKind::InvalidArgument, message)
    }

    fn range(&self, range: &impl RangeBounds<usize>) -> Result<Range<usize>> {
        let start = match range.start_bound() {
            Bound::Included(&start) => Some(start),
            Bound::Excluded(&before) => before.checked_add(1),
            Bound::Unbounded => Some(0),
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.checked_add(1),
            Bound::Excluded(&end) => Some(end),
            Bound::Unbounded => Some(self.len()),
        };
        match (start, end) {
            (Some(start), Some(end)) if start <= end && end <= self.len() => Ok(start..end),
            _ => {
                let found = (range.start_bound(), range.end_bound());
                let message = format!("found range {found:?}, expected one that lies in 0..{}", self.len());
                Err(Error::new(ErrorKind::InvalidArgument, message))
            }
        }
    }
}
