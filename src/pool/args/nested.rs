//! Tuples, arrays and `Vec`s of arguments.
#![expect(unsafe_code, reason = "passes an unsafe method's contract on to its parts")]

use super::{Args, Cursor, Sealed, mark_of, mix};
use crate::error::Result;
use crate::pool::plan::Plan;
use crate::pool::told::Recall;

macro_rules! tuples {
    ($(($($part:ident $index:tt),*))*) => {$(
        impl<$($part: Args),*> Sealed for ($($part,)*) {}
        impl<$($part: Args),*> Args for ($($part,)*) {
            type Views<'a> = ($($part::Views<'a>,)*);
            type Found<'a> = ($($part::Found<'a>,)*);
            const TYPES: u64 = {
                #[allow(unused_mut, reason = "the empty tuple has no parts to mix in")]
                let mut mark = mark_of::<()>(7);
                $(mark = mix(mark, $part::TYPES);)*
                mark
            };

            #[allow(unused_variables, reason = "the empty tuple has no parts to describe")]
            fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
                $(self.$index.describe(plan)?;)*
                Ok(())
            }

            const RECALLS: bool = true $(&& $part::RECALLS)*;

            #[allow(unused_variables, reason = "the empty tuple has no parts to recall")]
            #[inline]
            fn is_recalled<'p>(&'p self, recall: &mut Recall<'_, 'p>) -> bool {
                true $(&& self.$index.is_recalled(recall))*
            }

            #[allow(unused_variables, clippy::unused_unit, reason = "the empty tuple has no parts to find")]
            fn find<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Found<'a>> {
                // In this order, as they were described.
                Ok(($($part::find(cursor)?,)*))
            }

            #[allow(unused_variables, clippy::unused_unit, reason = "the empty tuple has no parts to take")]
            #[inline]
            unsafe fn take<'a>(found: &Self::Found<'a>, chunk: usize) -> Result<Self::Views<'a>> {
                $(
                    // SAFETY: the contract is passed on.
                    #[allow(non_snake_case, reason = "named after its type parameter")]
                    let $part = unsafe { $part::take(&found.$index, chunk)? };
                )*
                Ok(($($part,)*))
            }
        }
    )*};
}

tuples! {
    ()
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
}

impl<A: Args, const N: usize> Sealed for [A; N] {}
impl<A: Args, const N: usize> Args for [A; N] {
    type Views<'a> = [A::Views<'a>; N];
    type Found<'a> = [A::Found<'a>; N];
    const TYPES: u64 = mix(mix(mark_of::<()>(8), N as u64), A::TYPES);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        self.iter().try_for_each(|part| part.describe(plan))
    }

    const RECALLS: bool = A::RECALLS;

    fn is_recalled<'p>(&'p self, recall: &mut Recall<'_, 'p>) -> bool {
        self.iter().all(|part| part.is_recalled(recall))
    }

    fn find<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Found<'a>> {
        let mut parts = Vec::with_capacity(N);
        for _ in 0..N {
            parts.push(A::find(cursor)?);
        }
        parts.try_into().map_err(|_| super::out_of_step())
    }

    unsafe fn take<'a>(found: &Self::Found<'a>, chunk: usize) -> Result<Self::Views<'a>> {
        let mut parts = Vec::with_capacity(N);
        for part in found {
            // SAFETY: the contract is passed on.
            parts.push(unsafe { A::take(part, chunk)? });
        }
        parts.try_into().map_err(|_| super::out_of_step())
    }
}

impl<T: Args> Sealed for Vec<T> {}
impl<T: Args> Args for Vec<T> {
    type Views<'a> = Vec<T::Views<'a>>;
    type Found<'a> = Vec<T::Found<'a>>;
    const TYPES: u64 = mix(mark_of::<()>(9), T::TYPES);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        plan.push_count(self.len());
        self.iter().try_for_each(|part| part.describe(plan))
    }

    const RECALLS: bool = T::RECALLS;

    fn is_recalled<'p>(&'p self, recall: &mut Recall<'_, 'p>) -> bool {
        recall.is_count(self.len()) && self.iter().all(|part| part.is_recalled(recall))
    }

    fn find<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Found<'a>> {
        let count = cursor.count()?;
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push(T::find(cursor)?);
        }
        Ok(parts)
    }

    unsafe fn take<'a>(found: &Self::Found<'a>, chunk: usize) -> Result<Self::Views<'a>> {
        let mut parts = Vec::with_capacity(found.len());
        for part in found {
            // SAFETY: the contract is passed on.
            parts.push(unsafe { T::take(part, chunk)? });
        }
        Ok(parts)
    }
}
