//! A type reads itself from words that came from a task.

use std::cell::Cell;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeTuple, Serializer};
use serde::{Serialize, forward_to_deserialize_any};
use smallvec::SmallVec;

use super::{BOOL, DOUBLE, Kinds, MOST, Refused, SIGNED, SINGLE, TUPLE, UNSIGNED};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::plan::encode_to;
use crate::pool::results::decode;

/// What stands in place of kinds with a name itself.
const NAME: u32 = 0;

/// Appends the values that `words` are, one after another; their names are those in front of them.
///
/// # Errors
/// `Serialization` where they are no `R`s.
pub(crate) fn decode_all<R: DeserializeOwned>(
    (kinds, names): (Kinds, &[u64]),
    words: &[u64],
    values: &mut Vec<R>,
) -> Result<()> {
    match kinds.0 {
        // What is mostly returned: known here, kinds need no look for each value.
        UNSIGNED => decode_singles::<R, UNSIGNED>(words, values),
        DOUBLE => decode_singles::<R, DOUBLE>(words, values),
        _ => {
            let names = names_in(kinds, names)
                .ok_or_else(|| Error::new(ErrorKind::Serialization, "the names of a task's result are damaged"))?;
            words.chunks_exact(kinds.count()).try_for_each(|words| {
                values.push(Found { kinds, names: &names, words }.decode()?);
                Ok(())
            })
        }
    }
}

#[inline]
fn decode_singles<R: DeserializeOwned, const KIND: u32>(words: &[u64], values: &mut Vec<R>) -> Result<()> {
    words.chunks(1).try_for_each(|words| {
        values.push(Found { kinds: Kinds(KIND), names: &[], words }.decode()?);
        Ok(())
    })
}

/// The names that stand in front of values.
pub(super) fn names_in(kinds: Kinds, words: &[u64]) -> Option<SmallVec<[&str; MOST]>> {
    let mut names = SmallVec::new();
    let mut rest = words;
    for _ in 0..if kinds.are_named() { kinds.count() } else { 0 } {
        let (&len, words) = rest.split_first()?;
        let len = usize::try_from(len).ok()?;
        let (name, words) = words.split_at_checked(len.div_ceil(size_of::<u64>()))?;
        names.push(str::from_utf8(bytemuck::cast_slice(name).get(..len)?).ok()?);
        rest = words;
    }
    Some(names)
}

/// A value's words, and their names where they have some. Or one of these names.
#[derive(Clone, Copy)]
pub(super) struct Found<'w> {
    kinds: Kinds,
    names: &'w [&'w str],
    words: &'w [u64],
}

impl<'w> Found<'w> {
    pub(super) fn new(kinds: Kinds, names: &'w [&'w str], words: &'w [u64]) -> Self {
        Self { kinds, names, words }
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
        decode(&bytes)
    }

    /// The number at that place of a tuple or a struct.
    #[inline]
    fn element(self, at: usize) -> Option<Self> {
        let words = self.words.get(at..)?;
        (at < self.kinds.count()).then(|| Self { kinds: Kinds(self.kinds.kind(at)), names: &[], words })
    }

    /// Its name.
    #[inline]
    fn name(self, at: usize) -> Option<Self> {
        let names = self.names.get(at..)?;
        (!names.is_empty()).then_some(Self { kinds: Kinds(NAME), names, words: &[] })
    }

    /// Where this is a name.
    #[inline]
    fn as_name(&self) -> Option<&'w str> {
        if self.kinds.0 == NAME { self.names.first().copied() } else { None }
    }

    /// A single number.
    #[inline]
    fn number(self) -> Result<Number, Refused> {
        let word = *self.words.first().ok_or(Refused)?;
        match self.kinds.0 {
            UNSIGNED => Ok(Number::Unsigned(word)),
            SIGNED => Ok(Number::Signed(word.cast_signed())),
            DOUBLE => Ok(Number::Double(f64::from_bits(word))),
            SINGLE => u32::try_from(word).map(|bits| Number::Single(f32::from_bits(bits))).map_err(|_| Refused),
            BOOL if word <= 1 => Ok(Number::Bool(word == 1)),
            _ => Err(Refused),
        }
    }

    #[inline]
    fn is_tuple(&self) -> bool {
        self.kinds.0 & TUPLE != 0
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
        if self.kinds.are_named() {
            let mut map = serializer.serialize_map(Some(self.kinds.count()))?;
            (0..self.kinds.count())
                .map_while(|at| Some((self.names.get(at)?, self.element(at)?)))
                .try_for_each(|(name, number)| map.serialize_entry(name, &number))?;
            return map.end();
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
        if found.kinds.are_named() {
            let mut rest = Rest { found, refused, at: 0 };
            let value = visitor.visit_map(&mut rest)?;
            return if rest.at == found.kinds.count() { Ok(value) } else { Err(Refused) };
        }
        if let Some(name) = found.as_name() {
            return visitor.visit_str(name);
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

/// What is left of a tuple or a struct.
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

impl<'de> MapAccess<'de> for Rest<'_> {
    type Error = Refused;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        let Some(name) = self.found.name(self.at) else { return Ok(None) };
        seed.deserialize(Reading { found: name, refused: self.refused }).map(Some)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        let element = self.found.element(self.at).ok_or(Refused)?;
        self.at += 1;
        seed.deserialize(Reading { found: element, refused: self.refused })
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.found.kinds.count() - self.at)
    }
}
