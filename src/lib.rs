//! Typed n-d arrays in shared memory.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
compile_error!("ndshm needs 64-bit little-endian Linux: it is built on memfd, open file description locks and /proc");

mod array;
mod error;
mod layout;
mod memory;
mod pool;
mod sys;

pub use array::{ArrayOptions, Chunks, ChunksMut, FreezeError, FrozenArray, ReadGuard, SharedArray, WriteGuard};
pub use error::{Error, ErrorKind, Result};
pub use layout::DType;
pub use memory::{HugePages, Reserve, SharedMemory, SharedMemoryOptions};
pub use pool::start::init::{__init_before_main, init};
pub use pool::{Args, Call, Chunk, Each, Param, Pool, PoolBuilder, Progress};
