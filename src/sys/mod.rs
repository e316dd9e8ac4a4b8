//! The only system calls.

pub(crate) mod socket;
