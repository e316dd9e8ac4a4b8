use proptest::prelude::*;

use super::format::{CODE_NONE, DIGITS, Format, ItemType, NONE, Text, most_nuls, show, text_format};
use super::visitors::{Plain, any_inside};
use super::*;

fn parse(block: &[u8]) -> Result<ListLayout> {
    ListLayout::parse(block.len(), |offset, out| {
        out.copy_from_slice(&block[offset..][..out.len()]);
        Ok(())
    })
}

/// The block of a list with zeros in these slots, all of them None.
fn nones(slots: &[usize]) -> Vec<u8> {
    let layout = ListLayout::with_slots(slots.iter().copied()).unwrap();
    let mut block: Vec<u8> = layout.head().flat_map(u64::to_le_bytes).collect();
    block.resize(layout.formats, 0);
    for _ in slots {
        block.extend(NONE.to_le_bytes());
    }
    block.resize(layout.total(), CODE_NONE);
    block
}

fn field(text: &[u8]) -> u64 {
    let mut field = [0; WORD];
    field[..text.len()].copy_from_slice(text);
    u64::from_le_bytes(field)
}

#[test]
fn an_empty_list_is_16_zero_bytes() {
    assert_eq!(nones(&[]), [0; 16]);
    for len in [16, 17, 4096] {
        assert_eq!(parse(&vec![0; len]).unwrap().len(), 0);
    }
    for len in 0..16 {
        assert_eq!(parse(&vec![0; len]).unwrap_err().kind(), ErrorKind::Layout);
    }
}

#[test]
fn a_layout_says_where_its_items_are() {
    let layout = parse(&nones(&[8, 16, 8])).unwrap();
    assert_eq!((layout.len(), layout.total()), (3, 99));
    assert_eq!(layout.place(0), Some(Place { data: 40, slot: 8, format: 72, code: 96 }));
    assert_eq!(layout.place(1), Some(Place { data: 48, slot: 16, format: 80, code: 97 }));
    assert_eq!(layout.place(2), Some(Place { data: 64, slot: 8, format: 88, code: 98 }));
    assert_eq!(layout.place(3), None);
    assert_eq!(layout.place(usize::MAX), None);
}

#[test]
fn structures_that_no_list_has_are_errors() {
    let good = nones(&[8, 16, 8]);
    let with = |word: usize, value: i64| {
        let mut block = good.clone();
        block[word * 8..][..8].copy_from_slice(&value.to_le_bytes());
        parse(&block).unwrap_err().to_string()
    };
    assert!(with(0, -1).contains("found -1 items, expected 0 to 3"));
    assert!(with(0, 4).contains("found 4 items"));
    assert!(with(0, i64::MAX).contains("items"));
    assert!(with(1, 8).contains("first item's offset"));
    assert!(with(1, -8).contains("past the end"));
    assert!(with(2, 0).contains("offset 0 after 0"));
    assert!(with(2, 12).contains("offset 12 after 0"));
    assert!(with(2, 32).contains("offset 24 after 32"));
    assert!(with(4, 40).contains("no room for formats"));
    assert!(with(4, i64::MAX).contains("past the end"));
    assert!(with(4, i64::MIN).contains("past the end"));
    assert!(with(9, 0).contains("format \"\" at item 0"));
    for len in 0..good.len() {
        assert_eq!(parse(&good[..len]).unwrap_err().kind(), ErrorKind::Layout, "cut to {len}");
    }
    for code in [4, 0x7f, 0x80, 0xff] {
        let mut block = good.clone();
        block[97] = code;
        let error = parse(&block).unwrap_err();
        assert!(error.to_string().contains("at item 1, expected 0 to 3"), "{error}");
    }
}

#[test]
fn the_layout_of_python_3_8_is_an_error() {
    // N lengths in place of N + 1 offsets: 3, 8, 8, 8, data.
    let mut block = vec![0; 200];
    for (word, value) in [3_u8, 8, 8, 8].into_iter().enumerate() {
        block[word * 8] = value;
    }
    assert!(parse(&block).unwrap_err().to_string().contains("first item's offset"));
}

#[test]
fn lists_longer_than_one_step_are_read_whole() {
    let slots = vec![8; 3 * STEP + 1];
    let mut block = nones(&slots);
    assert_eq!(parse(&block).unwrap().len(), slots.len());
    let last = block.len() - 1;
    block[last] = 9;
    assert!(parse(&block).unwrap_err().to_string().contains(&format!("code 9 at item {}", slots.len() - 1)));
}

#[test]
fn a_slot_whose_format_has_no_room_is_an_error() {
    assert_eq!(parse(&nones(&[MAX_SLOT])).unwrap().len(), 1);
    let mut block = nones(&[MAX_SLOT]);
    block.splice(16..24, (MAX_SLOT + 8).to_le_bytes());
    block.resize(block.len() + 8, 0);
    assert!(parse(&block).unwrap_err().to_string().contains("expected a step of 8 to 9999992"));
}

#[test]
fn only_formats_of_the_table_are_accepted() {
    let parse = |text: &[u8]| Format::parse(field(text), 24);
    let text = |len, nuls| Some(Format::Text(Text { len, nuls }));
    assert_eq!(parse(b"q"), Some(Format::Int));
    assert_eq!(parse(b"q \t\r\n"), Some(Format::Int));
    assert_eq!(parse(b"d\x0b\x0c"), Some(Format::Float));
    assert_eq!(parse(b"xxxxxxx?"), Some(Format::Bool));
    assert_eq!(parse(b"xxxxxx?x"), Some(Format::None));
    assert_eq!(parse(b"0s"), text(0, 0));
    assert_eq!(parse(b"5s"), text(5, 0));
    assert_eq!(parse(b"24s"), text(24, 0));
    assert_eq!(parse(b"24s\x0a"), text(24, 1));
    assert_eq!(parse(b"24s\x0a\x09"), text(24, 6));
    assert_eq!(parse(b"24s\x0c\x20"), text(24, 23));
    for bad in [
        &b""[..],
        b" ",
        b"s",
        b"q\0q",
        b"q\0 ",
        b" q",
        b"@q",
        b"08s",
        b"00s",
        b"25s",
        b"9999999s",
        b"-8s",
        b"+8s",
        b"8s8s",
        b"24s\x0d\x0a",
        b"24ss",
        b"8 s",
        b"qq",
        b"i",
        b"7x?",
        b"6x?x",
        b"xxxxxx?",
        b"\xff",
        b"q\xa0",
        b"1q",
    ] {
        assert_eq!(parse(bad), None, "{}", bad.escape_ascii());
    }
    assert_eq!(show(field(b"24s\n")), "\"24s\\n\"");
}

#[test]
fn codes_have_to_match() {
    let text = Text { len: 8, nuls: 0 };
    let formats = [Format::Int, Format::Float, Format::Bool, Format::None, Format::Text(text)];
    let matching: Vec<_> =
        formats.iter().flat_map(|format| (0..=255).filter_map(|code| format.with_code(code))).collect();
    let expected =
        [ItemType::Int, ItemType::Float, ItemType::Bool, ItemType::None, ItemType::Str(text), ItemType::Bytes(text)];
    assert_eq!(matching, expected);
}

#[test]
fn formats_of_text_count_what_fits_behind_them() {
    assert_eq!(text_format(8, 0), Some(field(b"8s")));
    assert_eq!(text_format(8, 8), Some(field(b"8s\x0a\x0b")));
    assert_eq!(text_format(9_999_992, 0), Some(field(b"9999992s")));
    assert_eq!(text_format(9_999_992, 1), None);
    for slot in [8, 16, 96, 104, 992, 1000, 9_992, 10_000, 99_992, 100_000, 999_992, 1_000_000, 9_999_992] {
        let most = most_nuls(slot);
        for nuls in [0, 1, 5, 6, 7, most.saturating_sub(1), most] {
            if nuls <= most {
                let format = text_format(slot, nuls).unwrap();
                assert_eq!(Format::parse(format, slot), Some(Format::Text(Text { len: slot, nuls })));
            }
        }
        assert!(most == slot || text_format(slot, most + 1).is_none());
    }
    assert_eq!(most_nuls(10_000), 35);
    assert_eq!(most_nuls(100_000), 5);
}

#[test]
fn visitors_are_counted_up_to_six() {
    for plain in Plain::ALL {
        let mut format = plain.format();
        assert!(!any_inside(format));
        let mut formats = vec![format];
        while let Some(next) = plain.enter(format) {
            assert!(any_inside(next));
            assert_eq!(plain.leave(next), Some(format));
            assert_eq!(Format::parse(next, 8), Format::parse(plain.format(), 8), "it reads the same");
            format = next;
            formats.push(format);
        }
        assert_eq!(formats.len(), DIGITS.len() + 1);
        assert_eq!(plain.leave(plain.format()), None);
        for other in Plain::ALL.into_iter().filter(|&other| other != plain) {
            assert!(formats.iter().all(|&format| other.enter(format).is_none() && other.leave(format).is_none()));
        }
    }
    for other in [NONE, 0, field(b"8s"), field(b"8s\n"), field(b"q\n\n"), field(b"qq")] {
        assert!(!any_inside(other));
        assert!(Plain::ALL.into_iter().all(|plain| plain.enter(other).is_none()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_a_list_or_an_error(
        items in 0_u64..6,
        words in prop::collection::vec(prop_oneof![any::<u64>(), (0_u64..12).prop_map(|word| word * 8)], 0..40),
        tail in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut block = items.to_le_bytes().to_vec();
        block.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        block.extend(tail);
        check(&block)?;
        check(&block[8..])?;
    }

    #[test]
    fn a_list_with_bits_flipped_is_a_list_or_an_error(
        slots in prop::collection::vec((1_usize..5).prop_map(|words| words * 8), 0..20),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..8), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut block = nones(&slots);
        for (at, bit) in flips {
            let at = at.index(block.len());
            block[at] ^= 1 << bit;
        }
        check(&block)?;
        check(&block[..cut.index(block.len())])?;
    }
}

/// The reader of [`parse`] panics where it is asked for bytes outside of the block.
fn check(block: &[u8]) -> Result<(), TestCaseError> {
    match parse(block) {
        Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Layout),
        Ok(layout) => {
            prop_assert!(layout.total() <= block.len());
            let mut end = 8 * (layout.len() + 2);
            for item in 0..layout.len() {
                let place = layout.place(item).unwrap();
                prop_assert_eq!(place.data, end);
                prop_assert!(place.slot >= 8 && place.slot.is_multiple_of(8));
                end += place.slot;
                prop_assert!(place.format.is_multiple_of(8) && place.format >= 8 * (layout.len() + 2));
                prop_assert!(place.format + 8 <= layout.codes() && place.code >= layout.codes());
                prop_assert!(place.code < layout.total());
            }
        }
    }
    Ok(())
}
