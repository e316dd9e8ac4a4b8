//! Processes that read and write the same items at once never see half of a value, and one that is killed in the middle
//! harms nobody for long.
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod common;
mod reexec;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use common::{PythonProcess, python};
use ndshm::{ErrorKind, ShareableList, Value, shareable_list};
use reexec::role;

const TIME: Duration = Duration::from_secs(2);

/// A generator of numbers that need not be good.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// A value that shows by itself that it is whole; among them those whose data is zero whatever their type.
    fn value(&mut self, kinds: u64) -> Value {
        let n = if self.below(3) == 0 { 0 } else { self.below(1000) };
        match self.below(kinds) {
            0 => Value::Int(i64::try_from(n << 32 | n).unwrap()),
            1 => Value::Float(f64::from(u32::try_from(n).unwrap()) / 2.0),
            2 => Value::Bool(n.is_multiple_of(2)),
            3 => Value::None,
            4 => short(n).into(),
            5 => long(n).into(),
            _ => with_nuls(n).into(),
        }
    }
}

/// As many characters as the character says, in one word and in several.
fn short(n: u64) -> String {
    let len = usize::try_from(n % 9).unwrap();
    char::from(b"0123456789"[len]).to_string().repeat(len)
}

fn long(n: u64) -> String {
    let len = usize::try_from(n % 20).unwrap();
    ["é", "a"][len % 2].repeat(len)
}

fn with_nuls(n: u64) -> Vec<u8> {
    let nuls = usize::try_from(n % 10).unwrap();
    [vec![b'x'; 2 * nuls], vec![0; nuls]].concat()
}

fn is_whole(value: &Value) -> bool {
    match value {
        Value::Int(n) => n >> 32 == n & 0xffff_ffff && *n >> 32 < 1000,
        Value::Float(x) => (0.0..500.0).contains(x) && (x * 2.0).fract() == 0.0,
        Value::Bool(_) | Value::None => true,
        Value::Str(text) => (0..20).any(|n| *text == short(n) || *text == long(n)),
        Value::Bytes(bytes) => (0..10).any(|n| *bytes == with_nuls(n)),
    }
}

/// Item by item: what it may become.
const KINDS: [u64; 6] = [1, 2, 4, 5, 7, 7];

fn hammer(list: &ShareableList, seed: u64, until: Instant) -> u64 {
    let mut random = Random(seed);
    let mut rounds = 0;
    while Instant::now() < until {
        for _ in 0..100 {
            let at = usize::try_from(random.below(KINDS.len() as u64)).unwrap();
            let value = random.value(KINDS[at]);
            list.set(at, &value).unwrap();
            for (at, value) in list.iter().enumerate() {
                let value = value.unwrap();
                assert!(is_whole(&value), "item {at} is {value:?}");
            }
        }
        rounds += 1;
        let values = list.slice(..).unwrap();
        assert!(values.iter().all(is_whole), "{values:?}");
    }
    rounds
}

fn playground() -> ShareableList {
    let room = "0123456789012345678901234567890123456789";
    let list = shareable_list![0, 0, 0, 0, room, room].unwrap();
    list.delete_range(3..).unwrap();
    list
}

/// The formats in which somebody is counted who overwrites a number or a bool. No value here is like one.
fn visited(name: &str) -> Vec<String> {
    let block = fs::read(Path::new("/dev/shm").join(name)).unwrap();
    let formats = block.as_chunks::<8>().0.iter().filter(|word| match word {
        [b'q' | b'd', count, ..] => matches!(count, b'\t'..=b'\r' | b' '),
        word => word.starts_with(b"7x?"),
    });
    formats.map(|format| format.escape_ascii().to_string()).collect()
}

#[test]
fn two_processes_that_hammer_the_same_items_see_whole_values() {
    const TEST: &str = "two_processes_that_hammer_the_same_items_see_whole_values";
    if let Some(name) = role() {
        let list = ShareableList::attach(&name).unwrap();
        let rounds = hammer(&list, u64::from(std::process::id()), Instant::now() + TIME);
        println!("{rounds} rounds of 100 writes");
        return;
    }
    let list = playground();
    let name = list.shm().name().unwrap();
    thread::scope(|scope| {
        let children: Vec<_> = (0..2).map(|_| scope.spawn(|| reexec::run(TEST, name))).collect();
        let reader = ShareableList::attach_read_only(name).unwrap();
        let until = Instant::now() + TIME;
        while Instant::now() < until {
            for value in &reader {
                let value = value.unwrap();
                assert!(is_whole(&value), "{value:?}");
            }
        }
        for child in children {
            child.join().unwrap();
        }
    });
    assert_eq!(visited(name), [""; 0], "nobody is inside any more");
}

/// One process changes the type and the value as fast as it can, the other reads as fast as it can, or overwrites too.
#[test]
fn a_number_whose_type_changes_all_the_time_is_read_whole() {
    const TEST: &str = "a_number_whose_type_changes_all_the_time_is_read_whole";
    const PLAIN: u64 = 3;
    if let Some(name) = role() {
        let list = ShareableList::attach(&name).unwrap();
        let mut random = Random(u64::from(std::process::id()));
        let until = Instant::now() + TIME;
        while Instant::now() < until {
            for _ in 0..100 {
                list.set(0, random.value(PLAIN)).unwrap();
            }
        }
        return;
    }
    // Long enough that format, code and data are not in one cache line.
    let list = ShareableList::new([0; 64]).unwrap();
    let name = list.shm().name().unwrap();
    thread::scope(|scope| {
        let child = scope.spawn(|| reexec::run(TEST, name));
        let mut random = Random(1);
        while !child.is_finished() {
            for _ in 0..10_000 {
                let value = list.get(0).unwrap();
                assert!(is_whole(&value), "{value:?}");
            }
            for _ in 0..1000 {
                // Mostly of the type that is there, which takes no lock.
                let value = list.get(0).unwrap();
                assert!(is_whole(&value), "{value:?}");
                let new = random.value(PLAIN);
                if random.below(50) == 0 || std::mem::discriminant(&new) == std::mem::discriminant(&value) {
                    list.set(0, new).unwrap();
                }
            }
        }
        child.join().unwrap();
    });
}

#[test]
fn threads_count_without_losing_the_items_beside_theirs() {
    let list = ShareableList::new([Value::Int(0), Value::from(""), Value::None, Value::from(0.5)]).unwrap();
    thread::scope(|scope| {
        for at in 0..4 {
            let other = ShareableList::attach(list.shm().name().unwrap()).unwrap();
            scope.spawn(move || {
                let mut random = Random(at as u64 + 1);
                for _ in 0..2000 {
                    let value = random.value(5);
                    other.set(at, &value).unwrap();
                    assert_eq!(other.get(at).unwrap(), value, "nobody else writes it");
                }
            });
        }
    });
}

#[test]
fn a_writer_that_is_killed_leaves_a_list_that_can_be_set() {
    const TEST: &str = "a_writer_that_is_killed_leaves_a_list_that_can_be_set";
    if let Some(name) = role() {
        let list = ShareableList::attach(&name).unwrap();
        let mut random = Random(u64::from(std::process::id()));
        loop {
            for (at, &kinds) in KINDS.iter().enumerate() {
                list.set(at, random.value(kinds)).unwrap();
            }
        }
    }
    let list = playground();
    for _ in 0..5 {
        let output = reexec::after("(sleep 0.2; kill -9 $$) >/dev/null 2>&1 &", TEST, list.shm().name().unwrap());
        assert_eq!(output.status.signal(), Some(9), "{output:?}");
        for at in 0..list.len() {
            match list.get(at) {
                Ok(value) => assert!(is_whole(&value), "{value:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Layout, "{error}"),
            }
            let start = Instant::now();
            for value in [Value::Int(7), 7.5.into(), Value::None, "seven".into()] {
                list.set(at, &value).unwrap();
                assert_eq!(list.get(at).unwrap(), value);
            }
            assert!(start.elapsed() < Duration::from_secs(1));
        }
    }
}

/// Python before 3.13 removes what it attaches to when it ends, unless it is told not to.
const PRELUDE: &str = "
from multiprocessing import resource_tracker, shared_memory
def attach(name):
    items = shared_memory.ShareableList(name=name)
    resource_tracker.unregister(items.shm._name, 'shared_memory')
    return items
";

#[test]
fn what_python_writes_meanwhile_is_whole_or_an_error_and_its_numbers_are_never_torn() {
    if python().is_none() {
        return;
    }
    let list = playground();
    let mut python = PythonProcess::start();
    python.run(&format!("{PRELUDE}\nshared = attach('{}')", list.shm().name().unwrap()));
    python.begin(
        "
while shared[2] is not True:
    for n in range(500):
        shared[0] = n << 32 | n
        shared[4] = 'é' * (n % 20)
        shared[5] = [n / 2, None, 'a' * (n % 40), b'x' * 7, n][n % 5]
        n = shared[1]
        assert n >> 32 == n & 0xffffffff, n
",
    );
    let mut random = Random(1);
    let (mut read, mut refused) = (0_u32, 0_u32);
    let (mut rounds, mut blank) = (0_u32, 0_u32);
    let until = Instant::now() + TIME;
    while Instant::now() < until {
        for _ in 0..100 {
            let n = random.value(1);
            list.set(1, n).unwrap();
            // Python blanks the format of an item before it writes it again, and may lose its processor in between.
            match list.get(0) {
                Ok(value) => assert!(is_whole(&value), "{value:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Layout, "{error}");
                    blank += 1;
                }
            }
            rounds += 1;
            for value in list.iter().skip(4) {
                match value {
                    Ok(_) => read += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Layout, "{error}");
                        refused += 1;
                    }
                }
            }
            if random.below(10) == 0 {
                list.set(4, long(random.below(20))).unwrap();
            }
        }
    }
    list.set(2, true).unwrap();
    python.finish().unwrap();
    println!("{read} values read, {refused} refused; {blank} of {rounds} numbers blank");
    assert!(read > refused && rounds > 10 * blank, "{read} read, {refused} refused; {blank} of {rounds} blank");
}
