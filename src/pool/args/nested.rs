//! Tuples, arrays and `Vec`s of arguments.
#![expect(unsafe_code, reason = "passes an unsafe method's contract on to its parts")]

use super::{Args, Cursor, Sealed, mark_of, mix};
use crate::error::Result;
use crate::pool::plan::Plan;

macro_rules! tuples {
    ($(($($part:ident $index:tt),*))*) => {$(
        impl<$($part: Args),*> Sealed for ($($part,)*) {}
        impl<$($part: Args),*> Args for ($($part,)*) {
            type Views<'a> = ($($part::Views<'a>,)*);
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

            #[allow(unused_variables, clippy::unused_unit, reason = "the empty tuple has no parts to take")]
            unsafe fn take<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Views<'a>> {
                $(
                    // SAFETY: the parts were described in this order; the rest of the contract is passed on.
                    #[allow(non_snake_case, reason = "named after its type parameter")]
                    let $part = unsafe { $part::take(cursor)? };
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
    const TYPES: u64 = mix(mix(mark_of::<()>(8), N as u64), A::TYPES);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        self.iter().try_for_each(|part| part.describe(plan))
    }

    unsafe fn take<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Views<'a>> {
        let mut parts = Vec::with_capacity(N);
        for _ in 0..N {
            // SAFETY: the parts were described in this order; the rest of the contract is passed on.
            parts.push(unsafe { A::take(cursor)? });
        }
        parts.try_into().map_err(|_| super::out_of_step())
    }
}

impl<T: Args> Sealed for Vec<T> {}
impl<T: Args> Args for Vec<T> {
    type Views<'a> = Vec<T::Views<'a>>;
    const TYPES: u64 = mix(mark_of::<()>(9), T::TYPES);

    fn describe<'p>(&'p self, plan: &mut Plan<'p>) -> Result<()> {
        plan.push_count(self.len());
        self.iter().try_for_each(|part| part.describe(plan))
    }

    unsafe fn take<'a>(cursor: &mut Cursor<'a>) -> Result<Self::Views<'a>> {
        let count = cursor.count()?;
        let mut parts = Vec::new();
        for _ in 0..count {
            // SAFETY: the parts were described in this order; the rest of the contract is passed on.
            parts.push(unsafe { T::take(cursor)? });
        }
        Ok(parts)
    }
}
