//! Headers keep their bytes, come back as they went in, and never break their reader.

use proptest::prelude::*;

use super::*;

fn dict(descr: &str, order: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}")
}

/// A file with that dict and no padding, followed by `data_len` bytes.
fn file(version: u8, text: &str, data_len: usize) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([version, 0]);
    if version == 1 {
        bytes.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
    } else {
        bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    }
    bytes.extend(text.as_bytes());
    bytes.resize(bytes.len() + data_len, 0);
    bytes
}

fn parse(bytes: &[u8]) -> Result<NpyHeader> {
    NpyHeader::parse(bytes, bytes.len() as u64)
}

fn refused(bytes: &[u8], block_len: u64) -> String {
    let error = NpyHeader::parse(bytes, block_len).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout, "{error}");
    error.to_string()
}

#[test]
fn a_new_header_has_these_bytes() {
    let header = encode_header(&DType::of::<f64>(), false, &[3, 4]).unwrap();
    assert_eq!(header.len(), 4096);
    let text = b"\x93NUMPY\x01\x00\xf6\x0f{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }";
    assert_eq!(header[..text.len()], *text);
    assert!(header[text.len()..4095].iter().all(|&byte| byte == b' '));
    assert_eq!(header[4095], b'\n');
}

#[test]
fn shapes_are_written_as_python_writes_them() {
    for (shape, tuple) in [(&[][..], "()"), (&[3], "(3,)"), (&[3, 4], "(3, 4)"), (&[0, 4, 5], "(0, 4, 5)")] {
        let header = encode_header(&DType::of::<u8>(), true, shape).unwrap();
        assert!(header[10..].starts_with(dict("|u1", "True", tuple).as_bytes()), "{tuple}");
    }
}

#[test]
fn the_longest_shape_fits() {
    let header = encode_header(&DType::of::<u8>(), false, &[usize::MAX; MAX_RANK]).unwrap();
    assert_eq!(header.len(), DATA_OFFSET);
    let error = encode_header(&DType::of::<u8>(), false, &[1; MAX_RANK + 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_name_that_does_not_fit_is_refused() {
    let long = DType::parse(&format!("<M8[{}]", "s".repeat(5000))).unwrap();
    assert_eq!(encode_header(&long, false, &[1]).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn files_of_every_version_that_numpy_wrote_open() {
    let opened = |bytes: &[u8]| {
        let header = parse(bytes).unwrap();
        assert_eq!(header.data_offset, 128);
        assert_eq!(header.data_offset + header.data_len, bytes.len());
        (header.dtype.to_string(), header.fortran_order, header.shape)
    };
    let expected = |descr: &str, order, shape: &[usize]| (descr.to_owned(), order, shape.to_vec());
    assert_eq!(opened(include_bytes!("../../tests/data/version_1.npy")), expected("<f8", false, &[3, 4]));
    assert_eq!(opened(include_bytes!("../../tests/data/version_2.npy")), expected("<i2", true, &[3, 4]));
    assert_eq!(opened(include_bytes!("../../tests/data/version_3.npy")), expected("|u1", false, &[5]));
    assert_eq!(opened(include_bytes!("../../tests/data/scalar.npy")), expected("<f4", false, &[]));
    assert_eq!(opened(include_bytes!("../../tests/data/empty.npy")), expected("<u2", false, &[2, 0, 3]));
    assert_eq!(opened(include_bytes!("../../tests/data/big_endian.npy")), expected(">f8", false, &[3]));
    assert_eq!(opened(include_bytes!("../../tests/data/booleans.npy")), expected("|b1", false, &[3]));
}

#[test]
fn a_structured_file_is_a_type_mismatch() {
    let error = parse(include_bytes!("../../tests/data/structured.npy")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TypeMismatch);
}

#[test]
fn the_prefix_alone_is_enough() {
    let bytes = include_bytes!("../../tests/data/version_2.npy");
    let len = NpyHeader::prefix_len(&bytes[..12]).unwrap();
    assert_eq!(len, 128);
    assert_eq!(NpyHeader::parse(&bytes[..len], bytes.len() as u64).unwrap(), parse(bytes).unwrap());
    assert!(refused(&bytes[..len - 1], bytes.len() as u64).contains("found 127 bytes, expected a header of 128"));
}

#[test]
fn data_that_ends_past_the_block_is_refused() {
    let bytes = include_bytes!("../../tests/data/version_1.npy");
    assert_eq!(bytes.len(), 224);
    let message = refused(bytes, 223);
    assert!(message.contains("found a block of 223 bytes, expected 224"), "{message}");
    assert!(refused(bytes, 100).contains("found 100 bytes, expected a header of 128"));
}

#[test]
fn products_that_overflow_are_refused() {
    for shape in
        ["(4294967296, 4294967296)", "(1152921504606846976,)", "(0, 9223372036854775807)", "(18446744073709551615, 0)"]
    {
        let message = refused(&file(1, &dict("<f8", "False", shape), 64), u64::MAX);
        assert!(message.contains("no memory can hold"), "{message}");
    }
    // The elements alone would fit an address space.
    let nearly = format!("({},)", isize::MAX);
    assert!(refused(&file(1, &dict("|u1", "False", &nearly), 64), 4096).contains("found a block of 4096"));
    assert!(refused(&file(1, &dict("|V0", "False", "(4294967296, 4294967296)"), 64), 4096).contains("no memory"));
}

#[test]
fn other_files_are_refused() {
    let good = file(1, &dict("<f8", "False", "(1,)"), 8);
    parse(&good).unwrap();
    for len in 0..good.len() {
        refused(&good[..len], len as u64);
    }
    for version in [[0, 0], [1, 1], [2, 1], [4, 0], [255, 255]] {
        let mut other = good.clone();
        other[6..8].copy_from_slice(&version);
        assert!(refused(&other, other.len() as u64).contains("version"));
    }
    refused(b"PK\x03\x04 not an array at all", 100);
}

#[test]
fn lengths_are_not_believed() {
    let mut bytes = file(2, &dict("<f8", "False", "(1,)"), 8);
    for len in [u32::MAX, 1 << 31, 1 << 24, 65536] {
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        assert!(refused(&bytes, u64::MAX).contains("expected at most"));
        assert!(NpyHeader::prefix_len(&bytes[..12]).is_err());
    }
    bytes[8..12].copy_from_slice(&65535_u32.to_le_bytes());
    assert_eq!(NpyHeader::prefix_len(&bytes[..12]).unwrap(), MAX_HEADER);
}

#[test]
fn every_length_of_version_1_can_be_read() {
    let mut text = dict("<f8", "False", "(1,)");
    text.push_str(&" ".repeat(usize::from(u16::MAX) - text.len()));
    let header = parse(&file(1, &text, 8)).unwrap();
    assert_eq!(header.data_offset, 10 + 65535);
}

#[test]
fn a_block_has_header_data_and_trailer() {
    let layout =
        |data_len, trailer_offset, total_len| BlockLayout { data_offset: 4096, data_len, trailer_offset, total_len };
    assert_eq!(BlockLayout::new(8, &[3, 4]).unwrap(), layout(96, 4224, 4288));
    assert_eq!(BlockLayout::new(8, &[]).unwrap(), layout(8, 4160, 4224));
    assert_eq!(BlockLayout::new(8, &[8]).unwrap(), layout(64, 4160, 4224));
    assert_eq!(BlockLayout::new(8, &[5, 0]).unwrap(), layout(0, 4096, 4160));
}

#[test]
fn blocks_that_no_memory_can_hold_are_refused() {
    let max = isize::MAX.unsigned_abs();
    for (item_size, shape) in [
        (8, &[usize::MAX][..]),
        (8, &[max / 8 + 1]),
        (8, &[0, max]),
        (8, &[1 << 32, 1 << 32]),
        (0, &[1 << 32, 1 << 32]),
        (1, &[max]),
        (1, &[max - 4096 - 64]),
    ] {
        let error = BlockLayout::new(item_size, shape).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSize, "{item_size} {shape:?}");
    }
    assert!(BlockLayout::new(1, &[max - 4096 - 64 - 63]).is_ok());
    assert_eq!(BlockLayout::new(8, &[1; 33]).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn lengths_count_elements_and_bytes() {
    assert_eq!(checked_len(8, &[]), Some((1, 8)));
    assert_eq!(checked_len(8, &[3, 4]), Some((12, 96)));
    assert_eq!(checked_len(8, &[3, 0]), Some((0, 0)));
    assert_eq!(checked_len(0, &[3, 4]), Some((12, 0)));
}

fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![
        Just(DType::of::<f64>()),
        Just(DType::of::<u8>()),
        Just(DType::of::<i32>()),
        Just(DType::parse(">c16").unwrap()),
        Just(DType::parse("<M8[ns]").unwrap()),
        (0..100_usize).prop_map(|size| DType::parse(&format!("|V{size}")).unwrap()),
    ]
}

fn shapes() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![prop::collection::vec(0..20_usize, 0..6), prop::collection::vec(any::<usize>(), 0..3)]
}

/// What every accepted header promises.
fn check_bounds(header: &NpyHeader, prefix_len: usize, block_len: u64) {
    let (elements, bytes) = checked_len(header.dtype.item_size(), &header.shape).unwrap();
    assert_eq!(elements, header.shape.iter().product::<usize>());
    assert_eq!(bytes, header.data_len);
    assert!(header.data_offset <= prefix_len && header.data_offset <= MAX_HEADER);
    assert!((header.data_offset + header.data_len) as u64 <= block_len);
    assert!(header.shape.len() <= MAX_NUMPY_RANK);
}

proptest! {
    #[test]
    fn headers_come_back_as_they_went_in(dtype in dtypes(), fortran_order: bool, shape in shapes()) {
        let bytes = encode_header(&dtype, fortran_order, &shape).unwrap();
        let parsed = NpyHeader::parse(&bytes, u64::MAX);
        match checked_len(dtype.item_size(), &shape) {
            Some((_, data_len)) if data_len <= usize::MAX - DATA_OFFSET => {
                let expected = NpyHeader { dtype, fortran_order, shape, data_offset: DATA_OFFSET, data_len };
                prop_assert_eq!(parsed.unwrap(), expected);
            }
            _ => prop_assert_eq!(parsed.unwrap_err().kind(), ErrorKind::Layout),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), block_len: u64) {
        if let Ok(header) = NpyHeader::parse(&bytes, block_len) {
            check_bounds(&header, bytes.len(), block_len);
        }
    }

    #[test]
    fn arbitrary_text_after_a_good_start_never_panics(text in "[{}()\\[\\]'\":, \n0-9a-zA-Z<>|_é]{0,200}", version in 1..4_u8) {
        let bytes = file(version, &text, 16);
        if let Ok(header) = parse(&bytes) {
            check_bounds(&header, bytes.len(), bytes.len() as u64);
        }
    }

    #[test]
    fn arbitrary_words_of_the_grammar_never_panic(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "(", ")", ",", ":", "'descr'", "'fortran_order'", "'shape'", "'<f8'", "True", "False", "3", "0",
                "18446744073709551615", "4L", " ", "\n", "'descr': '<f8',", "'fortran_order': False,", "'shape': (3,),",
            ]),
            0..20,
        ),
    ) {
        let bytes = file(1, &words.concat(), 64);
        if let Ok(header) = parse(&bytes) {
            check_bounds(&header, bytes.len(), bytes.len() as u64);
        }
    }

    #[test]
    fn damaged_headers_never_panic(
        dtype in dtypes(),
        shape in shapes(),
        damage in prop::collection::vec((0..120_usize, any::<u8>()), 1..4),
        cut in prop::option::of(0..4096_usize),
        block_len in prop_oneof![Just(u64::MAX), 0..10_000_u64],
    ) {
        let mut bytes = encode_header(&dtype, false, &shape).unwrap();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        bytes.truncate(cut.unwrap_or(4096));
        if let Ok(header) = NpyHeader::parse(&bytes, block_len) {
            check_bounds(&header, bytes.len(), block_len);
        }
    }
}
