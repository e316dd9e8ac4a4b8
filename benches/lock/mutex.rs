//! A robust POSIX mutex that processes share, and a number in shared memory.
#![expect(unsafe_code, reason = "a mutex and an atomic in shared memory")]

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::common::Result;

const PAGE: usize = 4096;
/// Where the mutex lies; the number is at the start of the page.
const MUTEX_AT: usize = 1024;

/// A number at the start of a memfd, which other processes open by the path of its descriptor.
pub(crate) struct Counter {
    file: File,
    page: MmapRaw,
}

impl Counter {
    pub(crate) fn create() -> Result<Self> {
        let file = File::from(memfd_create(c"lock", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(PAGE as u64)?;
        Self::map(file)
    }

    pub(crate) fn open(path: &str) -> Result<Self> {
        Self::map(File::options().read(true).write(true).open(path)?)
    }

    fn map(file: File) -> Result<Self> {
        Ok(Self { page: MmapOptions::new().len(PAGE).map_raw(&file)?, file })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    fn atomic(&self) -> &AtomicU64 {
        // SAFETY: the start of a mapping is aligned to a page and readable and writable for its length, which is a page, for
        // as long as `self` lives, which the reference does not outlive; all touch these bytes through such atomics only.
        unsafe { AtomicU64::from_ptr(self.page.as_mut_ptr().cast()) }
    }

    pub(crate) fn get(&self) -> u64 {
        // Relaxed: the lock orders these.
        self.atomic().load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, number: u64) {
        self.atomic().store(number, Ordering::Relaxed);
    }
}

pub(crate) struct Mutex {
    counter: Counter,
}

impl Mutex {
    /// Makes the mutex in the file of `counter`, which nobody else has yet.
    pub(crate) fn new(counter: Counter) -> Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: takes memory for attributes, to be initialised.
        check(unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: initialised above.
        check(unsafe { libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED) })?;
        // SAFETY: initialised above.
        check(unsafe { libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST) })?;
        let mutex = Self { counter };
        // SAFETY: the mutex lies in a page of zeros that nobody else uses yet, aligned; the attributes are initialised.
        check(unsafe { libc::pthread_mutex_init(mutex.raw(), attributes.as_ptr()) })?;
        Ok(mutex)
    }

    /// The one that another process has made there.
    pub(crate) fn of(counter: Counter) -> Self {
        Self { counter }
    }

    fn raw(&self) -> *mut libc::pthread_mutex_t {
        self.counter.page.as_mut_ptr().wrapping_add(MUTEX_AT).cast()
    }

    pub(crate) fn locked<R>(&mut self, run: impl FnOnce(&Counter) -> R) -> Result<R> {
        // SAFETY: the mutex was initialised by the process that made it, before any other was told of it, and is mapped for
        // as long as `self` lives.
        check(unsafe { libc::pthread_mutex_lock(self.raw()) })?;
        let result = run(&self.counter);
        // SAFETY: as above; this thread locked it.
        check(unsafe { libc::pthread_mutex_unlock(self.raw()) })?;
        Ok(result)
    }
}

fn check(code: libc::c_int) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Errno::from_raw(code).into()) }
}
