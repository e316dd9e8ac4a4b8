//! Mapped files: raw addresses, never slices.
#![expect(unsafe_code, reason = "mmap, madvise and munmap")]

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;

use crate::sys::fork::{Epoch, epoch};
use crate::sys::patience::{Patience, Steps};
use crate::sys::threads;
use crate::{Error, ErrorKind, Result};

/// What a huge page holds on every machine that this crate knows.
pub(crate) const HUGE_PAGE: usize = 2 << 20;

/// One call over more than this would keep other threads from mapping anything for too long.
const STEP: usize = 32 << 20;

/// What a thread populates at a time.
const POPULATE_STEP: usize = 4 << 20;

/// For less than this a call costs as much as the faults.
const WORTH_POPULATING: usize = 16 << 10;

/// Whether memory can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
}

impl Access {
    fn protection(self) -> libc::c_int {
        match self {
            Self::ReadOnly => libc::PROT_READ,
            Self::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// The bytes of a page, a power of two.
pub(crate) fn page_size() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // SAFETY: sysconf takes no pointer and has no precondition.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
    })
}

/// `len` rounded up to pages; `None` where that is more than an address range can be.
pub(crate) fn round_to_pages(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(page_size()).filter(|&rounded| isize::try_from(rounded).is_ok())
}

/// A file mapped from its first byte, shared with every other process that maps it.
///
/// Hands out addresses only: what may be read or written there, and when, is for the callers to prove. Not mapped in a
/// forked child, where nothing is unmapped on drop.
pub(crate) struct Mapping {
    /// Taken out by `drop` alone, and only in the process that mapped it.
    region: ManuallyDrop<Region>,
    /// As asked; at least one byte. The region is this rounded up to pages.
    len: usize,
    access: Access,
    epoch: Epoch,
    /// `false` while the addresses are held but nothing is mapped there, see [`Mapping::hide`].
    mapped: bool,
    /// Bytes that [`populate_ahead`](Self::populate_ahead) still has to see.
    ahead: AtomicUsize,
}

enum Region {
    Plain(MmapRaw),
    Aligned(Aligned),
}

impl Region {
    #[inline]
    fn ptr(&self) -> *mut u8 {
        match self {
            Self::Plain(map) => map.as_mut_ptr(),
            Self::Aligned(map) => map.ptr,
        }
    }
}

impl Mapping {
    /// Maps the first `len` bytes of `fd`, at an address that is a multiple of 2 MiB where `align_huge` says so and there
    /// are addresses enough.
    /// With `dump` the pages go into a core dump.
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize, access: Access, align_huge: bool, dump: bool) -> Result<Self> {
        let capacity = round_to_pages(len)
            .filter(|&capacity| capacity > 0)
            .ok_or_else(|| Error::new(ErrorKind::InvalidSize, format!("cannot map {len} bytes")))?;
        let region = match align_huge.then(|| Aligned::new(fd, capacity, access)) {
            Some(Ok(aligned)) => Ok(Region::Aligned(aligned)),
            // That takes 2 MiB of addresses more while it is made.
            Some(Err(error)) if error.raw_os_error() != Some(libc::ENOMEM) => Err(error),
            Some(Err(_)) | None => plain(fd, capacity, access),
        };
        let region = region.map_err(|error| map_error(error, len))?;
        let mapping =
            Self { region: ManuallyDrop::new(region), len, access, epoch: epoch(), mapped: true, ahead: 0.into() };
        mapping
            .advise(0..capacity, libc::MADV_DONTFORK)
            .map_err(|errno| Error::from_os(errno, "cannot keep a mapping out of forked children"))?;
        if !dump {
            // Only a matter of speed when a process crashes.
            let _ = mapping.advise(0..capacity, libc::MADV_DONTDUMP);
        }
        Ok(mapping)
    }

    /// The first byte; aligned to a page at least.
    #[inline]
    pub(crate) fn ptr(&self) -> NonNull<u8> {
        debug_assert!(!self.region.ptr().is_null());
        // SAFETY: a successful mmap without MAP_FIXED at 0 never returns the null address.
        unsafe { NonNull::new_unchecked(self.region.ptr()) }
    }

    /// Bytes, as asked.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that are mapped: the length rounded up to pages. All of them can be accessed while the file is that long.
    pub(crate) fn capacity(&self) -> usize {
        self.len.next_multiple_of(page_size())
    }

    #[inline]
    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// Whether this process is the one that mapped it; a forked child has no such pages.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.epoch == epoch()
    }

    /// Takes the file out of the mapping and keeps its addresses, so that the same place can be mapped again.
    pub(crate) fn hide(&mut self) -> Result<()> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        self.replace(libc::PROT_NONE, flags, -1)?;
        self.mapped = false;
        Ok(())
    }

    /// Maps a file, as long as the one before, where [`hide`](Self::hide) took one away.
    pub(crate) fn show(&mut self, fd: BorrowedFd<'_>, access: Access) -> Result<()> {
        self.replace(access.protection(), libc::MAP_SHARED | libc::MAP_FIXED, fd.as_raw_fd())?;
        self.access = access;
        self.mapped = true;
        self.advise(0..self.capacity(), libc::MADV_DONTFORK)
            .map_err(|errno| Error::from_os(errno, "cannot keep a mapping out of forked children"))?;
        // Only a matter of speed when a process crashes.
        let _ = self.advise(0..self.capacity(), libc::MADV_DONTDUMP);
        Ok(())
    }

    /// Lets forked children have the mapping too, as memory that nobody writes can be read there without harm.
    pub(crate) fn allow_in_children(&self) -> Result<()> {
        self.advise(0..self.capacity(), libc::MADV_DOFORK)
            .map_err(|errno| Error::from_os(errno, "cannot let forked children read a mapping"))
    }

    /// Is the file mapped, and not hidden?
    pub(crate) fn is_mapped(&self) -> bool {
        self.mapped
    }

    fn replace(&mut self, protection: libc::c_int, flags: libc::c_int, fd: libc::c_int) -> Result<()> {
        let len = self.capacity();
        // SAFETY: MAP_FIXED replaces exactly the range that this value owns. `&mut self` shows that nobody holds a
        // reference into it; raw addresses that were handed out are their users' to prove.
        let mapped = unsafe { libc::mmap(self.region.ptr().cast(), len, protection, flags, fd, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(map_error(io::Error::last_os_error(), len));
        }
        Ok(())
    }

    /// Maps every page of the byte range `range` now, so that no access faults later.
    ///
    /// Of memory, shared and mapped for writing, this gives the right to write as well: the kernel has no need to hear of the
    /// first write to a page, and maps many at a time. A file system on disk has; `write` is for that, page by page.
    pub(crate) fn populate(&self, range: Range<usize>, write: bool) -> Result<()> {
        let range = self.pages(range);
        let advice = if write { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
        let failed = Mutex::new(None);
        threads::share_out(range.clone().step_by(POPULATE_STEP), range.len(), |at| {
            match self.advise(at..range.end.min(at + POPULATE_STEP), advice) {
                // Before 5.14, and in some sandboxes, there is no such advice. Touching each page instead would race with
                // who holds the block's lock.
                Ok(()) | Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => {}
                Err(errno) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some((errno, at)),
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((errno, at)) => Err(populate_error(errno, at)),
            None => Ok(()),
        }
    }

    /// Lets [`populate_ahead`](Self::populate_ahead) do something. Only for a file that has all its memory: it would be made
    /// otherwise, whether it is ever touched or not.
    pub(crate) fn allow_populating_ahead(&mut self) {
        *self.ahead.get_mut() = self.capacity();
    }

    /// Maps the pages of the byte range `range`, which is going to be written: at once that takes a fraction of what the
    /// faults would. Does nothing once as many bytes as there are were asked for, since they are mapped then.
    #[inline]
    pub(crate) fn populate_ahead(&self, range: Range<usize>) {
        // Relaxed: only a measure of when to stop.
        let ahead = self.ahead.load(Ordering::Relaxed);
        if ahead > 0 && range.len() >= WORTH_POPULATING {
            self.populate_some_ahead(ahead, range);
        }
    }

    #[cold]
    fn populate_some_ahead(&self, ahead: usize, range: Range<usize>) {
        let range = self.pages(range);
        self.ahead.store(ahead.saturating_sub(range.len()), Ordering::Relaxed);
        for at in range.clone().step_by(STEP) {
            // Where that fails there are faults, as ever.
            let _ = self.advise(at..range.end.min(at + STEP), libc::MADV_POPULATE_READ);
        }
    }

    /// Makes every whole 2 MiB of the mapping one huge page, where it is aligned to 2 MiB, by several threads: where the
    /// memory has to come from a virtual machine's host they are all waited for at the same time. The file must be fresh: on
    /// pages that are there already it is slow.
    ///
    /// With little patience some parts may be left out; the error is of the first that could not be had.
    pub(crate) fn collapse(&self, patience: Patience) -> nix::Result<()> {
        if !self.ptr().addr().get().is_multiple_of(HUGE_PAGE) {
            return Err(Errno::ENOMEM);
        }
        let end = self.len - self.len % HUGE_PAGE;
        // Where the administrator allows it the first fault brings a huge page at once, which is faster.
        let _ = self.advise(0..self.capacity(), libc::MADV_HUGEPAGE);
        let steps = Steps::new(patience);
        let failed = Mutex::new(None);
        threads::share_out((0..end).step_by(STEP), end, |at| {
            if !steps.try_next() {
                return;
            }
            let begun = Instant::now();
            let outcome = self.collapse_step(at..end.min(at + STEP));
            steps.tried(outcome.is_ok().then(|| begun.elapsed()));
            if let Err(errno) = outcome {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(errno);
                // No memory in one piece, now or in this control group: there may be later. Anything else stays as it is.
                if patience == Patience::Endless || !matches!(errno, Errno::EAGAIN | Errno::ENOMEM | Errno::EBUSY) {
                    steps.give_up();
                }
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn collapse_step(&self, step: Range<usize>) -> nix::Result<()> {
        // Collapsing a hole is EINVAL: each huge page needs a page to begin with. No touch: that could be a SIGBUS.
        for huge in step.clone().step_by(HUGE_PAGE) {
            self.advise(huge..huge + page_size(), libc::MADV_POPULATE_WRITE)?;
        }
        // EAGAIN: the kernel ran short of something for a moment.
        let mut tries = 0;
        loop {
            match self.advise(step.clone(), libc::MADV_COLLAPSE) {
                Err(Errno::EAGAIN) if tries < 3 => tries += 1,
                other => return other,
            }
        }
    }

    /// `range` widened to whole pages and cut to the mapping.
    fn pages(&self, range: Range<usize>) -> Range<usize> {
        let page = page_size();
        let end = range.end.min(self.len).next_multiple_of(page);
        range.start.min(end) / page * page..end
    }

    fn advise(&self, range: Range<usize>, advice: libc::c_int) -> nix::Result<()> {
        assert!(range.start <= range.end && range.end <= self.capacity(), "advice is for this mapping's own pages");
        if range.is_empty() || !self.is_here() {
            return Ok(());
        }
        let start = self.region.ptr().wrapping_add(range.start);
        loop {
            // SAFETY: the range lies in this mapping, which is mapped in this process, and no caller passes advice that
            // takes contents away.
            let rc = unsafe { libc::madvise(start.cast(), range.len(), advice) };
            match Errno::result(rc) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop),
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // In a forked child (MADV_DONTFORK) something else may be mapped at that address by now.
        if self.is_here() {
            // SAFETY: dropped once, here, and not used afterwards: `self` is going away.
            unsafe { ManuallyDrop::drop(&mut self.region) };
        }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { len, access, .. } = self;
        f.debug_struct("Mapping").field("len", len).field("access", access).finish_non_exhaustive()
    }
}

fn plain(fd: BorrowedFd<'_>, len: usize, access: Access) -> io::Result<Region> {
    let mut options = MmapOptions::new();
    options.len(len);
    let map = match access {
        Access::ReadOnly => options.map_raw_read_only(fd.as_raw_fd()),
        Access::ReadWrite => options.map_raw(fd.as_raw_fd()),
    };
    map.map(Region::Plain)
}

/// A mapping at a multiple of 2 MiB, which mmap has no way to ask for.
struct Aligned {
    /// The result of mmap, `len` bytes of which belong to this value alone.
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the pointer is an address that this value owns; nothing about a mapping is bound to the thread that made it.
unsafe impl Send for Aligned {}
// SAFETY: `&Aligned` gives the address and the length, which never change.
unsafe impl Sync for Aligned {}

impl Aligned {
    fn new(fd: BorrowedFd<'_>, len: usize, access: Access) -> io::Result<Self> {
        // Claim enough addresses for an aligned range to lie in, then put the file there and give the ends back.
        let claimed = len.checked_add(HUGE_PAGE).ok_or_else(|| io::Error::from(Errno::ENOMEM))?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: no address is asked for, so that nothing that exists is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), claimed, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let claim = Aligned { ptr: start.cast(), len: claimed };
        let skipped = claim.ptr.align_offset(HUGE_PAGE);
        if skipped > HUGE_PAGE {
            return Err(io::Error::from(Errno::ENOMEM));
        }
        let at = claim.ptr.wrapping_add(skipped);
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        // SAFETY: MAP_FIXED replaces `len` bytes from `at`, all of which lie in the claim made above: `skipped` is at most
        // `HUGE_PAGE`. `fd` is open for the length of the call.
        let mapped = unsafe { libc::mmap(at.cast(), len, access.protection(), flags, fd.as_raw_fd(), 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let claim = ManuallyDrop::new(claim);
        let tail = HUGE_PAGE - skipped;
        drop((skipped > 0).then(|| Aligned { ptr: claim.ptr, len: skipped }));
        drop((tail > 0).then(|| Aligned { ptr: at.wrapping_add(len), len: tail }));
        Ok(Aligned { ptr: at, len })
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and belongs to this value alone, so nothing else points into it. munmap
        // fails only where the process is out of map entries; the addresses then stay claimed, which harms nobody.
        unsafe { libc::munmap(self.ptr.cast(), self.len) };
    }
}

#[cold]
fn map_error(error: io::Error, len: usize) -> Error {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => Error::from_os(
            error,
            format!(
                "no room for a mapping of {len} bytes among this process's addresses; see `ulimit -v` and vm.max_map_count"
            ),
        ),
        Some(libc::ENODEV) => {
            Error::from_os(error, "files there cannot be mapped into memory").with_kind(ErrorKind::Unsupported)
        }
        _ => Error::from_os(error, format!("cannot map {len} bytes")),
    }
}

#[cold]
fn populate_error(errno: Errno, at: usize) -> Error {
    match errno {
        // What would have been a SIGBUS.
        Errno::EFAULT => {
            Error::from_os(errno, format!("byte {at} has no memory: the block was cut short or there is no room"))
                .with_kind(ErrorKind::NoSpace)
        }
        _ => Error::from_os(errno, format!("cannot populate memory from byte {at} on")),
    }
}
