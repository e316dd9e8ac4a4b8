//! Element types, by the name that NumPy gives them.

use std::any::TypeId;
use std::borrow::Cow;
use std::fmt::{self, Write as _};

use bytemuck::Pod;

use super::spoken;
use crate::{Error, ErrorKind, Result};

/// The type of an array's elements, by NumPy's name for it.
///
/// `<f8` is a little-endian 8-byte float, `|u1` a byte, `|V12` 12 bytes that NumPy has no type for. The name is always
/// the one that NumPy's `dtype.str` gives, however the file spelled it, so that equal types compare equal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct DType {
    descr: Cow<'static, str>,
    item_size: usize,
}

impl DType {
    /// The element type that `T` is stored as.
    ///
    /// Integers, floats and, with the features `complex` and `half`, complex and half precision numbers have NumPy
    /// equivalents; every other type is stored as so many opaque bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use ndshm::DType;
    ///
    /// assert_eq!(DType::of::<f64>().descr(), "<f8");
    /// assert_eq!(DType::of::<[f32; 3]>().descr(), "|V12");
    /// ```
    pub fn of<T: Pod>() -> DType {
        let item_size = size_of::<T>();
        let descr = match numpy_name(TypeId::of::<T>()) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("|V{item_size}")),
        };
        DType { descr, item_size }
    }

    /// NumPy's name for the type, such as `<f8`.
    pub fn descr(&self) -> &str {
        &self.descr
    }

    /// The size of one element in bytes.
    pub fn item_size(&self) -> usize {
        self.item_size
    }

    /// Reads a `descr` string as NumPy writes or accepts it.
    pub(crate) fn parse(descr: &str) -> Result<DType> {
        if matches!(descr, "|O" | "O" | "|O8" | "O8") {
            return Err(Error::new(
                ErrorKind::TypeMismatch,
                "found Python objects (element type '|O'), expected elements of a fixed size such as '<f8'",
            ));
        }
        parse_name(descr).ok_or_else(|| {
            let shown: String = descr.chars().take(40).collect();
            Error::new(
                ErrorKind::Layout,
                format!("found element type {shown:?}, expected one of NumPy's such as '<f8' or '|u1'"),
            )
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.descr)
    }
}

impl fmt::Debug for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.descr)
    }
}

/// Whether a block whose header says `found` holds elements of type `T`; the error names both.
pub(crate) fn check_dtype<T: Pod>(found: &DType) -> Result<()> {
    let expected = DType::of::<T>();
    // Every bit pattern is a `u8`, so NumPy's booleans are safe to open as what they are stored as.
    if *found == expected || (found.descr == "|b1" && TypeId::of::<T>() == TypeId::of::<u8>()) {
        return Ok(());
    }
    let mut message =
        format!("found elements of type {}, expected {}", spoken::found(found), spoken::expected::<T>(&expected));
    if let Some(feature) = missing_feature(found, &expected) {
        // Writing to a string cannot fail.
        let _ = write!(message, "; numbers of that type need ndshm's feature `{feature}`");
    } else if let Some(way_out) = spoken::way_out(found, &expected) {
        message += &way_out;
    }
    Err(Error::new(ErrorKind::TypeMismatch, message))
}

/// The feature that gives a type of that kind its NumPy name, where it is off and `T` is opaque and just as large.
fn missing_feature(found: &DType, expected: &DType) -> Option<&'static str> {
    if !expected.descr.starts_with("|V") || found.item_size != expected.item_size {
        return None;
    }
    match &*found.descr {
        "<c8" | "<c16" if cfg!(not(feature = "complex")) => Some("complex"),
        "<f2" if cfg!(not(feature = "half")) => Some("half"),
        _ => None,
    }
}

fn numpy_name(id: TypeId) -> Option<&'static str> {
    let names = [
        (TypeId::of::<f64>(), "<f8"),
        (TypeId::of::<f32>(), "<f4"),
        (TypeId::of::<u8>(), "|u1"),
        (TypeId::of::<i8>(), "|i1"),
        (TypeId::of::<u16>(), "<u2"),
        (TypeId::of::<i16>(), "<i2"),
        (TypeId::of::<u32>(), "<u4"),
        (TypeId::of::<i32>(), "<i4"),
        (TypeId::of::<u64>(), "<u8"),
        (TypeId::of::<i64>(), "<i8"),
        (TypeId::of::<usize>(), "<u8"),
        (TypeId::of::<isize>(), "<i8"),
        #[cfg(feature = "complex")]
        (TypeId::of::<num_complex::Complex<f32>>(), "<c8"),
        #[cfg(feature = "complex")]
        (TypeId::of::<num_complex::Complex<f64>>(), "<c16"),
        #[cfg(feature = "half")]
        (TypeId::of::<half::f16>(), "<f2"),
    ];
    names.iter().find(|(of, _)| *of == id).map(|(_, name)| *name)
}

/// `[<>=|]`, a kind, its size, and for times their unit: `<f8`, `|S10`, `<M8[ns]`.
fn parse_name(descr: &str) -> Option<DType> {
    let (order, rest) = match descr.as_bytes().first()? {
        b'<' | b'>' | b'=' | b'|' => (descr.as_bytes()[0], &descr[1..]),
        _ => (b'=', descr),
    };
    let kind = *rest.as_bytes().first()?;
    // The kind is ASCII if it is one of ours, and then this is a character boundary.
    let rest = rest.get(1..)?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (size, unit) = rest.split_at(digits);
    let size: usize = size.parse().ok()?;
    let (sizes, item_size): (&[usize], usize) = match kind {
        b'b' => (&[1], size),
        b'i' | b'u' => (&[1, 2, 4, 8], size),
        b'f' => (&[2, 4, 8, 10, 12, 16], size),
        b'c' => (&[8, 16, 20, 24, 32], size),
        b'm' | b'M' => (&[8], size),
        b'S' | b'a' | b'V' => (&[], size),
        b'U' => (&[], size.checked_mul(4)?),
        _ => return None,
    };
    if !(sizes.is_empty() || sizes.contains(&size)) || isize::try_from(item_size).is_err() {
        return None;
    }
    if !(unit.is_empty() || matches!(kind, b'm' | b'M') && is_unit(unit)) {
        return None;
    }
    let order = match (kind, size, order) {
        (b'S' | b'a' | b'V', ..) | (b'b' | b'i' | b'u', 1, _) => '|',
        (_, _, b'>') => '>',
        // NumPy reads '=' as the machine's order, and '|' as well where the order matters.
        _ => '<',
    };
    let kind = if kind == b'a' { 'S' } else { char::from(kind) };
    Some(DType { descr: Cow::Owned(format!("{order}{kind}{size}{unit}")), item_size })
}

/// A unit of time such as `[ns]`, `[25s]` or `[D/3]`.
fn is_unit(unit: &str) -> bool {
    let inner = unit.strip_prefix('[').and_then(|unit| unit.strip_suffix(']'));
    inner.is_some_and(|inner| {
        !inner.is_empty() && inner.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'/')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_of<T: Pod>(found: &str) -> String {
        let error = check_dtype::<T>(&DType::parse(found).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TypeMismatch);
        error.to_string()
    }

    fn opens<T: Pod>(found: &str) -> bool {
        check_dtype::<T>(&DType::parse(found).unwrap()).is_ok()
    }

    #[test]
    fn numbers_have_numpys_names() {
        let names = [
            DType::of::<i8>(),
            DType::of::<u8>(),
            DType::of::<i16>(),
            DType::of::<u16>(),
            DType::of::<i32>(),
            DType::of::<u32>(),
            DType::of::<i64>(),
            DType::of::<u64>(),
            DType::of::<isize>(),
            DType::of::<usize>(),
            DType::of::<f32>(),
            DType::of::<f64>(),
        ];
        let names: Vec<_> = names.iter().map(DType::descr).collect();
        let expected = ["|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<i8", "<u8", "<f4", "<f8"];
        assert_eq!(names, expected);
    }

    #[test]
    fn other_types_are_opaque_bytes_of_their_size() {
        #[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
        #[repr(C)]
        struct Particle {
            position: [f32; 3],
            id: u32,
        }
        assert_eq!(DType::of::<Particle>().descr(), "|V16");
        assert_eq!(DType::of::<Particle>().item_size(), 16);
        assert_eq!(DType::of::<u128>().descr(), "|V16");
        assert_eq!(DType::of::<()>().descr(), "|V0");
    }

    #[cfg(feature = "complex")]
    #[test]
    fn complex_numbers_have_numpys_names() {
        assert_eq!(DType::of::<num_complex::Complex<f32>>().descr(), "<c8");
        assert_eq!(DType::of::<num_complex::Complex<f64>>().descr(), "<c16");
        assert!(opens::<num_complex::Complex<f64>>("<c16"));
    }

    #[cfg(feature = "half")]
    #[test]
    fn half_precision_has_numpys_name() {
        assert_eq!(DType::of::<half::f16>().descr(), "<f2");
        assert!(opens::<half::f16>("<f2"));
    }

    #[cfg(not(feature = "complex"))]
    #[test]
    fn complex_numbers_without_the_feature_say_what_is_missing() {
        let message = message_of::<num_complex::Complex<f64>>("<c16");
        assert!(message.contains("feature `complex`"), "{message}");
    }

    #[test]
    fn names_are_made_the_ones_that_numpy_writes() {
        for (given, written) in [
            ("=f8", "<f8"),
            ("f8", "<f8"),
            ("|f8", "<f8"),
            (">f8", ">f8"),
            ("<i1", "|i1"),
            (">u1", "|u1"),
            ("=b1", "|b1"),
            ("<V2", "|V2"),
            ("|S010", "|S10"),
            ("a5", "|S5"),
            (">U3", ">U3"),
            ("<M8[ns]", "<M8[ns]"),
            ("<m8[25s]", "<m8[25s]"),
            ("<f16", "<f16"),
        ] {
            assert_eq!(DType::parse(given).unwrap().descr(), written, "{given}");
        }
        assert_eq!(DType::parse("<U3").unwrap().item_size(), 12);
    }

    #[test]
    fn names_that_numpy_does_not_know_are_refused() {
        for descr in [
            "",
            "<",
            "f",
            "<f",
            "8",
            "<f3",
            "<i16",
            "<b2",
            "<x8",
            "<<f8",
            "f8 ",
            " f8",
            "<f8[ns]",
            "<M8[]",
            "<M8[ns",
            "<M8[n s]",
            "<f-8",
            "é8",
            "<é8",
            "|V99999999999999999999",
            "|V9223372036854775808",
            "<U4611686018427387904",
        ] {
            let error = DType::parse(descr).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Layout, "{descr:?}: {error}");
        }
    }

    #[test]
    fn python_objects_are_named() {
        let error = DType::parse("|O").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TypeMismatch);
        assert!(error.to_string().contains("Python objects"), "{error}");
    }

    #[test]
    fn the_same_type_opens_however_it_is_spelled() {
        assert!(opens::<f64>("<f8"));
        assert!(opens::<f64>("=f8"));
        assert!(opens::<f64>("|f8"));
        assert!(opens::<i8>("<i1"));
        assert!(opens::<u8>(">u1"));
        assert!(opens::<usize>("<u8"));
        assert!(opens::<u64>("<u8"));
        assert!(opens::<[u8; 2]>("<V2"));
    }

    #[test]
    fn booleans_open_as_bytes_and_only_so() {
        assert!(opens::<u8>("|b1"));
        assert!(!opens::<i8>("|b1"));
        assert!(!opens::<[u8; 1]>("|b1"));
    }

    #[test]
    fn another_type_is_an_error_that_names_both() {
        assert_eq!(
            message_of::<f64>("<f4"),
            "found elements of type float32 ('<f4', `f32`), expected float64 ('<f8', `f64`); NumPy converts it with \
             a.astype('<f8')"
        );
        assert_eq!(
            message_of::<[u8; 8]>("<f8"),
            "found elements of type float64 ('<f8', `f64`), expected opaque elements of 8 bytes ('|V8', `[u8; 8]`)"
        );
    }

    #[test]
    fn times_and_other_orders_of_bytes_tell_the_way_out() {
        assert!(message_of::<i64>("<M8[ns]").ends_with("; NumPy shows times as numbers with a.view('<i8')"));
        assert!(!message_of::<f64>("<M8[ns]").contains("NumPy"));
        let message = message_of::<f64>(">f8");
        assert!(
            message.starts_with("found elements of type big-endian float64 ('>f8'), expected float64"),
            "{message}"
        );
        assert!(message.ends_with("; NumPy converts it with a.astype('<f8')"), "{message}");
        let message = message_of::<[u8; 8]>(">f8");
        assert!(message.ends_with("; NumPy turns its bytes around with a.astype('<f8')"), "{message}");
    }

    #[test]
    fn prints_as_numpys_name() {
        assert_eq!(format!("{0} {0:?} {0:>5}", DType::of::<f32>()), "<f4 <f4   <f4");
    }
}
