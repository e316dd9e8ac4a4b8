//! Telling a list from other blocks without reading all of it.

use super::format::{CODE_NONE, Format};
use super::{MAX_SLOT, MIN_ITEM, MIN_TOTAL, WORD};
use crate::Result;

/// How many items are looked at: a block of anything else does not pass the first few.
const LOOK: usize = 512;

/// The number of items, where a block of `block_len` bytes looks like a list: its total fits, and so do slots, formats
/// and codes of the first items. A list has no mark, so nothing tells an empty one from zeros but its size.
///
/// `read` fills a buffer with what begins at an offset, and says whether that was all there.
pub(crate) fn glance(
    block_len: usize,
    mut read: impl FnMut(usize, &mut [u8]) -> Result<bool>,
) -> Result<Option<usize>> {
    let mut word = [0; WORD];
    if block_len < MIN_TOTAL || !read(0, &mut word)? {
        return Ok(None);
    }
    let most = (block_len - MIN_TOTAL) / MIN_ITEM;
    let Some(items) = usize::try_from(i64::from_le_bytes(word)).ok().filter(|&items| items <= most) else {
        return Ok(None);
    };
    if items == 0 {
        let empty = block_len == MIN_TOTAL && read(WORD, &mut word)? && word == [0; WORD];
        return Ok(empty.then_some(0));
    }
    let looked = items.min(LOOK);
    // No overflow, here and below: so many items fit the block.
    let Some(offsets) = words(WORD, looked + 1, &mut read)? else { return Ok(None) };
    let slots: Vec<usize> =
        offsets.windows(2).map_while(|pair| usize::try_from(pair[1].checked_sub(pair[0])?).ok()).collect();
    let fit =
        slots.len() == looked && slots.iter().all(|slot| (WORD..=MAX_SLOT).contains(slot) && slot.is_multiple_of(WORD));
    let Some(end) = words(WORD * (items + 1), 1, &mut read)?.filter(|_| offsets[0] == 0 && fit) else {
        return Ok(None);
    };
    let first = WORD * (items + 2);
    let Some(formats) = usize::try_from(end[0]).ok().and_then(|end| first.checked_add(end)) else { return Ok(None) };
    let codes = formats.checked_add(items * WORD);
    if codes.and_then(|codes| codes.checked_add(items)).is_none_or(|total| total > block_len) {
        return Ok(None);
    }
    let Some(found) = words(formats, looked, &mut read)? else { return Ok(None) };
    let mut found_codes = vec![0; looked];
    if !read(formats + items * WORD, &mut found_codes)? {
        return Ok(None);
    }
    let sound = found.iter().zip(&slots).all(|(&format, &slot)| Format::parse(format, slot).is_some())
        && found_codes.iter().all(|&code| code <= CODE_NONE);
    Ok(sound.then_some(items))
}

fn words(at: usize, count: usize, read: &mut impl FnMut(usize, &mut [u8]) -> Result<bool>) -> Result<Option<Vec<u64>>> {
    let mut bytes = vec![0; count * WORD];
    Ok(read(at, &mut bytes)?
        .then(|| bytes.as_chunks::<WORD>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[1, 2.5, 'abc']`, as CPython writes it.
    fn list() -> Vec<u8> {
        let mut bytes: Vec<u8> = [3_u64, 0, 8, 16, 24, 1].iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(2.5_f64.to_le_bytes());
        bytes.extend(b"abc\0\0\0\0\0q\0\0\0\0\0\0\0d\0\0\0\0\0\0\08s\0\0\0\0\0\0\0\0\x01");
        bytes
    }

    fn look(bytes: &[u8]) -> Option<usize> {
        glance(bytes.len(), |offset, out| {
            let there = bytes.get(offset..offset + out.len());
            Ok(there.is_some_and(|there| {
                out.copy_from_slice(there);
                true
            }))
        })
        .unwrap()
    }

    #[test]
    fn lists_are_known_by_their_structure() {
        let whole = list();
        assert_eq!(look(&whole), Some(3));
        let longer = [&whole[..], &[7; 100]].concat();
        assert_eq!(look(&longer), Some(3));
        assert_eq!(look(&[0; 16]), Some(0));
    }

    #[test]
    fn other_blocks_are_not() {
        let whole = list();
        for cut in 0..whole.len() {
            assert_eq!(look(&whole[..cut]), None, "the first {cut} bytes");
        }
        // Not the values, which may be anything, and not what is room beside a format.
        for at in (0..40).chain(64..88) {
            let mut other = whole.clone();
            other[at] = 0xee;
            assert_eq!(look(&other), None, "byte {at}");
        }
        assert_eq!(look(&[0; 4096]), None);
        assert_eq!(look(&[0xff; 4096]), None);
        assert_eq!(look(&[]), None);
    }
}
