//! The elements of an array of any numeric type, read in pieces: nothing is mapped, so a block that is cut short meanwhile
//! is an error.

use anyhow::{Result, ensure};
use ndshm::{ArrayInfo, BlockFile};

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;

/// How an element is stored, and what of it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    Bool,
    Int {
        size: usize,
        signed: bool,
    },
    Float {
        size: usize,
    },
    /// Counted by its absolute value.
    Complex {
        size: usize,
    },
}

/// A numeric type and its byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numeric {
    pub(crate) number: Number,
    big_endian: bool,
}

impl Numeric {
    /// `None` for what cannot be counted: text, dates, opaque bytes, floats of 80 bits.
    pub(crate) fn of(info: &ArrayInfo) -> Option<Self> {
        let descr = info.dtype().descr();
        let (order, rest) = descr.split_at_checked(1)?;
        let (kind, size) = rest.split_at_checked(1)?;
        let number = match (kind, size.parse().ok()?) {
            ("b", 1) => Number::Bool,
            ("i" | "u", size @ (1 | 2 | 4 | 8)) => Number::Int { size, signed: kind == "i" },
            ("f", size @ (2 | 4 | 8)) => Number::Float { size },
            ("c", size @ (8 | 16)) => Number::Complex { size },
            _ => return None,
        };
        Some(Self { number, big_endian: order == ">" })
    }

    pub(crate) fn is_complex(self) -> bool {
        matches!(self.number, Number::Complex { .. })
    }
}

/// Some of the elements, in the order in which they are stored.
#[derive(Clone, Debug)]
pub(crate) enum Values {
    Ints(Vec<i64>),
    /// Of 8 bytes without a sign.
    Naturals(Vec<u64>),
    Floats(Vec<f64>),
}

impl Values {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ints(values) => values.len(),
            Self::Naturals(values) => values.len(),
            Self::Floats(values) => values.len(),
        }
    }

    /// Each as the nearest float.
    pub(crate) fn for_each_float(&self, mut take: impl FnMut(f64)) {
        match self {
            Self::Ints(values) => values.iter().map(|&value| value as f64).for_each(&mut take),
            Self::Naturals(values) => values.iter().map(|&value| value as f64).for_each(&mut take),
            Self::Floats(values) => values.iter().copied().for_each(&mut take),
        }
    }
}

/// Hands over all elements, piece by piece. Integers stay exact.
pub(crate) fn each(file: &BlockFile, info: &ArrayInfo, numeric: Numeric, mut take: impl FnMut(&Values)) -> Result<()> {
    let mut bytes = vec![0; PIECE.min(info.nbytes())];
    let mut values = match numeric.number {
        Number::Int { size: 8, signed: false } => Values::Naturals(Vec::new()),
        Number::Bool | Number::Int { .. } => Values::Ints(Vec::new()),
        Number::Float { .. } | Number::Complex { .. } => Values::Floats(Vec::new()),
    };
    let mut at = 0;
    while at < info.nbytes() {
        let piece = &mut bytes[..PIECE.min(info.nbytes() - at)];
        let read = file.read_at((info.data_offset() + at) as u64, piece)?;
        ensure!(read == piece.len(), "{} was cut short while it was read", file.path().display());
        decode(piece, numeric, &mut values);
        take(&values);
        at += piece.len();
    }
    Ok(())
}

fn decode(bytes: &[u8], numeric: Numeric, values: &mut Values) {
    /// The elements of one type.
    macro_rules! read {
        ($values:ident, $type:ty, $convert:expr) => {{
            let pieces = bytes.as_chunks::<{ size_of::<$type>() }>().0.iter();
            $values.clear();
            if numeric.big_endian {
                $values.extend(pieces.map(|piece| $convert(<$type>::from_be_bytes(*piece))));
            } else {
                $values.extend(pieces.map(|piece| $convert(<$type>::from_le_bytes(*piece))));
            }
        }};
    }
    match (values, numeric.number) {
        (Values::Ints(values), Number::Bool) => read!(values, u8, |value| i64::from(value != 0)),
        (Values::Ints(values), Number::Int { size: 1, signed: true }) => read!(values, i8, i64::from),
        (Values::Ints(values), Number::Int { size: 1, .. }) => read!(values, u8, i64::from),
        (Values::Ints(values), Number::Int { size: 2, signed: true }) => read!(values, i16, i64::from),
        (Values::Ints(values), Number::Int { size: 2, .. }) => read!(values, u16, i64::from),
        (Values::Ints(values), Number::Int { size: 4, signed: true }) => read!(values, i32, i64::from),
        (Values::Ints(values), Number::Int { size: 4, .. }) => read!(values, u32, i64::from),
        (Values::Ints(values), Number::Int { signed: true, .. }) => read!(values, i64, i64::from),
        (Values::Naturals(values), Number::Int { .. }) => read!(values, u64, u64::from),
        (Values::Floats(values), Number::Float { size: 2 }) => read!(values, half::f16, f64::from),
        (Values::Floats(values), Number::Float { size: 4 }) => read!(values, f32, f64::from),
        (Values::Floats(values), Number::Float { .. }) => read!(values, f64, f64::from),
        (Values::Floats(values), Number::Complex { size: 8 }) => {
            read!(values, f32, f64::from);
            absolute(values);
        }
        (Values::Floats(values), Number::Complex { .. }) => {
            read!(values, f64, f64::from);
            absolute(values);
        }
        // `each` makes the kind that fits.
        _ => {}
    }
}

/// Real and imaginary parts become absolute values.
fn absolute(values: &mut Vec<f64>) {
    let (pairs, _) = values.as_chunks::<2>();
    *values = pairs.iter().map(|[re, im]| re.hypot(*im)).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(bytes: &[u8], number: Number, big_endian: bool) -> Vec<f64> {
        let mut values = Values::Floats(vec![9.0]);
        decode(bytes, Numeric { number, big_endian }, &mut values);
        let Values::Floats(values) = values else { panic!("they stay floats") };
        values
    }

    #[test]
    fn elements_are_what_numpy_would_read() {
        assert_eq!(floats(&[0, 0x3c, 0, 0xc0], Number::Float { size: 2 }, false), [1.0, -2.0]);
        assert_eq!(floats(&1.5_f32.to_be_bytes(), Number::Float { size: 4 }, true), [1.5]);
        let complex = [3.0_f64.to_le_bytes(), 4.0_f64.to_le_bytes()].concat();
        assert_eq!(floats(&complex, Number::Complex { size: 16 }, false), [5.0]);

        let mut values = Values::Naturals(Vec::new());
        decode(
            &u64::MAX.to_le_bytes(),
            Numeric { number: Number::Int { size: 8, signed: false }, big_endian: false },
            &mut values,
        );
        assert!(matches!(&values, Values::Naturals(ints) if ints[..] == [u64::MAX]));
        let mut values = Values::Ints(Vec::new());
        decode(&[0, 1, 2], Numeric { number: Number::Bool, big_endian: false }, &mut values);
        assert!(matches!(&values, Values::Ints(ints) if ints[..] == [0, 1, 1]));
    }
}
