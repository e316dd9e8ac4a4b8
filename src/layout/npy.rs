//! The `.npy` header: what NumPy and this crate both read.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 6 | `\x93NUMPY` |
//! | 6 | 2 | version: 1.0, 2.0 or 3.0; ours is 1.0 |
//! | 8 | 2, from version 2.0 on 4 | length of what follows, up to the elements |
//! | 10 or 12 | that many | a Python dict literal, spaces, `\n` |
//!
//! The header says of itself how long it is and how many elements follow. Neither is believed: a header that is longer
//! than any that NumPy reads, or elements that would end past the end of the block, are errors.

use std::fmt::Write as _;

use super::dtype::DType;
use super::literal;
use super::trailer::{TRAILER_LEN, trailer_offset};
use crate::{Error, ErrorKind, Result};

/// Where the elements of a block made here start: page aligned, with room for every header.
pub(crate) const DATA_OFFSET: usize = 4096;

/// The longest header that is read: as long as version 1.0 can say, several times what NumPy itself accepts.
pub(crate) const MAX_HEADER: usize = LONG_TEXT_OFFSET + u16::MAX as usize;

/// The most axes that an array made here may have. NumPy before version 2 opens no more.
pub(crate) const MAX_RANK: usize = 32;

/// The most axes that NumPy writes, and so the most that a header may have.
pub(super) const MAX_NUMPY_RANK: usize = 64;

/// What every `.npy` file begins with.
pub(crate) const MAGIC: [u8; 6] = *b"\x93NUMPY";

/// Is a block an array, or a damaged one? `read` as for [`list::glance`](super::list::glance).
pub(crate) fn is_array(mut read: impl FnMut(usize, &mut [u8]) -> Result<bool>) -> bool {
    let mut first = [0; MAGIC.len()];
    read(0, &mut first).is_ok_and(|all| all && first == MAGIC)
}

const VERSION_OFFSET: usize = MAGIC.len();
const LEN_OFFSET: usize = VERSION_OFFSET + 2;
/// Where the dict starts in version 1.0 and, with a longer length, in 2.0 and 3.0.
const TEXT_OFFSET: usize = LEN_OFFSET + size_of::<u16>();
const LONG_TEXT_OFFSET: usize = LEN_OFFSET + size_of::<u32>();

/// What the length field of a header made here says.
const TEXT_LEN: u16 = 4086;

const _: () = {
    assert!(TEXT_OFFSET == 10 && LONG_TEXT_OFFSET == 12);
    assert!(TEXT_OFFSET + TEXT_LEN as usize == DATA_OFFSET);
    assert!(DATA_OFFSET.is_multiple_of(TRAILER_LEN));
};

/// What a block says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NpyHeader {
    /// Any type that NumPy knows, whether it can be opened here or not.
    pub(crate) dtype: DType,
    pub(crate) fortran_order: bool,
    pub(crate) shape: Vec<usize>,
    /// Where the elements start; of no alignment in particular.
    pub(crate) data_offset: usize,
    /// Length of the elements in bytes: `data_offset + data_len` does not overflow and lies within the block.
    pub(crate) data_len: usize,
}

impl NpyHeader {
    /// Reads the header of a block of `block_len` bytes that starts with `prefix`, of which
    /// [`prefix_len`](Self::prefix_len) bytes are enough.
    pub(crate) fn parse(prefix: &[u8], block_len: u64) -> Result<NpyHeader> {
        let data_offset = Self::prefix_len(prefix)?;
        if data_offset as u64 > block_len || data_offset > prefix.len() {
            let there = block_len.min(prefix.len() as u64);
            return Err(damaged(format!("found {there} bytes, expected a header of {data_offset} bytes")));
        }
        let text_offset = if prefix[VERSION_OFFSET] == 1 { TEXT_OFFSET } else { LONG_TEXT_OFFSET };
        let literal::Header { dtype, fortran_order, shape } = literal::parse(&prefix[text_offset..data_offset])?;

        let too_large = || {
            damaged(format!(
                "found shape {shape:?} of elements of {} bytes, which no memory can hold",
                dtype.item_size()
            ))
        };
        let (_, data_len) = checked_len(dtype.item_size(), &shape).ok_or_else(too_large)?;
        let data_end = data_offset.checked_add(data_len).ok_or_else(too_large)?;
        if data_end as u64 > block_len {
            return Err(damaged(format!(
                "found a block of {block_len} bytes, expected {data_end} for shape {shape:?} of '{dtype}'"
            )));
        }
        Ok(NpyHeader { dtype, fortran_order, shape, data_offset, data_len })
    }

    /// How many bytes from the start hold the header, which is also where the elements start: at most [`MAX_HEADER`].
    ///
    /// `first` needs to hold the first 12 bytes of the block, or all of a shorter one.
    pub(crate) fn prefix_len(first: &[u8]) -> Result<usize> {
        if first.starts_with(b"PK") {
            return Err(damaged("found an archive such as np.savez makes, expected one array of it, as np.save makes"));
        }
        if !first.starts_with(&MAGIC) {
            return Err(damaged(format!("expected it to start with \"{}\"", MAGIC.escape_ascii())));
        }
        let cut = || damaged(format!("found {} bytes, expected at least {LONG_TEXT_OFFSET}", first.len()));
        let field = first.get(LEN_OFFSET..).ok_or_else(cut)?;
        let (text_offset, text_len) = match first[VERSION_OFFSET..LEN_OFFSET] {
            [1, 0] => {
                let len = field.first_chunk().ok_or_else(cut)?;
                (TEXT_OFFSET, u32::from(u16::from_le_bytes(*len)))
            }
            [2 | 3, 0] => (LONG_TEXT_OFFSET, u32::from_le_bytes(*field.first_chunk().ok_or_else(cut)?)),
            [major, minor] => {
                return Err(damaged(format!("found .npy version {major}.{minor}, expected 1.0, 2.0 or 3.0")));
            }
            _ => return Err(cut()),
        };
        let len = text_offset.saturating_add(text_len as usize);
        if len > MAX_HEADER {
            return Err(damaged(format!("found a header of {len} bytes, expected at most {MAX_HEADER}")));
        }
        Ok(len)
    }
}

/// The header of a block made here: exactly [`DATA_OFFSET`] bytes.
pub(crate) fn encode_header(dtype: &DType, fortran_order: bool, shape: &[usize]) -> Result<Vec<u8>> {
    check_rank(shape)?;
    let mut axes = String::new();
    for (i, axis) in shape.iter().enumerate() {
        let separator = if i == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(axes, "{separator}{axis}");
    }
    if shape.len() == 1 {
        axes.push(',');
    }
    let order = if fortran_order { "True" } else { "False" };
    let text = format!("{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': ({axes}), }}");

    let mut header = Vec::with_capacity(DATA_OFFSET);
    header.extend(MAGIC);
    header.extend([1, 0]);
    header.extend(TEXT_LEN.to_le_bytes());
    header.extend(text.as_bytes());
    // Only the unit of a time type can be that long.
    if header.len() >= DATA_OFFSET {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("found an element type whose name has {} characters, expected a short one", dtype.descr().len()),
        ));
    }
    header.resize(DATA_OFFSET - 1, b' ');
    header.push(b'\n');
    Ok(header)
}

/// Where the parts of a block made here lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockLayout {
    pub(crate) data_offset: usize,
    pub(crate) data_len: usize,
    pub(crate) trailer_offset: usize,
    /// Fits an `isize`, as every length and offset here does.
    pub(crate) total_len: usize,
}

impl BlockLayout {
    /// The layout of an array of that shape with elements of `item_size` bytes.
    pub(crate) fn new(item_size: usize, shape: &[usize]) -> Result<BlockLayout> {
        check_rank(shape)?;
        Self::checked(item_size, shape).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidSize,
                format!(
                    "found shape {shape:?} of elements of {item_size} bytes, expected less than {} bytes",
                    isize::MAX
                ),
            )
        })
    }

    fn checked(item_size: usize, shape: &[usize]) -> Option<BlockLayout> {
        let (_, data_len) = checked_len(item_size, shape)?;
        let trailer_offset = trailer_offset(DATA_OFFSET.checked_add(data_len)?)?;
        let total_len = trailer_offset.checked_add(TRAILER_LEN)?;
        isize::try_from(total_len).ok()?;
        Some(BlockLayout { data_offset: DATA_OFFSET, data_len, trailer_offset, total_len })
    }
}

/// Number of elements and of bytes of an array, or `None` where a view of it could not be made.
///
/// The limit is ndarray's: the product of the axes that are not 0, in elements and in bytes, fits an `isize`. An array
/// with an axis of 0 has no elements and is held to it as well, since its strides are computed all the same.
pub(crate) fn checked_len(item_size: usize, shape: &[usize]) -> Option<(usize, usize)> {
    let extent = shape.iter().filter(|&&axis| axis != 0).try_fold(1_usize, |len, &axis| len.checked_mul(axis))?;
    let bytes = extent.checked_mul(item_size)?;
    isize::try_from(extent.max(bytes)).ok()?;
    Some(if shape.contains(&0) { (0, 0) } else { (extent, bytes) })
}

fn check_rank(shape: &[usize]) -> Result<()> {
    if shape.len() > MAX_RANK {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("found {} axes, expected at most {MAX_RANK}", shape.len()),
        ));
    }
    Ok(())
}

pub(super) fn damaged(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Layout, format!("not an array block: {what}"))
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;
