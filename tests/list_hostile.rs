//! A block that is no list, or that another process damages at any time, is an error: never a panic, a read outside of the
//! block, or a str that is not UTF-8.
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ndshm::{ErrorKind, ShareableList, SharedMemory, Value, shareable_list};
use proptest::prelude::*;

fn list_in(bytes: &[u8]) -> ndshm::Result<ShareableList> {
    let memory = SharedMemory::anonymous(bytes.len()).unwrap();
    memory.write_at(0, bytes).unwrap();
    ShareableList::from_memory(memory)
}

fn example() -> ShareableList {
    shareable_list![1, 2.5, true, None, "abc", b"xyz\0", "a longer text, of three words", 7, "ü".repeat(300)].unwrap()
}

fn bytes_of(memory: &SharedMemory) -> Vec<u8> {
    let mut bytes = vec![0; memory.size()];
    memory.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Everything that a list can be asked, which must not panic. Errors are those of damage.
fn use_all(list: &ShareableList) {
    for value in list {
        check(value);
    }
    check(list.slice(..));
    check(list.format());
    check(list.count(&1.into()));
    check(list.index(&"abc".into()));
    let _ = list.to_string();
    for index in 0..list.len() {
        for value in [Value::from(3), "x".into(), Value::None, 1.5.into()] {
            list.set(index, &value).unwrap();
            assert_eq!(list.get(index).unwrap(), value, "setting repairs");
        }
    }
}

#[track_caller]
fn check<T>(result: ndshm::Result<T>) {
    if let Err(error) = result {
        assert_eq!(error.kind(), ErrorKind::Layout, "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_a_list_or_an_error(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
        match list_in(&bytes) {
            Ok(list) => use_all(&list),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Layout),
        }
    }

    #[test]
    fn a_list_with_bits_flipped_is_a_list_or_an_error(
        before in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..8), 0..4),
        after in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..8), 0..40),
    ) {
        let mut bytes = bytes_of(example().shm());
        for (at, bit) in before {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        match list_in(&bytes) {
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Layout),
            Ok(list) => {
                for (at, bit) in after {
                    let at = at.index(bytes.len());
                    list.shm().write_at(at, &[bytes[at] ^ (1 << bit)]).unwrap();
                }
                use_all(&list);
            }
        }
    }
}

#[test]
fn blocks_that_are_no_lists_are_layout_errors() {
    let memory = SharedMemory::create(4096).unwrap();
    memory.write_at(0, b"\x93NUMPY\x01\0").unwrap();
    let error = ShareableList::attach(memory.name().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout);
    assert!(error.to_string().starts_with("not a list block: it is an array"), "{error}");
    let memory = SharedMemory::create(4096).unwrap();
    memory.write_at(0, b"PLAINEST").unwrap();
    let error = ShareableList::attach(memory.name().unwrap()).unwrap_err();
    assert!(error.to_string().starts_with("not a list block: found "), "{error}");
    for len in 1..16 {
        assert_eq!(list_in(&vec![0; len]).unwrap_err().kind(), ErrorKind::Layout);
    }
}

#[test]
fn a_file_that_only_seems_large_costs_nothing() {
    let path = std::path::Path::new("/dev/shm").join(format!("ndshm-test-sparse-{}", std::process::id()));
    let file = std::fs::File::create_new(&path).unwrap();
    let attached = (|| {
        file.set_len(1 << 40)?;
        std::os::unix::fs::FileExt::write_all_at(&file, &(1_u64 << 35).to_le_bytes(), 0)?;
        Ok::<_, std::io::Error>(ShareableList::attach(path.file_name().unwrap().to_str().unwrap()))
    })();
    std::fs::remove_file(&path).unwrap();
    let error = attached.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Layout | ErrorKind::NoSpace), "{error}");
}

#[test]
fn what_is_damaged_after_attaching_is_an_error_and_the_structure_is_not_read_again() {
    let list = example();
    let reader = ShareableList::attach_read_only(list.shm().name().unwrap()).unwrap();
    let values = list.slice(..).unwrap();
    // Count and offsets.
    list.shm().write_at(0, &[0xff; 8 * 11]).unwrap();
    assert_eq!(reader.slice(..).unwrap(), values);
    assert_eq!(ShareableList::attach(list.shm().name().unwrap()).unwrap_err().kind(), ErrorKind::Layout);
    // Everything.
    list.shm().write_at(0, &vec![0xff; list.shm().size()]).unwrap();
    for value in &reader {
        assert_eq!(value.unwrap_err().kind(), ErrorKind::Layout);
    }
    use_all(&list);
}

#[test]
fn a_str_that_is_no_utf_8_is_an_error_that_says_where() {
    let list = example();
    list.shm().write_at(8 * 11 + 8 * 4, b"a\xffc").unwrap();
    let error = list.get(4).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout);
    assert!(
        error.to_string().contains("item 4 is a str that cannot be decoded: found no UTF-8 at byte 1 of 3"),
        "{error}"
    );
    list.shm().write_at(8 * 11 + 8 * 6 + 3, b"\xc3").unwrap();
    assert!(list.get(6).unwrap_err().to_string().contains("byte 3 of 29"));
    assert!(list.get(7).is_ok());
}

#[test]
fn an_item_whose_writer_died_is_an_error_until_it_is_set() {
    let list = example();
    let codes = list.shm().size() - list.len();
    for (index, code) in [(0, 3), (4, 3), (6, 3), (3, 0), (8, 0)] {
        list.shm().write_at(codes + index, &[code]).unwrap();
        let error = list.get(index).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Layout);
        assert!(error.to_string().contains("setting it makes it whole"), "{error}");
        assert!(list.to_string().contains("<damaged>"));
        let attached = ShareableList::attach(list.shm().name().unwrap()).unwrap();
        attached.set(index, "whole").unwrap();
        assert_eq!(list.get(index).unwrap(), Value::from("whole"));
    }
}

#[test]
fn a_visitor_that_died_delays_the_next_change_of_the_type_and_nothing_else() {
    let list = ShareableList::new([1]).unwrap();
    list.shm().write_at(8 * 4, b"q\x20").unwrap();
    assert_eq!(list.get(0).unwrap(), Value::Int(1));
    let start = Instant::now();
    list.set(0, 2).unwrap();
    assert_eq!(list.get(0).unwrap(), Value::Int(2));
    list.set(0, 2.5).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(500), "it might still be inside");
    assert!(start.elapsed() < Duration::from_secs(5));
    // The quickest of several: a busy machine may stop this thread for as long as that at any time.
    let quickest = (0..10).map(|_| {
        let start = Instant::now();
        list.set(0, 3).unwrap();
        list.set(0, 2.5).unwrap();
        start.elapsed()
    });
    assert!(quickest.min().unwrap() < Duration::from_millis(250), "only once");
    assert_eq!(list.get(0).unwrap(), Value::Float(2.5));
    assert_eq!(list.format().unwrap(), "d");
    list.shm().write_at(8 * 4, b"7x?\x09").unwrap();
    list.shm().write_at(8 * 3, &[0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
    list.set(0, false).unwrap();
    assert_eq!(list.get(0).unwrap(), Value::Bool(false));
}

#[test]
fn a_list_that_is_damaged_all_the_time_is_read_without_harm() {
    let list = example();
    let len = list.shm().size();
    let good = bytes_of(list.shm());
    let (attacker, reader) = (list.shm(), ShareableList::attach_read_only(list.shm().name().unwrap()).unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seed = 1_u64;
            while !done.load(Ordering::Relaxed) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 20) as usize % len;
                let byte = if seed >> 62 == 0 { seed.to_le_bytes()[2] } else { good[at] };
                attacker.write_at(at, &[byte]).unwrap();
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            for value in &reader {
                check(value);
            }
            check(reader.slice(4..));
            check(ShareableList::attach(reader.shm().name().unwrap()));
        }
        done.store(true, Ordering::Relaxed);
    });
}
