//! What is in a block, as far as its head tells. Clients are not believed: the server looks.

use std::os::fd::BorrowedFd;

use nix::fcntl::SealFlag;

use crate::array::read_header;
use crate::error::{Error, ErrorKind, Result};
use crate::manager::protocol::{Content, Kind};
use crate::sys::{file, memfd};

/// Reads what `fd` holds; it is memory, of no particular size and with anything in it.
pub(super) fn of(fd: BorrowedFd<'_>, kind: Kind) -> Result<Content> {
    let size = file::size(fd)?;
    if size == 0 {
        return Err(Error::new(ErrorKind::InvalidSize, "found a block of 0 bytes, expected at least 1"));
    }
    match kind {
        Kind::Memory => Ok(Content::Memory),
        Kind::List => {
            let mut word = [0; 8];
            let read = file::read_at(fd, 0, &mut word)?;
            // Every item takes 25 bytes at least; where they lie is for those to read who attach.
            let len = usize::try_from(i64::from_le_bytes(word)).ok();
            if let Some(len) = len.filter(|&len| read == word.len() && len as u64 <= size / 25) {
                return Ok(Content::List { len });
            }
            Err(Error::new(ErrorKind::Layout, format!("found no list in a block of {size} bytes")))
        }
        Kind::Array => {
            let len = usize::try_from(size).unwrap_or(usize::MAX);
            let header = read_header(len, |offset, out| file::read_at(fd, offset, out))?;
            let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
            Ok(Content::Array {
                descr: header.dtype.descr().to_owned(),
                shape: header.shape,
                fortran: header.fortran_order,
                data: (header.data_offset, header.data_len),
                frozen: memfd::get_seals(fd)?.contains(seals),
            })
        }
    }
}
