//! The only system calls.

pub(crate) mod affinity;
pub(crate) mod clock;
pub(crate) mod exe;
pub(crate) mod file;
pub(crate) mod flock;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod identity;
pub(crate) mod interrupt;
pub(crate) mod listener;
pub(crate) mod lock;
pub(crate) mod map;
pub(crate) mod memfd;
pub(crate) mod oom;
pub(crate) mod patience;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod space;
pub(crate) mod stamp;
pub(crate) mod thread_id;
pub(crate) mod threads;
