//! The 64 bytes after the elements: who is writing, and how often the array was written.
//!
//! Offsets are relative to the trailer's start, which is aligned to 64 so that its words are too and share one cache
//! line that holds nothing else. The words are atomics to those who map the block; here they are only laid out.

/// Length of the trailer, and what its start is aligned to.
pub(crate) const TRAILER_LEN: usize = 64;

/// What a trailer starts with.
pub(crate) const MAGIC: [u8; 8] = *b"NDSHMCTL";

/// The version of this layout; a reader that finds another takes the block for one without a trailer.
pub(crate) const VERSION: u32 = 1;

/// `u32`: [`VERSION`].
pub(crate) const VERSION_OFFSET: usize = MAGIC.len();

/// `u32`: id of the process that is writing, 0 when none is.
pub(crate) const WRITER_OFFSET: usize = VERSION_OFFSET + size_of::<u32>();

/// `u64`: one more after each write lock is released.
pub(crate) const GENERATION_OFFSET: usize = WRITER_OFFSET + size_of::<u32>();

/// What is zero from here on is room for later versions.
const RESERVED_OFFSET: usize = GENERATION_OFFSET + size_of::<u64>();

const _: () = {
    assert!(VERSION_OFFSET == 8 && WRITER_OFFSET == 12 && GENERATION_OFFSET == 16 && RESERVED_OFFSET == 24);
    assert!(VERSION_OFFSET.is_multiple_of(align_of::<u32>()));
    assert!(WRITER_OFFSET.is_multiple_of(align_of::<u32>()));
    assert!(GENERATION_OFFSET.is_multiple_of(align_of::<u64>()));
    assert!(TRAILER_LEN.is_power_of_two() && RESERVED_OFFSET <= TRAILER_LEN);
};

/// A trailer for a block that nobody has written yet.
pub(crate) fn encode_trailer() -> [u8; TRAILER_LEN] {
    let mut bytes = [0; TRAILER_LEN];
    bytes[..VERSION_OFFSET].copy_from_slice(&MAGIC);
    bytes[VERSION_OFFSET..WRITER_OFFSET].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

/// Where the trailer of a block starts whose elements end at `data_end`; `None` where that overflows.
pub(crate) fn trailer_offset(data_end: usize) -> Option<usize> {
    data_end.checked_next_multiple_of(TRAILER_LEN)
}

/// Whether a trailer of this version starts here.
pub(crate) fn is_trailer(bytes: &[u8]) -> bool {
    bytes.len() >= TRAILER_LEN
        && bytes[..VERSION_OFFSET] == MAGIC
        && bytes[VERSION_OFFSET..WRITER_OFFSET] == VERSION.to_le_bytes()
}

/// The process that is writing and the generation, of a trailer of this version.
pub(crate) fn parse(bytes: &[u8]) -> Option<(u32, u64)> {
    let bytes: &[u8; TRAILER_LEN] = bytes.first_chunk().filter(|bytes| is_trailer(*bytes))?;
    let writer = u32::from_le_bytes(*bytes[WRITER_OFFSET..].first_chunk()?);
    let generation = u64::from_le_bytes(*bytes[GENERATION_OFFSET..].first_chunk()?);
    Some((writer, generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_trailer_has_these_bytes() {
        let mut expected = b"NDSHMCTL\x01\0\0\0".to_vec();
        expected.resize(64, 0);
        assert_eq!(encode_trailer().as_slice(), expected);
    }

    #[test]
    fn a_trailer_is_known_by_magic_and_version() {
        let trailer = encode_trailer();
        assert!(is_trailer(&trailer));
        assert!(!is_trailer(&trailer[..63]));
        assert!(!is_trailer(&[0; 64]));
        for at in 0..WRITER_OFFSET {
            let mut other = trailer;
            other[at] ^= 2;
            assert!(!is_trailer(&other), "byte {at}");
        }
        let mut written = trailer;
        written[WRITER_OFFSET] = 7;
        written[GENERATION_OFFSET] = 9;
        assert!(is_trailer(&written));
        assert_eq!(parse(&written), Some((7, 9)));
        assert_eq!((parse(&[0; 64]), parse(&trailer[..63])), (None, None));
    }

    #[test]
    fn it_starts_at_the_next_multiple_of_64() {
        assert_eq!(trailer_offset(4096), Some(4096));
        assert_eq!(trailer_offset(4097), Some(4160));
        assert_eq!(trailer_offset(4160), Some(4160));
        assert_eq!(trailer_offset(usize::MAX), None);
    }
}
