//! Results that are numbers, as words.
//!
//! Many tasks return a number, or a few of them: a sum, an index, a minimum with a maximum, by themselves or as a struct's
//! fields. Such a value is up to [`MOST`] words and says of each what it is. Any other value is refused here, and encoded.
//!
//! One value after another is mostly of the same [`Kinds`]. So these are said once for all of them, see `records`.
//!
//! | file | idea |
//! |---|---|
//! | `mod` | a value is taken in |
//! | `reading` | a type reads itself from words |
//!
//! Words come from another process, so all that is read from them is checked. A type that reads something else than it
//! has written, or asks what is there, is given what the encoding would give it: where words alone do not do, they are
//! encoded after all.

mod reading;

use std::fmt;

use serde::Serialize;
use serde::ser::{Impossible, SerializeStruct, SerializeTuple, SerializeTupleStruct, Serializer};

use reading::Found;
pub(super) use reading::decode_all;

use super::plan::encode_to;
use crate::error::Result;

/// The most numbers of one value.
pub(crate) const MOST: usize = 7;

/// The most bytes of a field's name.
const LONGEST: usize = 64;

const KIND_BITS: usize = 4;

const UNSIGNED: u32 = 1;
const SIGNED: u32 = 2;
const DOUBLE: u32 = 3;
const SINGLE: u32 = 4;
const BOOL: u32 = 5;

/// All of these.
const KINDS: u32 = (1 << (KIND_BITS * MOST)) - 1;

/// They have names: those of a struct's fields.
const NAMED: u32 = 1 << 30;
const TUPLE: u32 = 1 << 31;

/// How a value is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// There is nothing to be written.
    Nothing,
    Numbers,
    /// Encoded.
    Bytes,
}

/// What each of a value's words is: so many bits each, none after the last one. A single number is not the same as a tuple
/// of one, nor as a struct. Invariant: these are words that there are, one at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kinds(u32);

impl Kinds {
    /// What another process has written.
    pub(crate) fn of(bits: usize) -> Option<Self> {
        let bits = u32::try_from(bits).ok()?;
        let kinds = Self(bits);
        let count = kinds.count();
        let known = |at| (UNSIGNED..=BOOL).contains(&kinds.kind(at));
        let is_whole = match bits & !KINDS {
            0 => count == 1,
            TUPLE | NAMED => count > 0,
            _ => false,
        };
        (is_whole && (0..count).all(known)).then_some(kinds)
    }

    /// How many words there are.
    #[inline]
    pub(crate) fn count(self) -> usize {
        ((u32::BITS - (self.0 & KINDS).leading_zeros()) as usize).div_ceil(KIND_BITS)
    }

    fn are_named(self) -> bool {
        self.0 & NAMED != 0
    }

    /// How many words the names take in front of values of these kinds, where `word` gives each of them; `None` where
    /// nobody writes such names.
    pub(crate) fn words_of_names(self, word: impl Fn(usize) -> Option<u64>) -> Option<usize> {
        let named = if self.are_named() { self.count() } else { 0 };
        (0..named).try_fold(0, |at, _| {
            let len = usize::try_from(word(at)?).ok().filter(|&len| len <= LONGEST)?;
            Some(at + 1 + len.div_ceil(size_of::<u64>()))
        })
    }

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    fn kind(self, at: usize) -> u32 {
        self.0 >> (KIND_BITS * at) & ((1 << KIND_BITS) - 1)
    }
}

/// A value's words. Used again for the next value.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    kinds: u32,
    count: usize,
    /// How many a tuple or a struct has said that it has.
    announced: usize,
    words: [u64; MOST],
    names: [&'static str; MOST],
}

impl Numbers {
    /// Takes a value in; anything but numbers is refused by [`Form::Bytes`].
    #[inline]
    pub(crate) fn take<R: Serialize>(&mut self, value: &R) -> Form {
        // What owns something is hardly a few numbers, and to look at it in vain takes time. It may also be of those values
        // that are gone when they were written down once, such as an iterator in a mutex.
        if std::mem::needs_drop::<R>() {
            return Form::Bytes;
        }
        value.serialize(Taking { numbers: self, whole: true }).unwrap_or(Form::Bytes)
    }

    /// What was taken in; to be asked where that was numbers.
    pub(crate) fn kinds(&self) -> Kinds {
        Kinds(self.kinds)
    }

    #[inline]
    pub(crate) fn words(&self) -> &[u64] {
        &self.words[..self.count]
    }

    /// The names of its words; none where they have none.
    #[inline]
    pub(crate) fn names(&self) -> &[&'static str] {
        if self.kinds & NAMED == 0 { &[] } else { &self.names[..self.count] }
    }

    /// The names as words, in front of values.
    pub(crate) fn write_names(&self, words: &mut Vec<u64>) {
        for name in self.names() {
            words.push(name.len() as u64);
            let (whole, rest) = name.as_bytes().as_chunks();
            words.extend(whole.iter().map(|&bytes| u64::from_ne_bytes(bytes)));
            if !rest.is_empty() {
                let mut last = [0; size_of::<u64>()];
                last[..rest.len()].copy_from_slice(rest);
                words.push(u64::from_ne_bytes(last));
            }
        }
    }

    /// The same value encoded, appended to `bytes`.
    pub(crate) fn encode_to(&self, bytes: &mut Vec<u8>) -> Result<()> {
        encode_to(bytes, &Found::new(self.kinds(), self.names(), self.words()))
    }

    #[inline]
    fn set(&mut self, kind: u32, word: u64) -> Form {
        (self.kinds, self.count, self.words[0]) = (kind, 1, word);
        Form::Numbers
    }

    #[inline]
    fn push(&mut self, kind: u32, word: u64) -> Result<Form, Refused> {
        let place = self.words.get_mut(self.count).ok_or(Refused)?;
        *place = word;
        self.kinds |= kind << (KIND_BITS * self.count);
        self.count += 1;
        Ok(Form::Numbers)
    }
}

/// It is not numbers, or not these.
#[derive(Debug)]
pub(super) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not numbers")
    }
}

impl std::error::Error for Refused {}

impl serde::ser::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl serde::de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Takes in a whole value, or one number of it.
struct Taking<'n> {
    numbers: &'n mut Numbers,
    whole: bool,
}

impl Taking<'_> {
    fn nothing(self) -> Result<Form, Refused> {
        if self.whole { Ok(Form::Nothing) } else { Err(Refused) }
    }

    #[inline]
    fn several(self, kinds: u32, len: usize) -> Result<Self, Refused> {
        if !self.whole {
            return Err(Refused);
        }
        (self.numbers.kinds, self.numbers.count, self.numbers.announced) = (kinds, 0, len);
        Ok(self)
    }

    #[inline]
    fn element(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Refused> {
        let taken = value.serialize(Taking { numbers: self.numbers, whole: false });
        if taken.is_err() {
            // Also where the value goes on without it, or with another one: the encoding refuses nothing.
            self.numbers.count = MOST + 1;
        }
        taken.map(drop)
    }

    #[inline]
    fn end(self) -> Result<Form, Refused> {
        let Numbers { count, announced, .. } = *self.numbers;
        if (1..=MOST).contains(&count) && count == announced { Ok(Form::Numbers) } else { Err(Refused) }
    }
}

macro_rules! numbers {
    ($($method:ident($type:ty) $kind:ident |$value:ident| $word:expr;)*) => {$(
        #[inline]
        fn $method(self, $value: $type) -> Result<Form, Refused> {
            let word = $word;
            if self.whole { Ok(self.numbers.set($kind, word)) } else { self.numbers.push($kind, word) }
        }
    )*};
}

macro_rules! refused {
    ($($method:ident($($type:ty),*) -> $ok:ty;)*) => {$(
        #[inline]
        fn $method(self, $(_: $type),*) -> Result<$ok, Refused> {
            Err(Refused)
        }
    )*};
}

impl Serializer for Taking<'_> {
    type Ok = Form;
    type Error = Refused;
    type SerializeSeq = Impossible<Form, Refused>;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Impossible<Form, Refused>;
    type SerializeMap = Impossible<Form, Refused>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<Form, Refused>;

    numbers! {
        serialize_bool(bool) BOOL |value| value.into();
        serialize_u8(u8) UNSIGNED |value| value.into();
        serialize_u16(u16) UNSIGNED |value| value.into();
        serialize_u32(u32) UNSIGNED |value| value.into();
        serialize_u64(u64) UNSIGNED |value| value;
        serialize_i8(i8) SIGNED |value| i64::from(value).cast_unsigned();
        serialize_i16(i16) SIGNED |value| i64::from(value).cast_unsigned();
        serialize_i32(i32) SIGNED |value| i64::from(value).cast_unsigned();
        serialize_i64(i64) SIGNED |value| value.cast_unsigned();
        serialize_f32(f32) SINGLE |value| value.to_bits().into();
        serialize_f64(f64) DOUBLE |value| value.to_bits();
    }

    refused! {
        serialize_char(char) -> Form;
        serialize_str(&str) -> Form;
        serialize_bytes(&[u8]) -> Form;
        serialize_unit_struct(&'static str) -> Form;
        serialize_unit_variant(&'static str, u32, &'static str) -> Form;
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
    }

    #[inline]
    fn serialize_unit(self) -> Result<Form, Refused> {
        self.nothing()
    }

    #[inline]
    fn serialize_none(self) -> Result<Form, Refused> {
        self.nothing()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Form, Refused> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Form, Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<Form, Refused> {
        Err(Refused)
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Self, Refused> {
        self.several(TUPLE, len)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Self, Refused> {
        self.several(TUPLE, len)
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Self, Refused> {
        self.several(NAMED, len)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<Form, Refused> {
        Err(Refused)
    }

    /// As the encoding.
    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}

impl SerializeTuple for Taking<'_> {
    type Ok = Form;
    type Error = Refused;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.element(value)
    }

    #[inline]
    fn end(self) -> Result<Form, Refused> {
        Taking::end(self)
    }
}

impl SerializeTupleStruct for Taking<'_> {
    type Ok = Form;
    type Error = Refused;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.element(value)
    }

    #[inline]
    fn end(self) -> Result<Form, Refused> {
        Taking::end(self)
    }
}

impl SerializeStruct for Taking<'_> {
    type Ok = Form;
    type Error = Refused;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Refused> {
        let at = self.numbers.count;
        self.element(value)?;
        match self.numbers.names.get_mut(at) {
            Some(place) if name.len() <= LONGEST => *place = name,
            _ => self.numbers.count = MOST + 1,
        }
        Ok(())
    }

    #[inline]
    fn end(self) -> Result<Form, Refused> {
        Taking::end(self)
    }
}

#[cfg(test)]
mod tests;
