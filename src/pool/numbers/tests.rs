//! What comes back of values that are numbers, and of those that pretend to be.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::num::NonZeroU8;
use std::sync::Mutex;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::error::ErrorKind;

/// Takes a value in and reads it as another type: from its words, and as its encoding says.
fn read_as<R: DeserializeOwned>(value: &impl Serialize) -> (Form, Result<R>, Result<R>) {
    let mut numbers = Numbers::default();
    let form = numbers.take(value);
    let mut encoded = Vec::new();
    encode_to(&mut encoded, value).unwrap();
    let read = match form {
        Form::Numbers => {
            let kinds = Kinds::of(numbers.kinds().bits() as usize).unwrap();
            assert_eq!(kinds, numbers.kinds());
            let mut same = Vec::new();
            numbers.encode_to(&mut same).unwrap();
            assert_eq!(same, encoded);
            let mut names = Vec::new();
            numbers.write_names(&mut names);
            let len = kinds.words_of_names(|at| names.get(at).copied());
            assert_eq!(len, Some(names.len()));
            let mut values = Vec::new();
            decode_all((kinds, &names), numbers.words(), &mut values).map(|()| values.pop().unwrap())
        }
        Form::Nothing => {
            assert_eq!(encoded, super::super::protocol::NOTHING);
            super::super::results::decode(&encoded)
        }
        Form::Bytes => super::super::results::decode(&encoded),
    };
    (form, read, super::super::results::decode(&encoded))
}

#[track_caller]
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, form: Form) {
    let (taken, read, _) = read_as::<T>(&value);
    assert_eq!((taken, read.unwrap()), (form, value));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Meters(f64);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Pair(i32, bool);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Whole(i64),
    Part(f64),
    Two((u8, f64)),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Unit {
    A,
    B,
}

#[test]
fn numbers_and_few_of_them_come_back_as_words() {
    comes_back(u64::MAX, Form::Numbers);
    comes_back(usize::MAX, Form::Numbers);
    comes_back(i64::MIN, Form::Numbers);
    comes_back(-1_i8, Form::Numbers);
    comes_back(1.5_f32, Form::Numbers);
    comes_back(f64::NEG_INFINITY, Form::Numbers);
    comes_back(true, Form::Numbers);
    comes_back((1_u8, -2_i16, 0.5_f64, false), Form::Numbers);
    comes_back((3_u32,), Form::Numbers);
    comes_back([1.0_f64, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], Form::Numbers);
    comes_back(Meters(2.5), Form::Numbers);
    comes_back((Meters(2.5), Some(7_u64)), Form::Numbers);
    comes_back(Pair(-4, true), Form::Numbers);
    comes_back(Some(3_u16), Form::Numbers);
    comes_back(NonZeroU8::MAX, Form::Numbers);
    for either in [Either::Whole(-3), Either::Part(0.25), Either::Two((1, 2.0))] {
        comes_back(either, Form::Numbers);
    }
}

#[test]
fn structs_of_numbers_come_back_as_words() {
    #[derive(Debug, PartialEq, Clone, Copy, Serialize, Deserialize)]
    struct Extent {
        from: f64,
        to: f64,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        more: Option<u8>,
    }
    let extent = Extent { from: -1.0, to: 0.5, more: None };
    comes_back(extent, Form::Numbers);
    comes_back(Extent { more: Some(3), ..extent }, Form::Numbers);
    comes_back(Some(extent), Form::Numbers);
    comes_back(std::time::Duration::from_millis(1500), Form::Numbers);
    comes_back((extent, 1), Form::Bytes);
    comes_back([extent, extent], Form::Bytes);
}

#[test]
fn nothing_takes_no_words() {
    comes_back((), Form::Nothing);
    comes_back(None::<f64>, Form::Nothing);
}

#[test]
fn all_else_is_encoded() {
    comes_back("text".to_owned(), Form::Bytes);
    comes_back('c', Form::Bytes);
    comes_back(u128::MAX, Form::Bytes);
    comes_back(vec![1_u64], Form::Bytes);
    comes_back([0_u8; 8], Form::Bytes);
    comes_back([0_u8; 0], Form::Bytes);
    comes_back(((1, 2), 3), Form::Bytes);
    comes_back((1, None::<u8>), Form::Bytes);
    comes_back((1, "text".to_owned()), Form::Bytes);
    comes_back(BTreeMap::from([(1, 2)]), Form::Bytes);
    comes_back([Unit::A, Unit::B], Form::Bytes);
}

#[test]
fn a_value_that_makes_do_where_it_is_refused_is_not_asked_to() {
    #[derive(Debug)]
    struct Stubborn;
    impl Serialize for Stubborn {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut tuple = serializer.serialize_tuple(2)?;
            if tuple.serialize_element(&(1, 2)).is_err() {
                tuple.serialize_element(&0)?;
            }
            tuple.serialize_element(&3)?;
            tuple.end()
        }
    }
    let (form, read, _) = read_as::<((u8, u8), u8)>(&Stubborn);
    assert_eq!((form, read.unwrap()), (Form::Bytes, ((1, 2), 3)));
}

#[test]
fn a_value_that_is_gone_once_it_is_written_down_is_left_to_the_encoding() {
    struct Drained(Mutex<Vec<u64>>);
    impl Serialize for Drained {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq(std::mem::take(&mut *self.0.lock().unwrap()))
        }
    }
    let (form, _, read) = read_as::<Vec<u64>>(&Drained(Mutex::new(vec![1, 2, 3])));
    assert_eq!((form, read.unwrap()), (Form::Bytes, vec![1, 2, 3]));
}

#[test]
fn another_type_is_read_as_from_the_encoding() {
    fn same<R: DeserializeOwned + PartialEq + Debug>(value: &impl Serialize) {
        match read_as::<R>(value) {
            (_, Ok(words), Ok(bytes)) => assert_eq!(words, bytes),
            (_, Err(words), Err(bytes)) => assert_eq!(words.to_string(), bytes.to_string()),
            other => panic!("{other:?}"),
        }
    }
    same::<u8>(&300_u64);
    same::<u64>(&-1_i64);
    same::<i64>(&u64::MAX);
    same::<f64>(&3_u8);
    same::<NonZeroU8>(&0_u8);
    same::<Unit>(&1_u32);
    same::<Unit>(&2_u32);
    same::<String>(&1_u32);
    same::<Vec<u64>>(&(1, 2, 3));
    same::<[u64; 2]>(&(1, 2, 3));
    same::<[u64; 4]>(&(1, 2, 3));
    same::<u64>(&(1,));
    same::<(u64,)>(&1);
    same::<u128>(&1_u8);
    same::<bool>(&1_u8);
    same::<Option<Option<u8>>>(&1_u8);
    same::<char>(&65_u32);
    let second = std::time::Duration::from_secs(1);
    same::<BTreeMap<String, u64>>(&second);
    same::<BTreeMap<Option<String>, u64>>(&second);
    same::<BTreeMap<char, u64>>(&second);
    same::<Vec<u64>>(&second);
    same::<(u64, u64)>(&second);
    same::<u64>(&second);
    same::<Either>(&second);
    same::<Meters>(&second);
    same::<std::ops::Range<u64>>(&second);
}

#[derive(Deserialize)]
struct Flag {
    #[expect(dead_code, reason = "only read")]
    f: bool,
}

#[test]
fn what_nobody_has_written_is_an_error() {
    let flags = |flags: u32| flags as usize;
    for bits in
        [0, 6, 0x10, 0x101, 0x11, flags(TUPLE), flags(NAMED), flags(TUPLE | NAMED | BOOL), 1 << 28, 1 << 33, usize::MAX]
    {
        assert_eq!(Kinds::of(bits), None, "{bits:x}");
    }
    let damaged =
        |kind, words: &[u64]| decode_all::<bool>((Kinds::of(kind as usize).unwrap(), &[]), words, &mut Vec::new());
    for error in [damaged(BOOL, &[2]), damaged(SINGLE, &[1 << 32]), damaged(NAMED | BOOL, &[1])] {
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Serialization);
    }
    let names = |words: &[u64]| {
        let kinds = Kinds::of((NAMED | BOOL) as usize).unwrap();
        let len = kinds.words_of_names(|at| words.get(at).copied());
        len.map(|_| decode_all::<Flag>((kinds, words), &[1], &mut Vec::new()).is_ok())
    };
    assert_eq!(names(&[1, u64::from(b'f')]), Some(true));
    assert_eq!(names(&[1, u64::from(b'g')]), Some(false));
    assert_eq!(names(&[1, 0xff]), Some(false), "not UTF-8");
    assert_eq!(names(&[LONGEST as u64 + 1, 0]), None);
    assert_eq!(names(&[u64::MAX]), None);
}
