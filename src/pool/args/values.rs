//! Values as arguments: copies, by serde.
#![expect(unsafe_code, reason = "implements an unsafe method that needs nothing of its contract here")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_bytes::ByteBuf;

use super::{Args, Cursor, Sealed, mark_of, out_of_step};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::plan::Plan;
use crate::pool::told::Recall;

/// A value of which every task gets its own copy.
///
/// It travels through serde with the names of its fields, so every attribute of serde works. The task gets its own, so it
/// owns what it holds: a `String` or a `Vec` goes in, `&str` and slices do not compile.
///
/// # Examples
///
/// ```
/// use ndshm::{Param, Pool, SharedArray};
///
/// # fn main() -> ndshm::Result<()> {
/// let mut speeds = SharedArray::<f64, _>::from_elem((6, 2), 10.0)?;
/// let factor = 3.6;
/// Pool::serial().for_each((speeds.chunks_mut(), Param(&factor)), |(mut rows, factor), _| rows *= factor)?;
/// assert_eq!(speeds.read()?.sum(), 432.0);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Param<'v, V: ?Sized>(pub &'v V);

/// Items of which every task gets its own: one task an item.
///
/// # Examples
///
/// ```
/// use ndshm::{Each, Pool};
///
/// # fn main() -> ndshm::Result<()> {
/// let words = ["one", "three"].map(String::from);
/// let lengths = Pool::serial().map(Each(&words), |word, _| word.len())?;
/// assert_eq!(lengths, [3, 5]);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Each<'v, V>(pub &'v [V]);

fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Result<V> {
    rmp_serde::from_slice(bytes).map_err(|error| {
        let name = std::any::type_name::<V>();
        Error::new(ErrorKind::Serialization, format!("a worker cannot read its copy of a {name}")).with_source(error)
    })
}

impl<V: ?Sized> Sealed for Param<'_, V> {}
impl<V: Serialize + DeserializeOwned> Args for Param<'_, V> {
    type Views<'a> = V;
    type Found<'a> = &'a [u8];
    const TYPES: u64 = mark_of::<V>(5);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        plan.push_value(self.0)
    }

    // It would have to be written down, by code that is not ours.
    const RECALLS: bool = false;

    fn is_recalled<'p>(&'p self, _recall: &mut Recall<'_, 'p>) -> bool {
        false
    }

    fn find<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Found<'a>> {
        cursor.param()
    }

    unsafe fn take<'a>(found: &Self::Found<'a>, _chunk: usize) -> Result<Self::Views<'a>> {
        decode(found)
    }
}

impl<V> Sealed for Each<'_, V> {}
impl<V: Serialize + DeserializeOwned> Args for Each<'_, V> {
    type Views<'a> = V;
    type Found<'a> = &'a [ByteBuf];
    const TYPES: u64 = mark_of::<V>(6);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        plan.push_items(self.0)
    }

    // It would have to be written down, by code that is not ours.
    const RECALLS: bool = false;

    fn is_recalled<'p>(&'p self, _recall: &mut Recall<'_, 'p>) -> bool {
        false
    }

    fn find<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Found<'a>> {
        cursor.items()
    }

    unsafe fn take<'a>(found: &Self::Found<'a>, chunk: usize) -> Result<Self::Views<'a>> {
        decode(found.get(chunk).ok_or_else(out_of_step)?)
    }
}
