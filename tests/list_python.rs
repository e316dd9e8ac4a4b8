//! A `ShareableList` and CPython's are the same bytes: each reads what the other made, and both write over each other's
//! items in place.
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod common;

use std::cell::RefCell;
use std::fmt::Write as _;

use common::{BlocksLeft, PythonProcess, python, unique_name};
use ndshm::{ErrorKind, ShareableList, SharedMemory, Value, shareable_list};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

/// Before 3.13 Python removes what it attaches to when it ends, unless it is told not to.
const PRELUDE: &str = r"
import os
from multiprocessing import resource_tracker, shared_memory
nan, inf = float('nan'), float('inf')
def untracked(items):
    resource_tracker.unregister(items.shm._name, 'shared_memory')
    return items
def attach(name):
    return untracked(shared_memory.ShareableList(name=name))
def make(values):
    return untracked(shared_memory.ShareableList(values))
def dispose(items):
    items.shm.close()
    os.unlink('/dev/shm/' + items.shm.name)
def plain(values):
    return [(type(value), repr(value)) for value in values]
def put(items, at, value):
    try:
        items[at] = value
        return True
    except ValueError:
        return False
";

fn start() -> Option<PythonProcess> {
    python()?;
    let mut python = PythonProcess::start();
    python.run(PRELUDE);
    Some(python)
}

/// As Python writes them: `Display` of a value is its `repr`.
fn literal(values: &[Value]) -> String {
    let mut literal = "[".to_owned();
    for value in values {
        write!(literal, "{value}, ").unwrap();
    }
    literal + "]"
}

fn is_true(python: &mut PythonProcess, expression: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!(python.run(expression), "True", "{}", expression);
    Ok(())
}

fn hex(memory: &SharedMemory) -> String {
    let mut bytes = vec![0; memory.size()];
    memory.read_at(0, &mut bytes).unwrap();
    bytes.iter().fold("'".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    }) + "'"
}

/// What CPython reads of it: without NUL at the end.
fn stripped(value: &Value) -> Value {
    match value {
        Value::Str(text) => Value::from(text.trim_end_matches('\0')),
        Value::Bytes(bytes) => {
            let len = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            Value::from(&bytes[..len])
        }
        other => other.clone(),
    }
}

fn same(ours: &[Value], theirs: &[Value]) -> bool {
    // NaN is not equal to itself, and 0.0 is to -0.0.
    literal(ours) == literal(theirs)
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop_oneof![any::<i64>(), -2_i64..3].prop_map(Value::Int),
        prop_oneof![any::<f64>(), Just(f64::NAN), Just(-0.0), Just(f64::INFINITY)].prop_map(Value::Float),
        any::<bool>().prop_map(Value::Bool),
        Just(Value::None),
    ]
}

/// A value that CPython stores as it is: it counts characters for bytes and loses NUL.
fn ascii_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[ -~]{0,12}", "[ -~]{0,60}"].prop_map(Value::Str);
    let bytes = prop::collection::vec(1_u8.., 0..40).prop_map(Value::Bytes);
    prop_oneof![4 => number(), 2 => text, 1 => bytes]
}

/// A value that takes no more bytes than characters would, in words of 8, or any other.
fn any_value() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["\\PC{0,20}", "[a\0é]{0,30}", "[😀ß]{0,9}"].prop_map(Value::Str);
    let bytes = prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..40).prop_map(Value::Bytes);
    prop_oneof![2 => number(), 3 => text, 2 => bytes]
}

fn check<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config).run(strategy, test).unwrap();
}

#[test]
fn lists_of_every_type_have_cpython_s_bytes() {
    let Some(python) = start() else { return };
    let python = RefCell::new(python);
    let lengths = prop_oneof![4 => 0_usize..20, 1 => 0_usize..=1000];
    let lists = lengths.prop_flat_map(|len| prop::collection::vec(ascii_value(), len));
    check(120, &lists, |values| {
        let python = &mut *python.borrow_mut();
        let list = ShareableList::new(&values).unwrap();
        python.run(&format!("theirs = make({})", literal(&values)));
        let name = python.run("theirs.shm.name");
        let left = BlocksLeft::watch([name.trim_matches('\'')]);
        prop_assert_eq!(hex(list.shm()), python.run("theirs.shm.buf.hex()"));
        prop_assert_eq!(format!("'{}'", list.format().unwrap()), python.run("theirs.format"));
        let attached = ShareableList::attach(name.trim_matches('\'')).unwrap();
        prop_assert!(same(&attached.slice(..).unwrap(), &values));
        python.run("dispose(theirs)");
        left.assert_gone();
        Ok(())
    });
}

#[test]
fn python_reads_what_was_written_here() {
    let Some(python) = start() else { return };
    let python = RefCell::new(python);
    check(120, &prop::collection::vec(any_value(), 0..30), |values| {
        let python = &mut *python.borrow_mut();
        let list = ShareableList::new(&values).unwrap();
        python.run(&format!("ours = attach('{}')", list.shm().name().unwrap()));
        let expected: Vec<Value> = values.iter().map(stripped).collect();
        is_true(python, &format!("plain(ours) == plain({})", literal(&expected)))?;
        is_true(python, &format!("len(ours) == {}", values.len()))?;
        python.run("ours.shm.close()");
        prop_assert!(same(&list.slice(..).unwrap(), &values));
        Ok(())
    });
}

/// Everything that is done to a list that both have attached is done by CPython alone to a twin.
#[test]
fn both_write_over_each_other_s_items_in_place() {
    let Some(python) = start() else { return };
    let python = RefCell::new(python);
    let values = prop::collection::vec(ascii_value(), 1..12);
    let changes = prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), ascii_value()), 1..40);
    check(60, &(values, changes, any::<bool>()), |(values, changes, made_here)| {
        let python = &mut *python.borrow_mut();
        let twins = if made_here { 1 } else { 2 };
        python.run(&format!("lists = [make({}) for _ in range({twins})]; twin = lists[0]", literal(&values)));
        let made = made_here.then(|| ShareableList::new(&values).unwrap());
        let list = if let Some(list) = made {
            python.run(&format!("shared = attach('{}')", list.shm().name().unwrap()));
            list
        } else {
            python.run("shared = lists[1]");
            ShareableList::attach(python.run("shared.shm.name").trim_matches('\'')).unwrap()
        };
        for (here, at, value) in changes {
            let at = at.index(values.len());
            let fits = if here {
                let result = list.set(at, &value);
                if let Err(error) = &result {
                    prop_assert_eq!(error.kind(), ErrorKind::InvalidSize);
                }
                if result.is_ok() { "True" } else { "False" }
            } else if python.run(&format!("put(shared, {at}, {value})")) == "True" {
                "True"
            } else {
                "False"
            };
            prop_assert_eq!(python.run(&format!("put(twin, {at}, {value})")), fits, "{}", value);
            is_true(python, &format!("plain([shared[{at}]]) == plain([twin[{at}]])"))?;
            if fits == "True" {
                prop_assert!(same(&[list.get(at).unwrap()], &[value]));
            }
        }
        prop_assert_eq!(hex(list.shm()), python.run("twin.shm.buf.hex()"));
        is_true(python, "plain(shared) == plain(twin)")?;
        python.run("shared.shm.close() if shared not in lists else None\nfor items in lists: dispose(items)");
        Ok(())
    });
}

/// With NULs at their ends, and more bytes than characters.
#[test]
fn any_value_is_written_over_any_other_from_both_sides() {
    let Some(python) = start() else { return };
    let python = RefCell::new(python);
    let items = prop::collection::vec(any_value(), 1..8);
    let changes = prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any_value()), 1..30);
    check(60, &(items, changes), |(mut values, changes)| {
        let python = &mut *python.borrow_mut();
        let list = ShareableList::new(&values).unwrap();
        python.run(&format!("shared = attach('{}')", list.shm().name().unwrap()));
        for (here, at, value) in changes {
            let at = at.index(values.len());
            if here {
                if list.set(at, &value).is_ok() {
                    values[at] = value;
                }
            } else if python.run(&format!("put(shared, {at}, {value})")) == "True" {
                values[at] = stripped(&value);
            }
            prop_assert!(same(&[list.get(at).unwrap()], &[values[at].clone()]), "{:?} {:?}", list.get(at), values[at]);
            is_true(python, &format!("plain([shared[{at}]]) == plain([{}])", stripped(&values[at])))?;
        }
        python.run("shared.shm.close()");
        Ok(())
    });
}

#[test]
fn texts_up_to_the_limit_go_both_ways() {
    let Some(mut python) = start() else { return };
    let list = shareable_list!["x".repeat(9_999_991), "é".repeat(4_999_995), vec![7; 9_999_991]].unwrap();
    python.run(&format!("shared = attach('{}')", list.shm().name().unwrap()));
    assert_eq!(python.run("list(shared) == ['x' * 9_999_991, 'é' * 4_999_995, bytes([7]) * 9_999_991]"), "True");
    assert_eq!(python.run("put(shared, 0, 'y' * 9_999_992), put(shared, 2, 'z' * 9_999_993)"), "(True, False)");
    assert_eq!(list.get(0).unwrap(), Value::from("y".repeat(9_999_992)));
    python.run("theirs = make(['a' * 9_999_991, None])");
    let theirs = ShareableList::attach(python.run("theirs.shm.name").trim_matches('\'')).unwrap();
    assert_eq!(theirs.slice(..).unwrap(), [Value::from("a".repeat(9_999_991)), Value::None]);
    python.run("dispose(theirs); shared.shm.close()");
}

#[test]
fn a_str_that_cpython_has_cut_is_an_error_and_not_a_panic() {
    let Some(mut python) = start() else { return };
    // 7 characters of 2 bytes in a slot of 8: the cut falls between two of them; with a third byte before, inside of one.
    python.run("theirs = make(['ééééééé', 'aéééééé', 'fine'])");
    let list = ShareableList::attach(python.run("theirs.shm.name").trim_matches('\'')).unwrap();
    assert_eq!(list.get(0).unwrap(), Value::from("éééé"));
    let error = list.get(1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout);
    assert!(error.to_string().contains("cannot be decoded"), "{error}");
    assert_eq!(list.get(2).unwrap(), Value::from("fine"));
    assert_eq!(list.count(&"fine".into()).unwrap_err().kind(), ErrorKind::Layout);
    assert!(list.to_string().starts_with("ShareableList(['éééé', <damaged>, 'fine'], name='"));
    list.set(1, "aééé").unwrap();
    assert_eq!(python.run("theirs[1]"), "'aééé'");
    python.run("dispose(theirs)");
}

#[test]
fn python_s_longer_block_and_its_name_are_taken() {
    let Some(mut python) = start() else { return };
    let name = unique_name("python");
    let left = BlocksLeft::watch([name.as_str()]);
    python.run(&format!("items = untracked(shared_memory.ShareableList([1, 'two'], name='{name}'))"));
    assert_eq!(ShareableList::create_named(&name, [0]).unwrap_err().kind(), ErrorKind::AlreadyExists);
    python.run(&format!("os.truncate('/dev/shm/{name}', 10_000)"));
    let mut list = ShareableList::attach(&name).unwrap();
    assert_eq!((list.shm().size(), list.len()), (10_000, 2));
    list.set(1, "drei").unwrap();
    assert_eq!(python.run("list(items)"), "[1, 'drei']");
    list.unlink().unwrap();
    left.assert_gone();
}

#[test]
fn python_counts_and_finds_the_same() {
    let Some(mut python) = start() else { return };
    let values: Vec<Value> = vec![
        1.into(),
        1.0.into(),
        true.into(),
        0.into(),
        false.into(),
        f64::NAN.into(),
        i64::MAX.into(),
        9_223_372_036_854_775_807.0.into(),
        ((1_i64 << 53) + 1).into(),
        9_007_199_254_740_992.0.into(),
        "1".into(),
        b"1".into(),
        Value::None,
        f64::INFINITY.into(),
        i64::MIN.into(),
        (-9_223_372_036_854_775_808.0).into(),
    ];
    let list = ShareableList::new(&values).unwrap();
    python.run(&format!("shared = attach('{}')", list.shm().name().unwrap()));
    python.run("def find(value):\n    try: return shared.index(value)\n    except ValueError: return None");
    for value in &values {
        let found = list.index(value).unwrap().map_or("None".to_owned(), |at| at.to_string());
        assert_eq!(python.run(&format!("find({value})")), found, "{value}");
        assert_eq!(python.run(&format!("shared.count({value})")), list.count(value).unwrap().to_string(), "{value}");
    }
    python.run("shared.shm.close()");
}
