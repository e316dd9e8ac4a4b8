//! The bytes inside a block: of a typed array here, of a list in [`list`].
//!
//! The block of a typed array is a `.npy` file with room at its end: a header that NumPy reads too, the elements, and a
//! control trailer that NumPy never looks at.
//!
//! | offset | content | module |
//! |---|---|---|
//! | 0 | header: element type, memory order, shape | [`npy`], [`literal`], [`dtype`], [`spoken`] |
//! | 4096 (another program's header may be shorter or longer) | elements | |
//! | the next multiple of 64 | who is writing, how often it was written | [`trailer`] |
//!
//! Everything here works on plain bytes that someone else may have written: no length in them is believed before it has
//! been held against the block's, and nothing panics.

mod dtype;
pub(crate) mod list;
mod literal;
mod npy;
mod spoken;
pub(crate) mod trailer;

pub use dtype::DType;
pub(crate) use dtype::check_dtype;
pub(crate) use npy::{BlockLayout, DATA_OFFSET, MAGIC, NpyHeader, checked_len, encode_header, is_array};
