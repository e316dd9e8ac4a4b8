//! Random numbers that nobody can guess, for names.
#![expect(unsafe_code, reason = "getrandom has no safe wrapper among the dependencies")]

use std::io;

use crate::{Error, Result};

/// A random number from the kernel.
pub(crate) fn random_u64() -> Result<u64> {
    let mut bytes = [0_u8; 8];
    loop {
        // SAFETY: the pointer and the length describe `bytes`, which is writable and lives through the call.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if got == 8 {
            // Requests of up to 256 bytes are never cut short.
            return Ok(u64::from_ne_bytes(bytes));
        }
        let error = io::Error::last_os_error();
        if got >= 0 || error.kind() != io::ErrorKind::Interrupted {
            return Err(Error::from_os(error, "cannot get random bytes from the kernel for a name"));
        }
    }
}
