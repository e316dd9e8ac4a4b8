//! The only system calls.

pub(crate) mod process;
pub(crate) mod socket;
