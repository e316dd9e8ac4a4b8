//! [`SharedMemory`]: a block of bytes, its name, and who removes it.

mod block;
mod copy;
mod draft;
mod name;
mod options;
mod shared_memory;

pub(crate) use block::{Block, LockHandle};
#[allow(unused_imports, reason = "used once the array layer lands")]
pub(crate) use draft::{Draft, Target};
pub use options::{HugePages, Reserve, SharedMemoryOptions};
pub use shared_memory::SharedMemory;
