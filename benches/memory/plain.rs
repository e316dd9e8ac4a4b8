//! Memory without this crate: a memfd, and a mapping that is not shared.
#![expect(unsafe_code, reason = "maps files that nobody cuts short")]

use std::fs::File;
use std::path::Path;

use memmap2::{Advice, MmapMut, MmapOptions};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::common::Result;

/// What is set aside when a memfd is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserved {
    Nothing,
    All,
}

pub(crate) struct Memfd {
    file: File,
    map: MmapMut,
}

impl Memfd {
    pub(crate) fn create(bytes: usize, reserved: Reserved) -> Result<Self> {
        let file = File::from(memfd_create(c"bench", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(bytes as u64)?;
        if reserved == Reserved::All {
            fallocate(&file, FallocateFlags::empty(), 0, libc::off_t::try_from(bytes)?)?;
        }
        Self::map(file, false)
    }

    /// The memfd of another process, by the path of its descriptor.
    pub(crate) fn open(path: &Path, populate: bool) -> Result<Self> {
        Self::map(File::options().read(true).write(true).open(path)?, populate)
    }

    fn map(file: File, populate: bool) -> Result<Self> {
        let mut options = MmapOptions::new();
        if populate {
            options.populate();
        }
        // SAFETY: only this benchmark and its peer have the file, and of them one at a time reads or writes it: they take
        // turns. Neither cuts it short.
        let map = unsafe { options.map_mut(&file)? };
        Ok(Self { file, map })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn elements(&self) -> &[u64] {
        bytemuck::cast_slice(&self.map)
    }

    pub(crate) fn elements_mut(&mut self) -> &mut [u64] {
        bytemuck::cast_slice_mut(&mut self.map)
    }
}

/// Private memory, straight from the kernel.
pub(crate) struct Anonymous {
    map: MmapMut,
}

impl Anonymous {
    pub(crate) fn map(bytes: usize) -> Result<Self> {
        Ok(Self { map: MmapMut::map_anon(bytes)? })
    }

    /// Where the system gives huge pages to who asks for them.
    pub(crate) fn map_huge(bytes: usize) -> Result<Self> {
        let memory = Self::map(bytes)?;
        // An error where the kernel has none: small ones are measured then.
        let _ = memory.map.advise(Advice::HugePage);
        Ok(memory)
    }

    pub(crate) fn elements_mut(&mut self) -> &mut [u64] {
        bytemuck::cast_slice_mut(&mut self.map)
    }
}
