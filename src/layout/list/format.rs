//! What an item's format and code say.
//!
//! | value | format | code | data |
//! |---|---|---|---|
//! | int | `q` | 0 | i64 |
//! | float | `d` | 0 | f64 |
//! | bool | `xxxxxxx?` | 0 | the value in byte 7, the others 0 |
//! | None | `xxxxxx?x` | 3 | 0 |
//! | str | `<slot>s` | 1 | UTF-8, then NUL to the end of the slot |
//! | bytes | `<slot>s` | 2 | the bytes, then NUL |
//!
//! The field of a format has 8 bytes and is filled up with NUL. Python's `struct` skips white space, and CPython replaces a
//! format that ends in any by a clean one when it writes; so white space after a format is room for what CPython has no
//! place for: behind that of a str or bytes the number of NUL bytes that the value ends in, which would be lost between
//! the padding, and behind others for a moment the [`visitors`](super::visitors). It counts in base 6, the highest digit
//! first, the digits being [`DIGITS`].

use super::WORD;

/// The white space that `struct` skips, by what it stands for.
pub(super) const DIGITS: [u8; 6] = [0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x20];

pub(crate) const INT: u64 = u64::from_le_bytes(*b"q\0\0\0\0\0\0\0");
pub(crate) const FLOAT: u64 = u64::from_le_bytes(*b"d\0\0\0\0\0\0\0");
pub(crate) const BOOL: u64 = u64::from_le_bytes(*b"xxxxxxx?");
pub(crate) const NONE: u64 = u64::from_le_bytes(*b"xxxxxx?x");

/// The data of `True`: byte 7 is 1.
pub(crate) const TRUE: u64 = 1 << 56;

pub(crate) const CODE_PLAIN: u8 = 0;
pub(crate) const CODE_STR: u8 = 1;
pub(crate) const CODE_BYTES: u8 = 2;
pub(crate) const CODE_NONE: u8 = 3;

/// What a format field says, whatever the code beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Int,
    Float,
    Bool,
    None,
    Text(Text),
}

/// The extent of a str or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    /// Bytes of the slot that hold the value and its padding; at most the slot.
    pub(crate) len: usize,
    /// NUL bytes that belong to the end of the value; at most `len`.
    pub(crate) nuls: usize,
}

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemType {
    Int,
    Float,
    Bool,
    None,
    Str(Text),
    Bytes(Text),
}

impl Format {
    /// `None` for what is no format of an item in a slot of that width.
    pub(crate) fn parse(format: u64, slot: usize) -> Option<Self> {
        match format {
            INT => return Some(Self::Int),
            FLOAT => return Some(Self::Float),
            BOOL => return Some(Self::Bool),
            NONE => return Some(Self::None),
            _ => {}
        }
        let bytes = format.to_le_bytes();
        let end = WORD - bytes.iter().rev().take_while(|&&byte| byte == 0).count();
        let space = bytes[..end].iter().rev().take_while(|byte| DIGITS.contains(byte)).count();
        let (text, space) = bytes[..end].split_at(end - space);
        match text {
            b"q" => Some(Self::Int),
            b"d" => Some(Self::Float),
            super::visitors::SHORT_BOOL if !space.is_empty() => Some(Self::Bool),
            [digits @ .., b's'] => {
                let len = number(digits).filter(|&len| len <= slot)?;
                let nuls = count(space);
                (nuls <= len).then_some(Self::Text(Text { len, nuls }))
            }
            _ => None,
        }
    }

    /// `None` where the code is none or another value's: the item is damaged, or somebody is just changing it.
    pub(crate) fn with_code(self, code: u8) -> Option<ItemType> {
        match (self, code) {
            (Self::Int, CODE_PLAIN) => Some(ItemType::Int),
            (Self::Float, CODE_PLAIN) => Some(ItemType::Float),
            (Self::Bool, CODE_PLAIN) => Some(ItemType::Bool),
            (Self::None, CODE_NONE) => Some(ItemType::None),
            (Self::Text(text), CODE_STR) => Some(ItemType::Str(text)),
            (Self::Text(text), CODE_BYTES) => Some(ItemType::Bytes(text)),
            _ => None,
        }
    }
}

/// The number that digits stand for, without leading zeros and with as many as a format has room for.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + usize::from(digit - b'0')))
}

/// The number that white space stands for.
fn count(space: &[u8]) -> usize {
    let value = |byte| DIGITS.iter().position(|&digit| digit == byte).unwrap_or(0);
    space.iter().fold(0, |number, &byte| number * DIGITS.len() + value(byte))
}

/// The format of a str or bytes in a slot of that width whose value ends in so many NUL bytes; `None` where there is no
/// room for their number.
pub(crate) fn text_format(slot: usize, nuls: usize) -> Option<u64> {
    let mut bytes = slot.to_string().into_bytes();
    bytes.push(b's');
    let start = bytes.len();
    let mut rest = nuls;
    while rest > 0 {
        bytes.insert(start, DIGITS[rest % DIGITS.len()]);
        rest /= DIGITS.len();
    }
    let mut field = [0; WORD];
    field.get_mut(..bytes.len())?.copy_from_slice(&bytes);
    Some(u64::from_le_bytes(field))
}

/// The most NUL bytes that a value in a slot of that width can end in.
pub(crate) fn most_nuls(slot: usize) -> usize {
    let room = WORD.saturating_sub(slot.to_string().len() + 1);
    (1..=room).fold(0, |most, _| most * DIGITS.len() + DIGITS.len() - 1).min(slot)
}

/// A format as it is stored, for messages.
pub(crate) fn show(format: u64) -> String {
    let bytes = format.to_le_bytes();
    let end = WORD - bytes.iter().rev().take_while(|&&byte| byte == 0).count();
    format!("\"{}\"", bytes[..end].escape_ascii())
}
