//! The only system calls.

pub(crate) mod exe;
pub(crate) mod process;
pub(crate) mod socket;
