//! Numbers that are written to a stream, and answered by who reads them at the other end. The project's benchmarks measure
//! with these functions, too.

use std::fs::File;
use std::io::{self, Read, Write};

/// How much a reader takes at a time, at most: what stays in a processor's own cache. Divides every larger size.
pub(crate) const PIECE: usize = 256 << 10;

/// Sends the rest of a message and waits for the answer.
pub(crate) fn hand_over(to: &mut File, from: &mut File, bytes: &[u8]) -> io::Result<u64> {
    to.write_all(bytes)?;
    let mut answer = [0; 8];
    from.read_exact(&mut answer)?;
    Ok(u64::from_ne_bytes(answer))
}

/// Answers every message of `bytes` bytes with the sum of what `read` makes of its pieces, until there are no more.
pub(crate) fn serve(input: &mut File, output: &mut File, bytes: usize, read: impl Fn(&[u64]) -> u64) -> io::Result<()> {
    let mut buffer = vec![0_u64; bytes.min(PIECE) / size_of::<u64>()];
    loop {
        let mut total = 0_u64;
        for _ in 0..bytes.div_ceil(PIECE) {
            match input.read_exact(bytemuck::cast_slice_mut(&mut buffer)) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                taken => taken?,
            }
            total = total.wrapping_add(read(&buffer));
        }
        output.write_all(&total.to_ne_bytes())?;
    }
}
