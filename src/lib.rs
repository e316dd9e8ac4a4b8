//! One n-d array, many processes, no copies.
//!
//! `ndshm` is for programs that work on large numeric arrays from several processes at once: a batch job that spawns
//! workers, a Python script and a Rust solver on the same data, a data set that stays in memory while the program that
//! analyses it is run again and again. Linux only.
//!
//! - [`SharedArray<T, D>`](SharedArray) is an [`ndarray`] array in shared memory, behind a reader-writer lock that spans
//!   processes. Its block is a `.npy` file, so NumPy opens it with nothing installed.
//! - [`Pool`] runs tasks over the rows of such arrays in worker processes, in place. A task that crashes costs its rows and
//!   an error that names them.
//! - [`FrozenArray`] is an array that the kernel lets nobody write any more: no lock, no `unsafe`.
//! - [`ShareableList`] is Python's, byte for byte, for CPython 3.9 to 3.14, without its faults: strs are sized by bytes,
//!   trailing NULs survive between Rust processes, a `set` that does not fit changes nothing and says why, a damaged block is
//!   an error. Numbers are read and overwritten without a lock.
//! - [`SharedMemory`] is the block underneath, the same that Python's `multiprocessing.shared_memory` makes.
//! - [`SharedMemoryManager`] is a server process that owns blocks for the programs connected to it, which find each other's
//!   by label; none is left when it ends, however that comes about.
//!
//! ```standalone_crate
//! use ndshm::{Pool, SharedArray};
//!
//! fn main() -> ndshm::Result<()> {
//!     ndshm::init(); // turns the copies of this program that the pool starts into workers
//!     let mut field = SharedArray::<f64, _>::from_elem((1000, 1000), 2.0)?;
//!     let pool = Pool::new()?; // one worker process per available CPU
//!     let sums = pool.map(field.chunks_mut(), |mut rows, _chunk| {
//!         rows.mapv_inplace(f64::sqrt); // in place, on this task's own rows
//!         rows.sum()
//!     })?;
//!     assert!((sums.iter().sum::<f64>() - 2f64.sqrt() * 1e6).abs() < 1e-3);
//!     Ok(())
//! }
//! ```
//!
//! [`ndarray`] and [`bytemuck`], whose types stand in this crate's signatures, are re-exported.
//!
//! # Who may write, and where `unsafe` begins
//!
//! Rust's rule is no data race, and another process can write. What is `unsafe` depends on where memory comes from:
//!
//! | obtained | who can write it | access | `unsafe`? |
//! |---|---|---|---|
//! | created here, anonymous | this process, and its pools' workers by borrow | guards, without a system call | no |
//! | created here under a name, or its descriptor handed out | whoever attaches | guards, with the kernel's lock | no |
//! | attached by name or descriptor | whoever else has it | the same guards | once, at `attach`: the caller vouches that others write under the lock |
//! | frozen | nobody, the kernel refuses | views | no |
//! | [`SharedMemory`] | anyone | copies in and out | only for slices |
//!
//! The lock is the kernel's: when a process dies it is released, and who locks next is told with
//! [`ErrorKind::Poisoned`] if a write was under way. Programs that write without the lock, NumPy among them, are outside
//! this model, as is anybody who cuts a named block or a file short while it is mapped.
//!
//! # Errors
//!
//! There is one [`Error`] with a [`kind`](Error::kind). A block that does not fit into `/dev/shm`, the control group or
//! memory is a [`NoSpace`](ErrorKind::NoSpace) error when it is created, not a bus error later: memory is reserved by
//! default.
//!
//! # Who cleans up
//!
//! Anonymous memory goes with the last process that has it. A name in `/dev/shm` is removed by the process that created
//! it; where that was killed, by the next one of the same user that creates a name, or by [`prune`]. A
//! [`SharedMemoryManager`] removes its names at once when the process that started it was killed. [`blocks`] tells what
//! is there and who owns it.
//!
//! The memory of a dropped anonymous array is kept for the next one of its size, within limits: see [`spare`].
//!
//! # Features
//!
//! - `rayon`: ndarray's parallel iterators, on guards and in tasks.
//! - `progress`: a ready-made progress bar for calls, `Call::progress_bar`.
//! - `complex`, `half`: complex and half precision elements under NumPy's own types.
//! - `cli`: the command line tool `ndshm`, with `cargo install --features cli`; nothing in the library.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64", target_endian = "little")))]
compile_error!("ndshm needs 64-bit little-endian Linux: it is built on memfd, open file description locks and /proc");

mod array;
mod blocks;
mod error;
mod layout;
mod list;
mod manager;
mod memory;
mod pool;
mod start;
mod sys;
mod wire;

/// The crates whose types stand in this one's signatures, in the versions that fit.
pub use {bytemuck, ndarray};

pub use array::{ArrayOptions, Chunks, ChunksMut, FreezeError, FrozenArray, ReadGuard, SharedArray, WriteGuard};
pub use blocks::{ArrayInfo, BlockFile, BlockInfo, BlockKind, BlockLock, BlockOwner, BlockState, blocks};
pub use error::{Error, ErrorKind, Result};
pub use layout::DType;
pub use list::{ListIter, ShareableList, Value};
pub use manager::{
    ManagedBlock, ManagedOptions, ManagerBuilder, ManagerServer, Publish, SharedMemoryManager, Shutdown,
};
pub use memory::{
    HugePages, Limit, Pruned, PrunedBlock, Reserve, SharedMemory, SharedMemoryOptions, limits, prunable, prune, spare,
};
pub use pool::{Args, Call, CancelToken, Chunk, Each, Param, Pool, PoolBuilder, Progress, Schedule};
pub use start::init::{__init_before_main, init};
pub use start::output::WorkerOutput;

/// The examples in the README are compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
