//! [`Value`]: what an item of a list can be.

mod bytes;
mod convert;
mod python;

use serde::{Deserialize, Serialize};

/// An item of a [`ShareableList`](super::ShareableList): what CPython's can hold.
///
/// `From` makes one of Rust's own types, `TryFrom` turns it back. `==` compares as Rust does, type and contents;
/// [`python_eq`](Self::python_eq) compares as Python does. `Display` prints it as Python's `repr` would.
///
/// # Examples
///
/// ```
/// use ndshm::Value;
///
/// let value = Value::from("größe");
/// assert_eq!(value.as_str(), Some("größe"));
/// assert_eq!(Value::from(3), Value::Int(3));
/// assert_eq!(Value::from(None::<f64>), Value::None);
/// assert_eq!(f64::try_from(Value::Float(2.5))?, 2.5);
/// assert_eq!(format!("{} {} {}", Value::from(true), Value::from(1e16), Value::from(b"x\0")), r"True 1e+16 b'x\x00'");
/// # Ok::<(), ndshm::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// Python's `int`, as far as 64 bits go.
    Int(i64),
    /// Python's `float`.
    Float(f64),
    /// Python's `bool`.
    Bool(bool),
    /// Python's `str`: at most 9,999,991 bytes of UTF-8.
    Str(String),
    /// Python's `bytes`: at most 9,999,991 of them.
    Bytes(#[serde(with = "bytes")] Vec<u8>),
    /// Python's `None`.
    #[default]
    None,
}

impl Value {
    /// What Python calls its type: `int`, `float`, `bool`, `str`, `bytes` or `NoneType`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Bool(_) => "bool",
            Self::Str(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::None => "NoneType",
        }
    }

    /// The number of an [`Int`](Self::Int).
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The number of a [`Float`](Self::Float).
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The truth of a [`Bool`](Self::Bool).
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The text of a [`Str`](Self::Str).
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(value) => Some(value),
            _ => None,
        }
    }

    /// The contents of [`Bytes`](Self::Bytes).
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(value) => Some(value),
            _ => None,
        }
    }

    /// Whether it is [`None`](Self::None).
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}
