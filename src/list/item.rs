//! How one item is read and written while others read and write it.
//!
//! An item is three things that cannot change at once: a format (one word), a code (one byte) and its data (a word or
//! more). What keeps them together between handles and processes of this crate:
//!
//! ```text
//! set, same type, int, float or bool   enter the format (visitors) → code still there? → store the word → leave
//! set, anything else                   lock the block → code := 3 → wait until no visitor is inside
//!                                      → format → data → code
//! get, up to 4096 bytes of data        look, copy, look, compare the data, take it when all of it was the same twice
//! get, longer, or it did not hold still   lock the block (shared), look, copy, look
//! ```
//!
//! - A code of 3 beside a format other than None's means that the item is being changed. A visitor that finds it leaves
//!   again without having stored anything; a reader looks again, and if that does not help it locks the block, which
//!   waits for the writer. CPython reads such an item as None.
//! - A visitor announces itself before it loads the code, and a writer stores the code before it loads the announcement,
//!   both sequentially consistent: at least one of the two sees the other. So no visitor stores an int where a float
//!   has come in its place.
//! - A visitor may have died inside. A writer waits [`PATIENCE`] for it, once: it then writes a format without visitors.
//! - Who leaves and finds that it is not counted any more (CPython has written the item) sets the item once more, locked.
//! - A look that is repeated catches a single change of the item. To be deceived by changes there and back, a reader would
//!   have to be interrupted between each of its steps, at the same word both times where there are several, each time for
//!   as long as a writer takes to lock, change and unlock.
//!
//! CPython takes no locks and writes format, code and data in this order. What it writes at the same time as others
//! therefore may be seen half done, as in Python itself: a number under its new type before its data is there, a mixture
//! of two strs. Whatever is seen is checked as if an enemy had written it: the extent of the item is known from when the
//! list was attached, formats and codes are judged at each look, and a str is valid UTF-8 or an error.

use std::time::{Duration, Instant};

use super::value::Value;
use super::words::{Byte, Word, Words};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::list::Place;
use crate::layout::list::WORD;
use crate::layout::list::format::{
    self, CODE_BYTES, CODE_NONE, CODE_PLAIN, CODE_STR, Format, ItemType, TRUE, Text, most_nuls, text_format,
};
use crate::layout::list::visitors::{self, Plain};
use crate::memory::LockHandle;

/// How often a reader looks before it locks the block, and a visitor tries to enter.
const TRIES: u32 = 16;

/// How long a writer waits for visitors to leave, which takes them nanoseconds unless they are stopped or dead, or their
/// processor is somebody else's for a while: what such a one stores later would be a number under another's type until it
/// notices.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a reader that has the block locked waits for an item to become whole, which only a writer that takes no locks
/// can keep it from.
const HALF_WRITTEN: Duration = Duration::from_millis(1);

/// The longest str or bytes that is read without a lock, by comparing it twice: for longer ones the lock costs less.
const LONG: usize = 4096;

/// What a format field and a code say at one moment.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    format: u64,
    code: u8,
}

/// What an item is to become.
#[derive(Clone, Copy)]
pub(super) struct Encoded<'a> {
    pub(super) format: u64,
    pub(super) code: u8,
    pub(super) data: Data<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Data<'a> {
    /// The slot's first word; the others stay as they are.
    Word(u64),
    /// The whole slot, with NUL after these bytes.
    Slot(&'a [u8]),
}

impl<'a> Encoded<'a> {
    /// `None` of the list's length fits every slot; a text that does not fit `slot` is an error that names `item`.
    pub(super) fn new(value: &'a Value, item: usize, slot: usize) -> Result<Self> {
        let plain = |format, word| Self { format, code: CODE_PLAIN, data: Data::Word(word) };
        Ok(match value {
            Value::Int(value) => plain(format::INT, value.cast_unsigned()),
            Value::Float(value) => plain(format::FLOAT, value.to_bits()),
            Value::Bool(value) => plain(format::BOOL, if *value { TRUE } else { 0 }),
            Value::None => Self::NONE,
            Value::Str(text) => Self::text(text.as_bytes(), CODE_STR, item, slot)?,
            Value::Bytes(bytes) => Self::text(bytes, CODE_BYTES, item, slot)?,
        })
    }

    pub(super) const NONE: Encoded<'static> = Encoded { format: format::NONE, code: CODE_NONE, data: Data::Word(0) };

    fn text(bytes: &'a [u8], code: u8, item: usize, slot: usize) -> Result<Self> {
        if bytes.len() > slot {
            let message =
                format!("found {} bytes, expected at most the {slot} of the slot of item {item}", bytes.len());
            return Err(Error::new(ErrorKind::InvalidSize, message));
        }
        let nuls = trailing_nuls(bytes);
        let format = text_format(slot, nuls).ok_or_else(|| {
            let most = most_nuls(slot);
            let message = format!(
                "found a value that ends in {nuls} NUL bytes, expected at most {most}, whose number fits beside the slot \
                 of {slot} bytes of item {item}"
            );
            Error::new(ErrorKind::InvalidSize, message)
        })?;
        Ok(Self { format, code, data: Data::Slot(bytes) })
    }
}

fn trailing_nuls(bytes: &[u8]) -> usize {
    bytes.iter().rev().take_while(|&&byte| byte == 0).count()
}

/// Reads a number, bool or None that holds still: what [`Item::get`] does, for most of the items that are read.
#[inline]
pub(super) fn glance(words: Words<'_>, place: Place) -> Option<Value> {
    let (format, code, data) = (words.word(place.format), words.byte(place.code), words.word(place.data));
    let (seen, of, word) = (format.load(), code.load(), data.load());
    if seen != format.load() || of != code.load() || word != data.load() {
        return None;
    }
    match (seen, of) {
        (format::INT, CODE_PLAIN) => Some(Value::Int(word.cast_signed())),
        (format::FLOAT, CODE_PLAIN) => Some(Value::Float(f64::from_bits(word))),
        (format::BOOL, CODE_PLAIN) => Some(Value::Bool(is_true(word))),
        (format::NONE, CODE_NONE) => Some(Value::None),
        _ => None,
    }
}

/// As Python has it: any byte but 0 is true.
fn is_true(word: u64) -> bool {
    word >> 56 != 0
}

/// One item of a mapped list.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    words: Words<'a>,
    place: Place,
    index: usize,
    format: Word<'a>,
    code: Byte<'a>,
    /// The first word of the slot, which for most is all of it.
    first: Word<'a>,
}

impl<'a> Item<'a> {
    #[inline]
    pub(super) fn new(words: Words<'a>, place: Place, index: usize) -> Self {
        let (format, code, first) = (words.word(place.format), words.byte(place.code), words.word(place.data));
        Self { words, place, index, format, code, first }
    }

    /// Reads the item; the lock is the block's.
    pub(super) fn get(&self, lock: &LockHandle) -> Result<Value> {
        match self.read() {
            Some(value) => Ok(value),
            None => lock.with_shared(|| self.read_locked())?,
        }
    }

    /// Reads the item under the block's lock, shared or exclusive.
    pub(super) fn get_locked(&self) -> Result<Value> {
        self.read().map_or_else(|| self.read_locked(), Ok)
    }

    /// The bytes that this item has room for.
    pub(super) fn slot(&self) -> usize {
        self.place.slot
    }

    /// Format first, then code, then data: see the module on what a writer does.
    #[inline]
    fn look(&self) -> Look {
        let format = self.format.load();
        Look { format, code: self.code.load() }
    }

    #[inline]
    fn judge(&self, look: Look) -> Option<ItemType> {
        Format::parse(look.format, self.place.slot)?.with_code(look.code)
    }

    /// Reads what can be read without a lock: all but what is long or does not hold still.
    fn read(&self) -> Option<Value> {
        for _ in 0..TRIES {
            let seen = self.judge(self.look());
            let word = self.first.load();
            // Visitors change the format and not what it says. The word once more: see the module on changes there and
            // back.
            if seen.is_some() && seen == self.judge(self.look()) && word == self.first.load() {
                return self.word_value(seen?, word).or_else(|| self.read_twice(seen?));
            }
            std::hint::spin_loop();
        }
        None
    }

    /// The value, where a word is all of it and makes one.
    #[inline]
    fn word_value(&self, item: ItemType, word: u64) -> Option<Value> {
        Some(match item {
            ItemType::Int => Value::Int(word.cast_signed()),
            ItemType::Float => Value::Float(f64::from_bits(word)),
            ItemType::Bool => Value::Bool(is_true(word)),
            ItemType::None => Value::None,
            ItemType::Str(text) | ItemType::Bytes(text) => {
                let bytes = word.to_le_bytes();
                return self.bytes_value(item, bytes.get(..text.len)?.to_vec()).ok();
            }
        })
    }

    /// A str or bytes that was the same twice, with nobody writing it before, between and after.
    fn read_twice(&self, item: ItemType) -> Option<Value> {
        let (ItemType::Str(text) | ItemType::Bytes(text)) = item else { return None };
        if text.len > LONG {
            return None;
        }
        for _ in 0..TRIES {
            let bytes = self.copy(text.len).ok()?;
            let between = self.judge(self.look());
            let same = self.words.are(self.place.data, &bytes);
            if between != Some(item) || self.judge(self.look()) != Some(item) {
                return None;
            }
            if same {
                return self.bytes_value(item, bytes).ok();
            }
        }
        None
    }

    /// A str or bytes from all that its format covers.
    fn bytes_value(&self, item: ItemType, mut bytes: Vec<u8>) -> Result<Value> {
        let (ItemType::Str(Text { nuls, .. }) | ItemType::Bytes(Text { nuls, .. })) = item else {
            return Err(self.half_written());
        };
        let padding = trailing_nuls(&bytes);
        let Some(surplus) = padding.checked_sub(nuls) else {
            let message = format!(
                "item {} is damaged: found {padding} NUL bytes at its end, expected at least {nuls}",
                self.index
            );
            return Err(Error::new(ErrorKind::Layout, message));
        };
        bytes.truncate(bytes.len() - surplus);
        if matches!(item, ItemType::Bytes(_)) {
            return Ok(Value::Bytes(bytes));
        }
        String::from_utf8(bytes).map(Value::Str).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let message = format!(
                "item {} is a str that cannot be decoded: found no UTF-8 at byte {at} of {}, as where CPython has cut a \
                 str with more bytes than characters",
                self.index,
                error.as_bytes().len()
            );
            Error::new(ErrorKind::Layout, message).with_source(error)
        })
    }

    /// Reads whatever is there. The block is locked.
    fn read_locked(&self) -> Result<Value> {
        let mut waiting = Waiting::at_most(HALF_WRITTEN);
        loop {
            let seen = self.judge(self.look());
            let read = seen.map(|seen| self.read_as(seen));
            let held_still = self.judge(self.look()) == seen;
            match read {
                Some(Ok(value)) if held_still => return Ok(value),
                // It is all there, as far as one can see: it gets better at once or not at all.
                Some(Err(error)) if held_still => {
                    if !waiting.spin() {
                        return Err(error);
                    }
                }
                _ => {
                    if !waiting.pause() {
                        return Err(self.half_written());
                    }
                }
            }
        }
    }

    fn read_as(&self, item: ItemType) -> Result<Value> {
        match item {
            ItemType::Str(text) | ItemType::Bytes(text) => self.bytes_value(item, self.copy(text.len)?),
            _ => self.word_value(item, self.first.load()).ok_or_else(|| self.half_written()),
        }
    }

    fn copy(&self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(len).is_err() {
            let message = format!("there is no memory for the {len} bytes of item {}", self.index);
            return Err(Error::new(ErrorKind::NoSpace, message));
        }
        bytes.resize(len, 0);
        self.words.copy_out(self.place.data, &mut bytes);
        Ok(bytes)
    }

    /// The format as CPython would show it. The block is locked.
    pub(super) fn format_locked(&self) -> Result<String> {
        let stored = self.format.load();
        let Some(format) = Format::parse(stored, self.place.slot) else { return Err(self.half_written()) };
        let text = match format {
            Format::Int => format::INT,
            Format::Float => format::FLOAT,
            Format::Bool => format::BOOL,
            Format::None => format::NONE,
            Format::Text(_) => stored,
        };
        // ASCII, as `parse` has it.
        Ok(text.to_le_bytes().iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte)).collect())
    }

    #[cold]
    fn half_written(&self) -> Error {
        let stored = self.format.load();
        let code = self.code.load().cast_signed();
        let message = format!(
            "item {} is damaged, or its writer stopped halfway: found format {} and code {code}, in a slot of {} bytes; \
             setting it makes it whole",
            self.index,
            format::show(stored),
            self.place.slot
        );
        Error::new(ErrorKind::Layout, message)
    }

    /// Overwrites an int, float or bool by one of the same type, or None by None, without a lock; `false` where it is
    /// anything else, or where a lock is better.
    #[inline]
    pub(super) fn overwrite(&self, value: &Value) -> bool {
        match value {
            Value::Int(value) => self.visit(Plain::Int, value.cast_unsigned()),
            Value::Float(value) => self.visit(Plain::Float, value.to_bits()),
            Value::Bool(value) => self.visit(Plain::Bool, if *value { TRUE } else { 0 }),
            Value::None => self.judge(self.look()) == Some(ItemType::None),
            Value::Str(_) | Value::Bytes(_) => false,
        }
    }

    #[inline]
    fn visit(&self, plain: Plain, word: u64) -> bool {
        self.words.check_writable();
        let mut seen = self.format.load();
        for _ in 0..TRIES {
            let Some(entered) = plain.enter(seen) else { return false };
            if let Err(found) = self.format.exchange(seen, entered) {
                seen = found;
                continue;
            }
            let open = self.code.load_in_order() == CODE_PLAIN;
            if open {
                self.first.store(word);
            }
            return self.leave(plain, entered) && open;
        }
        false
    }

    /// `false` where this visitor is not counted any more.
    #[inline]
    fn leave(&self, plain: Plain, mut seen: u64) -> bool {
        while let Some(left) = plain.leave(seen) {
            match self.format.exchange(seen, left) {
                Ok(()) => return true,
                Err(found) => seen = found,
            }
        }
        false
    }

    /// Makes the item something else. The block is locked exclusively, and `new` was encoded for this item's slot.
    pub(super) fn replace(&self, new: &Encoded<'_>) {
        self.words.check_writable();
        if self.place.slot == WORD && self.look() == (Look { format: new.format, code: new.code }) {
            // One word, which nobody sees half done.
            return self.store(new.data);
        }
        self.code.store(CODE_NONE);
        let mut waiting = Waiting::at_most(PATIENCE);
        while visitors::any_inside(self.format.load_in_order()) && waiting.pause() {}
        if new.code == CODE_NONE {
            self.store(new.data);
            self.format.store(new.format);
        } else {
            self.format.store(new.format);
            self.store(new.data);
            self.code.store(new.code);
        }
    }

    fn store(&self, data: Data<'_>) {
        match data {
            Data::Word(word) => self.first.store(word),
            Data::Slot(bytes) => self.words.copy_in(self.place.data, bytes, self.place.slot),
        }
    }

    /// Fills in an item of a list that nobody else can find yet; its code is the caller's to write.
    pub(super) fn initialize(&self, new: &Encoded<'_>) {
        self.words.check_writable();
        self.store(new.data);
        self.format.store(new.format);
    }
}

/// Waits for other processes: spinning first, then asleep in short pieces.
struct Waiting {
    start: Option<Instant>,
    limit: Duration,
}

impl Waiting {
    const SPINNING: Duration = Duration::from_micros(20);

    fn at_most(limit: Duration) -> Self {
        Self { start: None, limit }
    }

    fn elapsed(&mut self) -> Duration {
        self.start.get_or_insert_with(Instant::now).elapsed()
    }

    /// `false` where spinning has had its time.
    fn spin(&mut self) -> bool {
        std::hint::spin_loop();
        self.elapsed() < Self::SPINNING
    }

    /// `false` where it has waited long enough.
    fn pause(&mut self) -> bool {
        if !self.spin() {
            std::thread::sleep(Duration::from_micros(50));
        }
        self.elapsed() < self.limit
    }
}
