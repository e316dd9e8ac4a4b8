//! New lists, published whole.

use super::item::Encoded;
use super::words::Words;
use super::{Item, ShareableList, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::list::{ListLayout, MAX_TEXT, WORD, slot_for};
use crate::memory::{Draft, SharedMemory, SharedMemoryOptions, Target};

impl ShareableList {
    /// Creates a list of these values under a new name of the form `ndshm_0123456789abcdef`. Nobody sees it before it is
    /// complete.
    ///
    /// Values are whatever [`Value`] has a `From` for, all of one Rust type; see
    /// [`shareable_list!`](crate::shareable_list) for others.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidSize`] for a str or bytes of more than 9,999,991 bytes, and for one that ends in more NUL bytes
    /// than can be noted beside it: none from 999,992 bytes on, 5 from 99,992 on, at least 35 in a shorter one; otherwise
    /// as for [`SharedMemory::create`].
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{ShareableList, Value};
    ///
    /// let counters = ShareableList::new([0; 100])?;
    /// assert_eq!(counters.len(), 100);
    /// let names = ShareableList::new(["ada", "grace"].map(|name| name.to_uppercase()))?;
    /// assert_eq!(names.get(1)?, Value::from("GRACE"));
    /// let mixed: Vec<Value> = vec![1.into(), "one".into(), Value::None];
    /// assert_eq!(ShareableList::new(mixed)?.to_string().split(", name").next(), Some("ShareableList([1, 'one', None]"));
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn new<V: Into<Value>>(values: impl IntoIterator<Item = V>) -> Result<Self> {
        Self::create(Target::Generated, values)
    }

    /// Creates a list of these values under `name`, which follows the rules of [`SharedMemory::create_named`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`]; [`ErrorKind::AlreadyExists`] where the name is taken; and as for [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::{ErrorKind, ShareableList};
    ///
    /// let name = format!("docs-list-{}", std::process::id());
    /// let list = ShareableList::create_named(&name, [1, 2, 3])?;
    /// assert_eq!(ShareableList::attach(&name)?.len(), 3);
    /// assert_eq!(ShareableList::create_named(&name, [4]).unwrap_err().kind(), ErrorKind::AlreadyExists);
    /// # Ok::<(), ndshm::Error>(())
    /// ```
    pub fn create_named<V: Into<Value>>(name: &str, values: impl IntoIterator<Item = V>) -> Result<Self> {
        Self::create(Target::Named(name.to_owned()), values)
    }

    fn create<V: Into<Value>>(target: Target, values: impl IntoIterator<Item = V>) -> Result<Self> {
        let values: Vec<Value> = values.into_iter().map(Into::into).collect();
        Self::create_from(Draft::publish, &SharedMemory::options(), target, &values)
    }

    /// A list in a block made with `options` and published by `publish`.
    pub(crate) fn create_from(
        publish: impl FnOnce(Draft) -> Result<SharedMemory>,
        options: &SharedMemoryOptions,
        target: Target,
        values: &[Value],
    ) -> Result<Self> {
        for (index, value) in values.iter().enumerate() {
            check_len(index, value)?;
        }
        let layout = ListLayout::with_slots(values.iter().map(slot))?;
        let encode = |(index, value)| Encoded::new(value, index, slot(value));
        let codes = values.iter().enumerate().map(|item| Ok(encode(item)?.code)).collect::<Result<Vec<u8>>>()?;

        let draft = options.draft(target, layout.total())?;
        let words = Words::of(draft.mapping())?;
        words.check_writable();
        for (at, word) in layout.head().enumerate() {
            words.word(at * WORD).store(word);
        }
        for (index, value) in values.iter().enumerate() {
            if let Some(place) = layout.place(index) {
                Item::new(words, place, index).initialize(&encode((index, value))?);
            }
        }
        words.copy_in(layout.codes(), &codes, codes.len().next_multiple_of(WORD));
        Ok(Self { memory: publish(draft)?, layout })
    }
}

fn text_len(value: &Value) -> Option<usize> {
    match value {
        Value::Str(text) => Some(text.len()),
        Value::Bytes(bytes) => Some(bytes.len()),
        _ => None,
    }
}

/// The width of the slot of a new item.
fn slot(value: &Value) -> usize {
    text_len(value).map_or(WORD, slot_for)
}

fn check_len(index: usize, value: &Value) -> Result<()> {
    match text_len(value) {
        Some(len) if len > MAX_TEXT => Err(Error::new(
            ErrorKind::InvalidSize,
            format!("found {len} bytes at item {index}, expected at most {MAX_TEXT}, the most that a list can hold"),
        )),
        _ => Ok(()),
    }
}
