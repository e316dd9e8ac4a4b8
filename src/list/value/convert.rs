//! Values from Rust's types and back.

use std::borrow::Cow;

use super::Value;
use crate::error::{Error, ErrorKind, Result};

/// Types that always fit.
macro_rules! from {
    ($($variant:ident($($type:ty),*);)*) => {$($(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
    )*)*};
}

from! {
    Int(i8, i16, i32, i64, u8, u16, u32);
    Float(f32, f64);
    Bool(bool);
    Str(&str, String, Box<str>, char, &String, Cow<'_, str>);
    Bytes(&[u8], Vec<u8>, Box<[u8]>, Cow<'_, [u8]>);
}

impl From<&Vec<u8>> for Value {
    fn from(value: &Vec<u8>) -> Self {
        Self::Bytes(value.clone())
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(value: &[u8; N]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl<const N: usize> From<[u8; N]> for Value {
    fn from(value: [u8; N]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl From<()> for Value {
    fn from((): ()) -> Self {
        Self::None
    }
}

impl From<&Value> for Value {
    fn from(value: &Value) -> Self {
        value.clone()
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

/// Integers that may not fit 64 bits with a sign.
macro_rules! try_from {
    ($($type:ty),*) => {$(
        impl TryFrom<$type> for Value {
            type Error = Error;

            fn try_from(value: $type) -> Result<Self> {
                i64::try_from(value).map(Self::Int).map_err(|_| {
                    let message = format!("found {value}, expected an int of 64 bits: {} to {}", i64::MIN, i64::MAX);
                    Error::new(ErrorKind::InvalidArgument, message)
                })
            }
        }
    )*};
}

try_from!(u64, usize, isize, i128, u128);

fn mismatch(found: &Value, expected: &str) -> Error {
    Error::new(ErrorKind::TypeMismatch, format!("found {found}, of type {}, expected {expected}", found.type_name()))
}

/// Rust's types from the one variant that holds them; no number is turned into another kind of number.
macro_rules! into {
    ($($variant:ident($type:ty, $expected:literal);)*) => {$(
        impl TryFrom<Value> for $type {
            type Error = Error;

            fn try_from(value: Value) -> Result<Self> {
                match value {
                    Value::$variant(value) => Ok(value),
                    other => Err(mismatch(&other, $expected)),
                }
            }
        }
    )*};
}

into! {
    Int(i64, "an int");
    Float(f64, "a float");
    Bool(bool, "a bool");
    Str(String, "a str");
    Bytes(Vec<u8>, "bytes");
}

macro_rules! into_int {
    ($($type:ty),*) => {$(
        impl TryFrom<Value> for $type {
            type Error = Error;

            fn try_from(value: Value) -> Result<Self> {
                let expected = concat!("an int that fits ", stringify!($type));
                match value {
                    Value::Int(value) => Self::try_from(value).map_err(|_| mismatch(&Value::Int(value), expected)),
                    other => Err(mismatch(&other, expected)),
                }
            }
        }
    )*};
}

into_int!(i8, i16, i32, isize, i128, u8, u16, u32, u64, usize, u128);
