//! A page that two processes share, and words in it.
#![expect(unsafe_code, reason = "atomics in shared memory, and the futex system call")]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::atomic::AtomicU32;

use memmap2::{MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::Result;

const LEN: usize = 4096;

pub(super) struct Page(MmapRaw);

impl Page {
    /// A new one, and the file for the other process's standard input.
    pub(super) fn create() -> Result<(Self, File)> {
        let file = File::from(memfd_create(c"page", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(LEN as u64)?;
        Ok((Self::map(&file)?, file))
    }

    /// The one that this process was given as its standard input.
    pub(super) fn given() -> io::Result<Self> {
        Self::map(&File::from(io::stdin().as_fd().try_clone_to_owned()?))
    }

    fn map(file: &File) -> io::Result<Self> {
        Ok(Self(MmapOptions::new().len(LEN).map_raw(file)?))
    }

    /// The word so many bytes into the page.
    #[inline]
    pub(super) fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(size_of::<AtomicU32>()) && at < LEN, "no word is at {at}");
        // SAFETY: inside the mapping, which is a page long, by the assertion.
        let word = unsafe { self.0.as_mut_ptr().add(at) };
        // SAFETY: aligned, as the mapping is to a page and `at` to a word, and readable and writable for as long as `self`
        // lives, which the reference does not outlive; both processes touch these bytes through atomics of this size only.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }
}

/// Sleeps unless `word` is no longer `expected`; may also return for no reason. A shared futex, not a private one.
pub(super) fn futex_wait(word: &AtomicU32, expected: u32) {
    // SAFETY: FUTEX_WAIT takes the address of four aligned bytes, which the reference is, the expected value and a time
    // limit, for which null is none.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, expected, ptr::null::<libc::timespec>());
    }
}

pub(super) fn futex_wake(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE takes the address of four aligned bytes, which the reference is, and how many to wake.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1);
    }
}
