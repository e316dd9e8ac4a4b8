//! Which process this is.
#![allow(dead_code, reason = "used once the array layer lands")]

/// Names this process: a forked child gets another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

pub(crate) fn epoch() -> Epoch {
    Epoch(u64::from(std::process::id()))
}
