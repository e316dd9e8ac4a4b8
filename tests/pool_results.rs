//! Results of tasks: whatever type they are of, they are what they would be without a pool.
#![allow(clippy::unwrap_used, reason = "helpers of tests and tasks")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the numbers are small"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroI16, Wrapping};
use std::time::{Duration, SystemTime};

use ndarray::Array1;
use ndshm::{Each, Pool};
use serde::de::{self, DeserializeOwned, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

ndshm::init_before_main!();

const COUNT: usize = 40;

/// What a value is after it was encoded.
fn through_the_encoding<R: Serialize + DeserializeOwned>(value: &R) -> R {
    rmp_serde::from_slice(&rmp_serde::to_vec_named(value).unwrap()).unwrap()
}

/// In a serial pool and in workers, what each task returns is what the encoding makes of it.
macro_rules! same {
    ($(|$i:ident| $value:expr;)*) => {
        let items: Vec<usize> = (0..COUNT).collect();
        for pool in [Pool::serial(), Pool::builder().workers(2).build().unwrap()] {
            $({
                let results = pool.map(Each(&items), |$i, _| $value).unwrap();
                let expected: Vec<_> = items.iter().map(|&$i| through_the_encoding(&$value)).collect();
                assert_eq!(format!("{results:?}"), format!("{expected:?}"), "{}", stringify!($value));
            })*
        }
    };
}

#[derive(Serialize, Deserialize, Debug)]
struct Unit;

#[derive(Serialize, Deserialize, Debug)]
struct Newtype(f32);

#[derive(Serialize, Deserialize, Debug)]
struct OfTuple((u8, i64));

#[derive(Serialize, Deserialize, Debug)]
#[serde(transparent)]
struct Transparent {
    inner: Option<u8>,
}

#[derive(Serialize, Deserialize, Debug)]
struct Named {
    a: u8,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    b: Option<u8>,
    #[serde(flatten)]
    more: BTreeMap<String, i8>,
}

#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Statistics {
    mean_of_all: f64,
    #[serde(rename = "n")]
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    first_bad: Option<i8>,
    #[serde(skip, default = "seven")]
    #[expect(dead_code, reason = "only printed")]
    skipped: u8,
    is_whole: bool,
}

fn seven() -> u8 {
    7
}

fn statistics(i: usize) -> Statistics {
    Statistics {
        mean_of_all: i as f64 / 3.0,
        count: i,
        first_bad: i.is_multiple_of(3).then_some(-1),
        skipped: 0,
        is_whole: !i.is_multiple_of(2),
    }
}

#[derive(Serialize, Deserialize, Debug)]
struct Eight {
    a: u8,
    b: u8,
    c: u8,
    d: u8,
    e: u8,
    f: u8,
    g: u8,
    h: u8,
}

#[derive(Serialize, Deserialize, Debug)]
struct WithAName {
    #[serde(
        rename = "a name that is so long that it is not said for each of many runs, but for each value with all others"
    )]
    long: f64,
    #[serde(rename = "")]
    none: f64,
}

#[derive(Serialize, Deserialize, Debug)]
struct Outer {
    #[serde(flatten)]
    inner: Newer,
    sum: f32,
}

#[derive(Serialize, Deserialize, Debug)]
struct Newer {
    #[serde(alias = "minimum")]
    min: i16,
    max: i16,
}

#[derive(Serialize, Deserialize, Debug)]
#[serde(untagged)]
enum Shape {
    Circle { radius: f64 },
    Box { width: f64, height: f64 },
    Named { name: String, sides: u8 },
    Number(u64),
}

#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "kind")]
enum Inside {
    Round { radius: f64 },
    Square { side: f64 },
}

/// Reads a struct's fields as another type than they were written from.
#[derive(Debug)]
struct AsMap(BTreeMap<String, f64>);

impl Serialize for AsMap {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Newer { min: self.0.len() as i16, max: -1 }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for AsMap {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(d).map(Self)
    }
}

/// Its keys are an enum's variants.
#[derive(Debug)]
struct ByField(#[expect(dead_code, reason = "only printed")] Vec<(Field, u8)>);

#[derive(Deserialize, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    #[serde(rename = "min")]
    Least,
    #[serde(rename = "max")]
    Most,
}

impl Serialize for ByField {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Newer { min: 1, max: 2 }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for ByField {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(BTreeMap::deserialize(d)?.into_iter().collect()))
    }
}

#[derive(Serialize, Deserialize, Debug)]
enum Plain {
    A,
    B(u8),
    C(u8, f64),
    D { d: u8 },
}

#[derive(Serialize, Deserialize, Debug)]
#[serde(untagged)]
enum Untagged {
    Small(u8),
    Signed(i64),
    Part(f32),
    Double(f64),
    Flag(bool),
    One((u16,)),
    Two(u8, i8),
    Text(String),
    Nothing,
}

#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "t", content = "c")]
enum Tagged {
    A(u8),
    B,
}

/// What the visitor is told, word for word.
#[derive(Debug, Clone)]
struct Told(&'static str, i128);

impl Serialize for Told {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            "i64" => s.serialize_i64(self.1 as i64),
            "i8" => s.serialize_i8(self.1 as i8),
            _ => s.serialize_u64(self.1 as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Listener;
        macro_rules! visits {
            ($($method:ident $type:ident;)*) => {$(
                fn $method<E>(self, value: $type) -> Result<Told, E> {
                    Ok(Told(stringify!($type), value.into()))
                }
            )*};
        }
        impl Visitor<'_> for Listener {
            type Value = Told;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            visits! {
                visit_u8 u8; visit_u16 u16; visit_u32 u32; visit_u64 u64;
                visit_i8 i8; visit_i16 i16; visit_i32 i32; visit_i64 i64;
            }
        }
        d.deserialize_any(Listener)
    }
}

/// Has another value where the first is not taken.
#[derive(Debug, Deserialize)]
struct Insistent(String, u8);

impl Serialize for Insistent {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut tuple = s.serialize_tuple(2)?;
        if tuple.serialize_element(&self.0).is_err() {
            tuple.serialize_element(&0)?;
        }
        tuple.serialize_element(&self.1)?;
        tuple.end()
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Loose {
    Text(String, u8),
    Numbers(u8, u8),
}

impl Serialize for Loose {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text, number) => Insistent(text.clone(), *number).serialize(s),
            Self::Numbers(a, b) => (a, b).serialize(s),
        }
    }
}

#[derive(Debug, Deserialize, Default)]
enum Index {
    #[default]
    First,
    Second,
}

/// Says that it has fewer than it writes.
#[derive(Debug, Deserialize)]
struct Short((u8,));

impl Serialize for Short {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut tuple = s.serialize_tuple(1)?;
        tuple.serialize_element(&self.0.0)?;
        tuple.serialize_element(&7)?;
        tuple.end()
    }
}

/// An index on the wire, and the first where it cannot be read.
#[derive(Debug)]
struct LenientIndex(Index);

impl Serialize for LenientIndex {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u32(match self.0 {
            Index::First => 0,
            Index::Second => 1,
        })
    }
}

impl<'de> Deserialize<'de> for LenientIndex {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(Index::deserialize(d).unwrap_or_default()))
    }
}

#[derive(Debug)]
struct LenientWide(u128);

impl Serialize for LenientWide {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(self.0 as u64)
    }
}

impl<'de> Deserialize<'de> for LenientWide {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Self(u128::deserialize(d).unwrap_or(77)))
    }
}

/// What it is depends on the value.
#[derive(Debug)]
struct Shifting(usize);

impl Serialize for Shifting {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        assert!(!s.is_human_readable());
        match self.0 % 6 {
            0 => s.serialize_u64(self.0 as u64),
            1 => s.collect_str(&self.0),
            2 => (self.0 as u8, 1.5).serialize(s),
            3 => s.serialize_none(),
            4 => s.serialize_some(&(self.0 as i8)),
            _ => vec![self.0].serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Shifting {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any {
            Number(usize),
            Text(String),
            Two((u8, f64)),
            Many(Vec<usize>),
            Nothing(()),
        }
        assert!(!d.is_human_readable());
        Ok(Self(match Any::deserialize(d)? {
            Any::Number(n) => n,
            Any::Text(text) => text.parse().map_err(de::Error::custom)?,
            Any::Two((n, half)) => usize::from(n) + usize::from(half != 1.5) * 1000,
            Any::Many(many) => many[0],
            Any::Nothing(()) => 3,
        }))
    }
}

#[test]
fn results_of_all_types_are_what_the_encoding_makes_of_them() {
    same! {
        |_i| ();
        |_i| Unit;
        |_i| [0_u8; 0];
        |_i| ((), ());
        |_i| ((),);
        |i| i % 2 == 0;
        |i| char::from(b'a' + i as u8);
        |i| u128::MAX - i as u128;
        |i| -(i as i128);
        |i| f32::from_bits(0x7fa0_0001 + i as u32).to_bits();
        |i| -(i as f64) * 0.0;
        |i| [f64::INFINITY, f64::MIN_POSITIVE, -0.0, f64::EPSILON][i % 4];
        |i| Newtype(-(i as f32) / 3.0);
        |i| OfTuple((i as u8, -(i as i64) << 40));
        |i| (OfTuple((1, i as i64)), 2);
        |i| Transparent { inner: (i % 3 > 0).then_some(i as u8) };
        |i| (Transparent { inner: (i % 3 > 0).then_some(i as u8) }, i);
        |i| Named { a: i as u8, b: (i % 2 > 0).then_some(2), more: [("x".to_owned(), -1)].into() };
        |i| match i % 4 { 0 => Plain::A, 1 => Plain::B(9), 2 => Plain::C(3, 0.5), _ => Plain::D { d: 4 } };
        |i| [Untagged::Small(i as u8), Untagged::Signed(-(i as i64) << 33), Untagged::Part(0.1), Untagged::Double(0.1),
            Untagged::Flag(true), Untagged::One((300,)), Untagged::Two(1, -1), Untagged::Text("t".to_owned()),
            Untagged::Nothing].into_iter().nth(i % 9);
        |i| if i % 2 == 0 { Tagged::A(3) } else { Tagged::B };
        |i| Some(Some((i % 2 > 0).then_some(i)));
        |i| Option::<Option<Unit>>::Some((i % 2 > 0).then_some(Unit));
        |i| if i % 2 > 0 { Ok::<_, String>(Err::<u8, _>(i)) } else { Err("no".to_owned()) };
        |i| statistics(i);
        |i| Some(statistics(i));
        |i| (statistics(i), i);
        |i| [statistics(i)];
        |i| Eight { a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, g: 7, h: i as u8 };
        |i| WithAName { long: i as f64, none: -0.0 };
        |i| Outer { inner: Newer { min: -1, max: i as i16 }, sum: 0.5 };
        |i| match i % 4 {
            0 => Shape::Circle { radius: 1.5 },
            1 => Shape::Box { width: 1.0, height: i as f64 },
            2 => Shape::Named { name: "triangle".to_owned(), sides: 3 },
            _ => Shape::Number(i as u64),
        };
        |i| if i % 2 > 0 { Inside::Round { radius: 0.5 } } else { Inside::Square { side: 2.0 } };
        |i| AsMap((0..i % 4).map(|at| (at.to_string(), 0.0)).collect());
        |_i| ByField(Vec::new());
        |i| Duration::from_nanos(i as u64);
        |i| SystemTime::UNIX_EPOCH + Duration::from_secs(i as u64);
        |i| Ipv4Addr::from(i as u32);
        |i| [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()][i % 2];
        |i| SocketAddr::from(([127, 0, 0, 1], i as u16));
        |i| Wrapping(i);
        |i| NonZeroI16::new(-1 - i as i16);
        |i| i..i + 1;
        |i| vec![0.5; i];
        |i| Array1::from_elem(i, i).to_vec();
        |i| [i as i64 - 20; 7];
        |i| [i as i64 - 20; 8];
        |i| (i as u8, -1_i16, 0.5_f32, true, u64::MAX, i64::MIN, -0.0_f64);
        |i| Shifting(i);
        |i| Box::<str>::from("x".repeat(i));
        |i| std::cell::RefCell::new(i);
    }
}

/// A type may have a second choice of its own.
#[test]
fn what_is_refused_as_numbers_is_not_replaced_by_what_a_type_falls_back_to() {
    same! {
        |i| Insistent("text".to_owned(), i as u8);
        |i| if i % 2 > 0 { Loose::Text("text".to_owned(), 1) } else { Loose::Numbers(1, 2) };
        |i| LenientIndex(if i % 2 > 0 { Index::First } else { Index::Second });
        |i| Short((i as u8,));
        |i| LenientWide(i as u128);
        |i| (LenientWide(i as u128), LenientIndex(Index::Second));
    }
}

/// Some types keep which of the integer types they were told of.
#[test]
fn numbers_are_told_by_the_types_that_the_encoding_has_for_them() {
    same! {
        |i| Told("u64", (1_i128 << i) - 1);
        |i| Told("i64", 1_i128 << i);
        |i| Told("i64", -(1_i128 << i));
        |i| (Told("i8", i as i128 - 20), Told("u64", 1 << i));
    }
}

/// One call has results as words, as bytes, and none, and of each more than the places for them hold.
#[test]
fn a_call_may_have_results_of_all_kinds() {
    fn result(i: usize) -> Untagged {
        match i % 5 {
            0 => Untagged::Signed(-(i as i64)),
            1 => Untagged::Two((i % 251) as u8, -1),
            2 => Untagged::Text("text".repeat(i % 90)),
            3 => Untagged::Nothing,
            _ => Untagged::Double(i as f64 / 7.0),
        }
    }

    let items: Vec<usize> = (0..12_000).collect();
    let expected: Vec<Untagged> = items.iter().map(|&i| through_the_encoding(&result(i))).collect();
    for pool in
        [Pool::serial(), Pool::builder().workers(1).build().unwrap(), Pool::builder().workers(3).build().unwrap()]
    {
        let results = pool.map(Each(&items), |i, _| result(i)).unwrap();
        assert_eq!(format!("{results:?}"), format!("{expected:?}"));
    }
}
