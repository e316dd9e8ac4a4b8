//! A `ShareableList` holds, compares, prints and gives back what Python's would, and what does not fit is an error that
//! changes nothing.
#![allow(unsafe_code, reason = "fork, and attaching to arrays")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod common;
mod reexec;

use common::{BlocksLeft, assert_kind, unique_name};
use ndarray::Ix1;
use ndshm::{ErrorKind, ShareableList, SharedArray, SharedMemory, Value, shareable_list};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use proptest::prelude::*;
use reexec::role;

fn name_of(list: &ShareableList) -> &str {
    list.shm().name().unwrap()
}

fn bytes_of(memory: &SharedMemory) -> Vec<u8> {
    let mut bytes = vec![0xee; memory.size()];
    memory.read_at(0, &mut bytes).unwrap();
    bytes
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Float),
        any::<bool>().prop_map(Value::Bool),
        "\\PC{0,20}".prop_map(Value::Str),
        "[a\0]{0,20}".prop_map(Value::Str),
        prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..40).prop_map(Value::Bytes),
        Just(Value::None),
    ]
}

#[test]
fn a_list_that_is_taken_for_an_array_says_what_it_is_and_the_other_way_round() {
    let list = shareable_list![1, "two", 3.0].unwrap();
    // SAFETY: nothing is attached.
    let taken = unsafe { SharedArray::<f64, Ix1>::attach(name_of(&list)) };
    let words = ["not an array block: it is a list of 3 items", "ShareableList::attach", name_of(&list)];
    assert_kind(taken, ErrorKind::Layout, &words);

    let name = unique_name("no-list");
    let array = SharedArray::<f64, _>::options().name(&name).zeros(3).unwrap();
    let words = ["not a list block: it is an array", &name];
    assert_kind(ShareableList::attach(&name), ErrorKind::Layout, &words);
    drop(array);

    // What is neither is not taken for the other.
    let memory = SharedMemory::create(4096).unwrap();
    memory.write_at(0, b"something else").unwrap();
    let name = memory.name().unwrap();
    // SAFETY: as above.
    let taken = unsafe { SharedArray::<f64, Ix1>::attach(name) };
    assert_kind(taken, ErrorKind::Layout, &["not an array block"]);
    assert_kind(ShareableList::attach(name), ErrorKind::Layout, &["not a list block"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_list_gives_back_what_was_put_in_and_set(
        values in prop::collection::vec(any_value(), 1..30),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 0..40),
    ) {
        let list = ShareableList::new(&values).unwrap();
        let attached = ShareableList::attach(name_of(&list)).unwrap();
        let room: Vec<usize> = values.iter().map(|value| 8 * (text_len(value) / 8 + 1)).collect();
        let mut model = values;
        for (at, value) in changes {
            let at = at.index(model.len());
            let before = bytes_of(list.shm());
            match attached.set(at, &value) {
                Ok(()) => {
                    prop_assert!(text_len(&value) <= room[at]);
                    model[at] = value;
                }
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::InvalidSize);
                    prop_assert!(text_len(&value) > room[at]);
                    prop_assert_eq!(bytes_of(list.shm()), before, "a set that fails changes nothing");
                }
            }
            prop_assert_eq!(list.get(at).unwrap(), model[at].clone());
        }
        prop_assert_eq!(list.slice(..).unwrap(), model);
    }
}

fn text_len(value: &Value) -> usize {
    value.as_str().map(str::len).or(value.as_bytes().map(<[u8]>::len)).unwrap_or(0)
}

/// The example of CPython's bytes: `[1, 2.5, True, None, 'abc', b'xyz\0', 'howdy']`, where CPython loses the NUL and we
/// note it beside the format.
#[test]
fn a_list_has_cpython_s_bytes() {
    let list = shareable_list![1, 2.5, true, None, "abc", b"xyz\0", "howdy"].unwrap();
    let words: [u64; 18] = [
        7,
        0,
        8,
        16,
        24,
        32,
        40,
        48,
        56,
        1,
        0x4004_0000_0000_0000,
        1 << 56,
        0,
        0x63_6261,
        0x7a_7978,
        0x79_6477_6f68,
        0x71,
        0x64,
    ];
    let mut expected: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    for format in [b"xxxxxxx?", b"xxxxxx?x", b"8s\0\0\0\0\0\0", b"8s\n\0\0\0\0\0", b"8s\0\0\0\0\0\0"] {
        expected.extend(format);
    }
    expected.extend([0, 0, 0, 3, 1, 2, 1]);
    assert_eq!(bytes_of(list.shm()), expected);
    assert_eq!(list.shm().size(), 191);
    list.set(5, b"xyz").unwrap();
    expected[168..176].copy_from_slice(b"8s\0\0\0\0\0\0");
    assert_eq!(bytes_of(list.shm()), expected);
}

#[test]
fn an_empty_list_is_16_zero_bytes() {
    let list = shareable_list![].unwrap();
    assert_eq!(bytes_of(list.shm()), [0; 16]);
    let attached = ShareableList::attach(name_of(&list)).unwrap();
    assert!(attached.is_empty() && attached.iter().next().is_none());
    assert_eq!((attached.slice(..).unwrap(), attached.format().unwrap()), (vec![], String::new()));
    assert_eq!(attached.index(&Value::None).unwrap(), None);
    assert_kind(attached.get(0), ErrorKind::InvalidArgument, &["index 0", "length 0"]);
    assert_kind(attached.set(0, 1), ErrorKind::InvalidArgument, &[]);
    // Any block of zeros is one.
    let memory = SharedMemory::anonymous(100).unwrap();
    assert!(ShareableList::from_memory(memory).unwrap().is_empty());
}

#[test]
fn a_slot_takes_what_fits_and_an_error_says_what_did_not() {
    let list = shareable_list!["1234567", "12345678", 5, None].unwrap();
    list.set(0, "12345678").unwrap();
    assert_eq!(list.get(0).unwrap(), Value::from("12345678"));
    assert_kind(list.set(0, "größer als"), ErrorKind::InvalidSize, &["found 12 bytes", "8 of the slot of item 0"]);
    assert_kind(list.set(1, [1; 17]), ErrorKind::InvalidSize, &["found 17 bytes", "16 of the slot of item 1"]);
    list.set(1, 7).unwrap();
    list.set(1, "sixteen bytes ok").unwrap();
    assert_eq!(list.get(1).unwrap(), Value::from("sixteen bytes ok"));
    for value in [Value::from("8 bytes!"), Value::from(b"8 bytes!"), Value::from(true), Value::from(0.5)] {
        list.set(2, &value).unwrap();
        list.set(3, &value).unwrap();
        assert_eq!(list.slice(2..).unwrap(), [value.clone(), value]);
    }
    assert_eq!(list.format().unwrap(), "8s16sdd");
}

#[test]
fn deleting_sets_to_none_and_keeps_the_length() {
    let list = shareable_list![1, "two", 3.0, b"four", true].unwrap();
    list.delete(1).unwrap();
    assert_eq!(list.get(1).unwrap(), Value::None);
    list.delete_range(3..=4).unwrap();
    list.delete_range(5..).unwrap();
    assert_eq!(list.slice(..).unwrap(), [Value::from(1), Value::None, Value::from(3.0), Value::None, Value::None]);
    assert_eq!((list.len(), list.count(&Value::None).unwrap()), (5, 3));
    assert_eq!(list.format().unwrap(), "qxxxxxx?xdxxxxxx?xxxxxxx?x");
    list.set(1, "again").unwrap();
    list.delete_range(..).unwrap();
    assert_eq!(list.count(&Value::None).unwrap(), 5);
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "they are to be errors")]
fn ranges_outside_of_the_list_are_errors() {
    let list = ShareableList::new([1, 2, 3]).unwrap();
    assert_eq!(list.slice(3..).unwrap(), []);
    assert_eq!(list.slice(..=2).unwrap().len(), 3);
    for range in [0..4, 4..4, 2..1, 0..usize::MAX] {
        assert_kind(list.slice(range.clone()), ErrorKind::InvalidArgument, &["0..3"]);
        assert_kind(list.delete_range(range), ErrorKind::InvalidArgument, &[]);
    }
    assert_kind(list.slice(..=usize::MAX), ErrorKind::InvalidArgument, &[]);
    assert_kind(list.delete(3), ErrorKind::InvalidArgument, &["index 3", "length 3"]);
    assert_eq!(list.slice(..).unwrap(), [1, 2, 3].map(Value::from));
}

#[test]
fn trailing_nuls_survive() {
    let texts = ["", "\0", "a\0", "\0\0\0\0\0\0\0\0", "a\0b\0\0", "0123456789\0\0\0\0\0\0\0\0\0\0\0\0\0"];
    let list = ShareableList::new(texts).unwrap();
    let bytes = ShareableList::new(texts.map(str::as_bytes)).unwrap();
    for (index, text) in texts.into_iter().enumerate() {
        assert_eq!(list.get(index).unwrap(), Value::from(text));
        assert_eq!(bytes.get(index).unwrap(), Value::from(text.as_bytes()));
        bytes.set(index, 0).unwrap();
        bytes.set(index, text.as_bytes()).unwrap();
        assert_eq!(bytes.get(index).unwrap(), Value::from(text.as_bytes()));
    }
    // A wider slot leaves less room to count them.
    let list = ShareableList::new(["x".repeat(9_999), "x".repeat(999_999)]).unwrap();
    let with_nuls = |count: usize| format!("y{}", "\0".repeat(count));
    list.set(0, with_nuls(35)).unwrap();
    assert_eq!(list.get(0).unwrap(), Value::from(with_nuls(35)));
    assert_kind(list.set(0, with_nuls(36)), ErrorKind::InvalidSize, &["ends in 36 NUL bytes", "at most 35", "item 0"]);
    assert_eq!(list.get(0).unwrap(), Value::from(with_nuls(35)));
    assert_kind(list.set(1, with_nuls(1)), ErrorKind::InvalidSize, &["at most 0", "item 1"]);
    assert_kind(ShareableList::new([vec![0_u8; 40], vec![0; 1_000_000]]), ErrorKind::InvalidSize, &["item 1"]);
}

#[test]
fn texts_up_to_the_limit_fit() {
    let most = 9_999_991;
    let list = ShareableList::new(["é".repeat(most / 2), "x".repeat(most)]).unwrap();
    assert_eq!(list.shm().size(), 8 * 4 + 2 * 9_999_992 + 2 * 9);
    assert_eq!(list.format().unwrap(), "9999992s9999992s");
    let attached = ShareableList::attach(name_of(&list)).unwrap();
    assert_eq!(attached.get(0).unwrap().as_str().unwrap().chars().filter(|&c| c == 'é').count(), most / 2);
    attached.set(0, "y".repeat(most + 1)).unwrap();
    assert_eq!(list.get(0).unwrap().as_str().unwrap().len(), most + 1);
    assert_kind(list.set(0, "y".repeat(most + 2)), ErrorKind::InvalidSize, &["9999993", "9999992"]);
    assert_kind(ShareableList::new(["x".repeat(most + 1)]), ErrorKind::InvalidSize, &["found 9999992", "9999991"]);
}

#[test]
fn a_hundred_thousand_items() {
    let list = ShareableList::new(0..100_000).unwrap();
    let attached = ShareableList::attach(name_of(&list)).unwrap();
    attached.set(99_999, -1).unwrap();
    let sum: i64 = list.iter().map(|value| value.unwrap().as_int().unwrap()).sum();
    assert_eq!(sum, (0..99_999).sum::<i64>() - 1);
    assert_eq!(list.index(&Value::from(70_000.0)).unwrap(), Some(70_000));
    assert_eq!(list.iter().len(), 100_000);
    assert_eq!(list.iter().next_back().unwrap().unwrap(), Value::from(-1));
    assert_eq!(list.iter().rev().nth(1).unwrap().unwrap(), Value::from(99_998));
    attached.delete_range(1..).unwrap();
    assert_eq!(list.count(&Value::None).unwrap(), 99_999);
    assert_eq!((&list).into_iter().filter(|value| !value.as_ref().unwrap().is_none()).count(), 1);
}

#[test]
fn count_and_index_compare_as_python_does() {
    let big = (1_i64 << 53) + 1;
    let (rounded, two_to_63) = (9_007_199_254_740_992.0, 9_223_372_036_854_775_808.0);
    let list = shareable_list![1, 1.0, true, 0, -0.0, false, f64::NAN, big, rounded, "1", b"1", None, i64::MAX, 9.3e18]
        .unwrap();
    let count = |value: Value| list.count(&value).unwrap();
    assert_eq!([count(1.into()), count(1.0.into()), count(true.into())], [3, 3, 3]);
    assert_eq!([count(0.into()), count(0.0.into()), count(false.into())], [3, 3, 3]);
    assert_eq!(count(f64::NAN.into()), 0);
    assert_eq!([count(big.into()), count((rounded).into()), count((1_i64 << 53).into())], [1, 1, 1]);
    assert_eq!([count("1".into()), count(b"1".into()), count(Value::None)], [1, 1, 1]);
    assert_eq!([count(i64::MAX.into()), count((two_to_63).into())], [1, 0]);
    assert_eq!([count(f64::INFINITY.into()), count(0.5.into())], [0, 0]);
    assert_eq!(list.index(&true.into()).unwrap(), Some(0));
    assert_eq!(list.index(&(-0.0).into()).unwrap(), Some(3));
    assert_eq!(list.index(&f64::NAN.into()).unwrap(), None);
    assert_eq!(list.index(&b"1".into()).unwrap(), Some(10));
}

#[test]
fn lists_and_values_print_as_in_python() {
    let name = unique_name("print");
    let list = ShareableList::create_named(&name, [Value::from(1), "it's".into(), Value::None]).unwrap();
    assert_eq!(list.to_string(), format!("ShareableList([1, \"it's\", None], name='{name}')"));
    assert_eq!(format!("{list:?}"), list.to_string());
    for (value, shown) in [
        (Value::from(-0.0), "-0.0"),
        (1e15.into(), "1000000000000000.0"),
        (1e16.into(), "1e+16"),
        (1.5e-5.into(), "1.5e-05"),
        (0.0001.into(), "0.0001"),
        (1.0e300.into(), "1e+300"),
        (f64::NAN.into(), "nan"),
        (f64::NEG_INFINITY.into(), "-inf"),
        ("\"'\\\n\u{7f}\u{200b}ß\u{301}😀".into(), r#"'"\'\\\n\x7f\u200bß́😀'"#),
        (b"a'\x00\xff\t".into(), r#"b"a'\x00\xff\t""#),
        (true.into(), "True"),
    ] {
        assert_eq!(value.to_string(), shown);
    }
}

#[test]
fn values_come_from_rust_s_types_and_go_back() {
    let values: Vec<Value> =
        vec![3_u8.into(), 1.5_f32.into(), 'x'.into(), ().into(), Some("y").into(), vec![1_u8].into(), [2_u8; 2].into()];
    assert_eq!(
        values,
        [
            Value::Int(3),
            Value::Float(1.5),
            Value::Str("x".into()),
            Value::None,
            Value::Str("y".into()),
            Value::Bytes(vec![1]),
            Value::Bytes(vec![2, 2])
        ]
    );
    assert_eq!(Value::try_from(i64::MAX as u64).unwrap(), Value::Int(i64::MAX));
    assert_kind(Value::try_from(u64::MAX), ErrorKind::InvalidArgument, &["18446744073709551615"]);
    assert_eq!(u8::try_from(Value::Int(255)).unwrap(), 255);
    assert_kind(u8::try_from(Value::Int(256)), ErrorKind::TypeMismatch, &["256", "fits u8"]);
    assert_kind(f64::try_from(Value::Int(1)), ErrorKind::TypeMismatch, &["found 1, of type int", "a float"]);
    assert_kind(String::try_from(Value::from(b"x")), ErrorKind::TypeMismatch, &["b'x'", "a str"]);
    assert_eq!(Vec::<u8>::try_from(Value::from(b"x")).unwrap(), b"x");
    assert_eq!(Value::default(), Value::None);
}

#[test]
fn values_go_through_serde() {
    let values = vec![
        Value::Int(-5),
        2.5.into(),
        true.into(),
        "größe".into(),
        vec![0_u8, 255, 7].into(),
        Value::None,
        "".into(),
    ];
    let bytes = rmp_serde::to_vec_named(&values).unwrap();
    assert_eq!(rmp_serde::from_slice::<Vec<Value>>(&bytes).unwrap(), values);
    let large = Value::Bytes(vec![255; 1000]);
    assert!(rmp_serde::to_vec(&large).unwrap().len() < 1020, "bytes stay bytes");
}

#[test]
fn the_creator_owns_the_name() {
    let name = unique_name("owner");
    let left = BlocksLeft::watch([name.as_str()]);
    let list = ShareableList::create_named(&name, ["kept"]).unwrap();
    assert_kind(ShareableList::create_named(&name, [0]), ErrorKind::AlreadyExists, &[&name]);
    drop(ShareableList::attach(&name).unwrap());
    let attached = ShareableList::attach(&name).unwrap();
    drop(list);
    left.assert_gone();
    assert_eq!(attached.get(0).unwrap(), Value::from("kept"));
    assert_kind(ShareableList::attach(&name), ErrorKind::NotFound, &[&name]);

    let mut list = ShareableList::create_named(&name, [1]).unwrap();
    list.keep();
    drop(list);
    let mut later = ShareableList::attach(&name).unwrap();
    assert_eq!(later.get(0).unwrap(), Value::Int(1));
    later.unlink().unwrap();
    left.assert_gone();
    drop(ShareableList::create_named(&name, [1]).unwrap().into_shm());
    for bad in ["", "a/b", ".ndshm", "a\0b"] {
        assert_kind(ShareableList::create_named(bad, [1]), ErrorKind::InvalidName, &[]);
        assert_kind(ShareableList::attach(bad), ErrorKind::InvalidName, &[]);
    }
}

#[test]
fn a_list_that_cannot_be_made_leaves_no_name() {
    let name = unique_name("failed");
    let _left = BlocksLeft::watch([name.as_str()]);
    assert_kind(ShareableList::create_named(&name, ["x".repeat(10_000_000)]), ErrorKind::InvalidSize, &[]);
    assert_kind(ShareableList::attach(&name), ErrorKind::NotFound, &[]);
}

#[test]
fn a_list_attached_read_only_is_read() {
    let list = shareable_list![1, "a text that is longer than one word", None].unwrap();
    let reader = ShareableList::attach_read_only(name_of(&list)).unwrap();
    assert!(reader.shm().is_read_only());
    assert_eq!(reader.slice(..).unwrap(), list.slice(..).unwrap());
    assert_eq!(reader.get(1).unwrap(), list.get(1).unwrap());
    assert_eq!((reader.count(&1.into()).unwrap(), reader.format().unwrap()), (1, "q40sxxxxxx?x".into()));
    for value in [Value::from(2), "x".into(), Value::None] {
        assert_kind(reader.set(0, &value), ErrorKind::Permission, &["read-only"]);
    }
    assert_kind(reader.delete(2), ErrorKind::Permission, &[]);
    assert_kind(reader.delete_range(2..), ErrorKind::Permission, &[]);
    list.set(1, "new").unwrap();
    assert_eq!(reader.get(1).unwrap(), Value::from("new"));
}

#[test]
fn in_a_forked_child_calls_are_errors_and_drops_do_nothing() {
    if role().is_none() {
        reexec::run("in_a_forked_child_calls_are_errors_and_drops_do_nothing", "child");
        return;
    }
    let list = shareable_list![1, "a text that is longer than one word"].unwrap();
    let name = name_of(&list).to_owned();
    // SAFETY: this process was started to run this test alone, so no other thread holds a lock that the child needs.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                assert_kind(list.get(0), ErrorKind::Closed, &["forked"]);
                assert_kind(list.get(1), ErrorKind::Closed, &[]);
                assert_kind(list.set(0, 2), ErrorKind::Closed, &[]);
                assert_kind(list.set(0, "x"), ErrorKind::Closed, &[]);
                assert_kind(list.slice(..), ErrorKind::Closed, &[]);
                assert_kind(list.delete_range(..), ErrorKind::Closed, &[]);
                assert_kind(list.format(), ErrorKind::Closed, &[]);
                assert!(list.iter().all(|value| value.is_err()));
                assert!(list.to_string().contains("[<damaged>, <damaged>]"));
                drop(list);
                ShareableList::attach(&name).unwrap().set(0, 3).unwrap();
            }));
            // SAFETY: _exit runs no destructors and no exit handlers, which are the parent's to run.
            unsafe { nix::libc::_exit(i32::from(outcome.is_err())) };
        }
        ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            assert_eq!(list.get(0).unwrap(), Value::Int(3));
        }
    }
}

#[test]
fn handles_go_between_threads() {
    fn assert_send_sync<T: Send + Sync + 'static>(_: &T) {}
    let list = ShareableList::new([0; 4]).unwrap();
    assert_send_sync(&list);
    std::thread::scope(|scope| {
        for index in 0..4 {
            let list = &list;
            scope.spawn(move || {
                for n in 0..1000 {
                    list.set(index, n).unwrap();
                    assert_eq!(list.get(index).unwrap(), Value::from(n));
                }
            });
        }
    });
    assert_eq!(list.slice(..).unwrap(), [999; 4].map(Value::from));
}
