//! A list printed as Python prints it.

use std::fmt;

use super::{ShareableList, Value};

/// As Python's `repr`: `ShareableList([1, 2.5, 'abc'], name='ndshm_0123456789abcdef')`. An item that cannot be read is
/// shown as `<damaged>`.
impl fmt::Display for ShareableList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShareableList([")?;
        for (index, value) in self.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            match value {
                Ok(value) => write!(f, "{value}")?,
                Err(_) => f.write_str("<damaged>")?,
            }
        }
        f.write_str("]")?;
        if let Some(name) = self.shm().name() {
            write!(f, ", name={}", Value::from(name))?;
        }
        f.write_str(")")
    }
}

/// The same as `Display`.
impl fmt::Debug for ShareableList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
