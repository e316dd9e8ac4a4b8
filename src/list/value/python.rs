//! Values as Python compares and prints them.

use std::fmt::{self, Write as _};

use super::Value;

impl Value {
    /// Whether Python's `==` holds: int, float and bool are compared as the numbers that they are, exactly, str and bytes
    /// never are the same, and a NaN equals nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::Value;
    ///
    /// assert!(Value::Int(1).python_eq(&Value::Float(1.0)));
    /// assert!(Value::Int(1).python_eq(&Value::Bool(true)));
    /// assert!(!Value::Int(i64::MAX).python_eq(&Value::Float(9_223_372_036_854_775_807.0)));
    /// assert!(!Value::Float(f64::NAN).python_eq(&Value::Float(f64::NAN)));
    /// assert!(!Value::from("abc").python_eq(&Value::from(b"abc")));
    /// ```
    pub fn python_eq(&self, other: &Self) -> bool {
        match (self.number(), other.number()) {
            (Some(Number::Int(a)), Some(Number::Int(b))) => a == b,
            (Some(Number::Float(a)), Some(Number::Float(b))) => a == b,
            (Some(Number::Int(int)), Some(Number::Float(float)))
            | (Some(Number::Float(float)), Some(Number::Int(int))) => is_int(float, int),
            (None, None) => self == other,
            _ => false,
        }
    }

    fn number(&self) -> Option<Number> {
        match *self {
            Self::Int(value) => Some(Number::Int(value)),
            Self::Bool(value) => Some(Number::Int(value.into())),
            Self::Float(value) => Some(Number::Float(value)),
            _ => None,
        }
    }
}

enum Number {
    Int(i64),
    Float(f64),
}

/// Without rounding either of them.
fn is_int(float: f64, int: i64) -> bool {
    const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
    if !(-TWO_TO_63..TWO_TO_63).contains(&float) || float.fract() != 0.0 {
        return false;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a whole number in the range of an i64, as just checked")]
    let whole = float as i64;
    whole == int
}

/// As Python's `repr`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => float(f, *value),
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::None => f.write_str("None"),
            Self::Str(value) => text(f, value),
            Self::Bytes(value) => bytes(f, value),
        }
    }
}

/// Python's shortest digits are Rust's; it goes over to an exponent at other places.
fn float(f: &mut fmt::Formatter<'_>, value: f64) -> fmt::Result {
    if value.is_nan() {
        return f.write_str("nan");
    }
    let scientific = format!("{value:e}");
    match scientific.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) {
        Some((digits, exponent)) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(f, "{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        // With a point in every whole number; `inf` where there is no exponent.
        _ => write!(f, "{value:?}"),
    }
}

/// The quote that Python takes: a single one, unless there are only those inside.
fn quote(contents: &[u8]) -> char {
    if contents.contains(&b'\'') && !contents.contains(&b'"') { '"' } else { '\'' }
}

fn text(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    let quote = quote(value.as_bytes());
    f.write_char(quote)?;
    for c in value.chars() {
        match c {
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\\' => f.write_str("\\\\")?,
            _ if c == quote => write!(f, "\\{c}")?,
            '\0'..' ' | '\x7f'..'\u{a1}' | '\u{ad}' => write!(f, "\\x{:02x}", u32::from(c))?,
            _ if !is_printable(c) => match u32::from(c) {
                code @ ..=0xffff => write!(f, "\\u{code:04x}")?,
                code => write!(f, "\\U{code:08x}")?,
            },
            _ => f.write_char(c)?,
        }
    }
    f.write_char(quote)
}

/// What Rust escapes behind another character, Python does too: separators, formatting and what is not assigned.
fn is_printable(c: char) -> bool {
    c.is_ascii() || String::from_iter(['a', c]).escape_debug().nth(2).is_none()
}

fn bytes(f: &mut fmt::Formatter<'_>, value: &[u8]) -> fmt::Result {
    let quote = quote(value);
    write!(f, "b{quote}")?;
    for &byte in value {
        match byte {
            b'\n' => f.write_str("\\n")?,
            b'\r' => f.write_str("\\r")?,
            b'\t' => f.write_str("\\t")?,
            b'\\' => f.write_str("\\\\")?,
            _ if char::from(byte) == quote => write!(f, "\\{quote}")?,
            b' '..=b'~' => f.write_char(char::from(byte))?,
            _ => write!(f, "\\x{byte:02x}")?,
        }
    }
    f.write_char(quote)
}
