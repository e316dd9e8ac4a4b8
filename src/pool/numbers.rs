//! Results that are numbers, as words.
//!
//! Many tasks return a number, or a few of them: a sum, an index, a minimum with a maximum. Such a value is up to [`MOST`]
//! words and says of each what it is. Any other value is refused here, and encoded.
//!
//! Words come from another process, so all that is read from them is checked. A type that reads something else than it
//! has written, or asks what is there, is given what the encoding would give it: where words alone do not do, they are
//! encoded after all.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::ser::{Impossible, SerializeTuple, SerializeTupleStruct, Serializer};
use serde::{Serialize, forward_to_deserialize_any};

use super::plan::encode_to;
use crate::error::Result;

/// The most numbers of one value.
pub(crate) const MOST: usize = 7;

const KIND_BITS: usize = 4;

const UNSIGNED: u32 = 1;
const SIGNED: u32 = 2;
const DOUBLE: u32 = 3;
const SINGLE: u32 = 4;
const BOOL: u32 = 5;

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
/// of one. Invariant: these are words that there are, one at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kinds(u32);

impl Kinds {
    /// What another process has written.
    pub(crate) fn of(bits: usize) -> Option<Self> {
        let bits = u32::try_from(bits).ok()?;
        let kinds = Self(bits);
        let count = kinds.count();
        let known = |at| (UNSIGNED..=BOOL).contains(&kinds.kind(at));
        (count > 0 && (count == 1 || bits & TUPLE != 0) && (0..count).all(known)).then_some(kinds)
    }

    /// How many words there are.
    #[inline]
    pub(crate) fn count(self) -> usize {
        ((u32::BITS - (self.0 & !TUPLE).leading_zeros()) as usize).div_ceil(KIND_BITS)
    }

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    fn kind(self, at: usize) -> u32 {
        self.0 >> (KIND_BITS * at) & ((1 << KIND_BITS) - 1)
    }
}

/// A value's words, behind room for one that says whose they are. Used again for the next value.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    kinds: u32,
    count: usize,
    /// How many a tuple has said that it has.
    announced: usize,
    words: [u64; 1 + MOST],
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

    /// The words behind `first`.
    #[inline]
    pub(crate) fn behind(&mut self, first: u64) -> &[u64] {
        self.words[0] = first;
        &self.words[..=self.count]
    }

    /// The words.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words[1..=self.count])
    }

    /// The same value encoded, appended to `bytes`.
    pub(crate) fn encode_to(&self, bytes: &mut Vec<u8>) -> Result<()> {
        encode_to(bytes, &Found { kinds: self.kinds(), words: self.as_bytes() })
    }

    #[inline]
    fn set(&mut self, kind: u32, word: u64) -> Form {
        (self.kinds, self.count, self.words[1]) = (kind, 1, word);
        Form::Numbers
    }

    #[inline]
    fn push(&mut self, kind: u32, word: u64) -> Result<Form, Refused> {
        let place = self.words.get_mut(1 + self.count).ok_or(Refused)?;
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

    fn tuple(self, len: usize) -> Result<Self, Refused> {
        if !self.whole {
            return Err(Refused);
        }
        (self.numbers.kinds, self.numbers.count, self.numbers.announced) = (TUPLE, 0, len);
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
    type SerializeStruct = Impossible<Form, Refused>;
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
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
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
        self.tuple(len)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Self, Refused> {
        self.tuple(len)
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

/// A value's words as they came from a task.
#[derive(Clone, Copy)]
pub(super) struct Found<'w> {
    kinds: Kinds,
    words: &'w [u8],
}

impl<'w> Found<'w> {
    /// The value that begins there.
    pub(super) fn new(kinds: Kinds, words: &'w [u8]) -> Self {
        Self { kinds, words }
    }

    /// # Errors
    /// `Serialization` where they are no `R`.
    #[inline]
    pub(super) fn decode<R: DeserializeOwned>(self) -> Result<R> {
        let refused = Cell::new(false);
        match R::deserialize(Reading { found: self, refused: &refused }) {
            Ok(value) if !refused.get() => Ok(value),
            Ok(_) | Err(Refused) => self.decode_encoded(),
        }
    }

    #[cold]
    fn decode_encoded<R: DeserializeOwned>(self) -> Result<R> {
        let mut bytes = Vec::new();
        encode_to(&mut bytes, &self)?;
        super::results::decode(&bytes)
    }

    /// The number at that place of a tuple.
    #[inline]
    fn element(self, at: usize) -> Option<Self> {
        let words = self.words.get(at * size_of::<u64>()..)?;
        (at < self.kinds.count()).then(|| Self { kinds: Kinds(self.kinds.kind(at)), words })
    }

    /// A single number.
    #[inline]
    fn number(self) -> Result<Number, Refused> {
        let word = u64::from_ne_bytes(*self.words.first_chunk().ok_or(Refused)?);
        match self.kinds.0 {
            UNSIGNED => Ok(Number::Unsigned(word)),
            SIGNED => Ok(Number::Signed(word.cast_signed())),
            DOUBLE => Ok(Number::Double(f64::from_bits(word))),
            SINGLE => u32::try_from(word).map(|bits| Number::Single(f32::from_bits(bits))).map_err(|_| Refused),
            BOOL if word <= 1 => Ok(Number::Bool(word == 1)),
            _ => Err(Refused),
        }
    }

    fn is_tuple(&self) -> bool {
        self.kinds.bits() & TUPLE != 0
    }
}

enum Number {
    Unsigned(u64),
    Signed(i64),
    Double(f64),
    Single(f32),
    Bool(bool),
}

/// The same value for the encoding.
impl Serialize for Found<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error;
        if self.is_tuple() {
            let mut tuple = serializer.serialize_tuple(self.kinds.count())?;
            (0..self.kinds.count())
                .map_while(|at| self.element(at))
                .try_for_each(|number| tuple.serialize_element(&number))?;
            return tuple.end();
        }
        match self.number().map_err(|_| S::Error::custom("a number is damaged"))? {
            Number::Unsigned(value) => serializer.serialize_u64(value),
            Number::Signed(value) => serializer.serialize_i64(value),
            Number::Double(value) => serializer.serialize_f64(value),
            Number::Single(value) => serializer.serialize_f32(value),
            Number::Bool(value) => serializer.serialize_bool(value),
        }
    }
}

/// A value's words for a type that reads itself. A type may have another value at hand where something is refused; so it is
/// kept that there was.
#[derive(Clone, Copy)]
struct Reading<'w> {
    found: Found<'w>,
    refused: &'w Cell<bool>,
}

impl Reading<'_> {
    #[inline]
    fn noted<T>(self, read: Result<T, Refused>) -> Result<T, Refused> {
        if read.is_err() {
            self.refused.set(true);
        }
        read
    }

    #[inline]
    fn read<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let Self { found, refused } = self;
        if found.is_tuple() {
            let mut rest = Rest { found, refused, at: 0 };
            let value = visitor.visit_seq(&mut rest)?;
            return if rest.at == found.kinds.count() { Ok(value) } else { Err(Refused) };
        }
        match found.number()? {
            Number::Unsigned(value) => visit_unsigned(value, visitor),
            Number::Signed(value) => visit_signed(value, visitor),
            Number::Double(value) => visitor.visit_f64(value),
            Number::Single(value) => visitor.visit_f32(value),
            Number::Bool(value) => visitor.visit_bool(value),
        }
    }
}

/// By the shortest of the types that hold it, as from the encoding: some types tell them apart.
#[inline]
fn visit_unsigned<'de, V: Visitor<'de>>(value: u64, visitor: V) -> Result<V::Value, Refused> {
    if let Ok(value) = u8::try_from(value) {
        visitor.visit_u8(value)
    } else if let Ok(value) = u16::try_from(value) {
        visitor.visit_u16(value)
    } else if let Ok(value) = u32::try_from(value) {
        visitor.visit_u32(value)
    } else {
        visitor.visit_u64(value)
    }
}

/// The same; what is not negative has no sign there.
#[inline]
fn visit_signed<'de, V: Visitor<'de>>(value: i64, visitor: V) -> Result<V::Value, Refused> {
    if let Ok(value) = u64::try_from(value) {
        visit_unsigned(value, visitor)
    } else if let Ok(value) = i8::try_from(value) {
        visitor.visit_i8(value)
    } else if let Ok(value) = i16::try_from(value) {
        visitor.visit_i16(value)
    } else if let Ok(value) = i32::try_from(value) {
        visitor.visit_i32(value)
    } else {
        visitor.visit_i64(value)
    }
}

impl<'de> Deserializer<'de> for Reading<'_> {
    type Error = Refused;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.noted(self.read(visitor))
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refused> {
        self.noted(visitor.visit_newtype_struct(self))
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.noted(visitor.visit_some(self))
    }

    /// To be encoded: what is done there for an enum is not known here.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Refused> {
        self.noted(Err(Refused))
    }

    /// The same.
    fn deserialize_u128<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        self.noted(Err(Refused))
    }

    fn deserialize_i128<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        self.noted(Err(Refused))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        map struct identifier ignored_any
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// What is left of a tuple.
struct Rest<'w> {
    found: Found<'w>,
    refused: &'w Cell<bool>,
    at: usize,
}

impl<'de> SeqAccess<'de> for Rest<'_> {
    type Error = Refused;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        let Some(element) = self.found.element(self.at) else { return Ok(None) };
        self.at += 1;
        seed.deserialize(Reading { found: element, refused: self.refused }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.found.kinds.count() - self.at)
    }
}

#[cfg(test)]
#[path = "numbers_tests.rs"]
mod tests;
