//! Element types as people call them, in NumPy and in Rust.

use std::any::type_name;
use std::fmt::Write as _;

use bytemuck::Pod;

use super::dtype::DType;

/// A type as it was found: `float32 ('<f4', `f32`)`.
pub(super) fn found(dtype: &DType) -> String {
    let descr = dtype.descr();
    match (rust_name(descr), descr.starts_with('>')) {
        (Some(rust), false) => format!("{} ('{descr}', `{rust}`)", name(dtype)),
        (_, true) => format!("big-endian {} ('{descr}')", name(dtype)),
        _ => format!("{} ('{descr}')", name(dtype)),
    }
}

/// The type of an array that is asked for.
pub(super) fn expected<T: Pod>(dtype: &DType) -> String {
    format!("{} ('{}', `{}`)", name(dtype), dtype.descr(), type_name::<T>())
}

/// How Python makes of what was found what was expected, where that is one step.
pub(super) fn way_out(found: &DType, expected: &DType) -> Option<String> {
    let (has, wants) = (found.descr(), expected.descr());
    let is_number = |descr: &str| matches!(kind(descr), b'i' | b'u' | b'f' | b'c');
    let mut hint = String::from("; ");
    // Writing to a string cannot fail.
    let _ = match kind(has) {
        b'm' | b'M' if wants == "<i8" => write!(hint, "NumPy shows times as numbers with a.view('<i8')"),
        _ if is_number(has) && is_number(wants) => write!(hint, "NumPy converts it with a.astype('{wants}')"),
        _ if is_number(has) && has.starts_with('>') => {
            write!(hint, "NumPy turns its bytes around with a.astype('<{}')", &has[1..])
        }
        _ => return None,
    };
    Some(hint)
}

/// The letter in the type's name.
fn kind(descr: &str) -> u8 {
    descr.as_bytes().get(1).copied().unwrap_or(0)
}

/// What NumPy prints for the type, or in words what it is.
fn name(dtype: &DType) -> String {
    let descr = dtype.descr();
    let size = dtype.item_size();
    let unit = descr.find('[').map_or("", |at| &descr[at..]);
    let number = |word: &str| format!("{word}{}", 8 * size);
    match kind(descr) {
        b'b' => "bool".to_owned(),
        b'i' => number("int"),
        b'u' => number("uint"),
        b'f' => number("float"),
        b'c' => number("complex"),
        b'm' => format!("timedelta64{unit}"),
        b'M' => format!("datetime64{unit}"),
        b'S' => format!("strings of {size} bytes"),
        b'U' => format!("strings of {} characters", size / 4),
        _ => format!("opaque elements of {size} bytes"),
    }
}

fn rust_name(descr: &str) -> Option<&'static str> {
    Some(match descr {
        "|b1" | "|u1" => "u8",
        "|i1" => "i8",
        "<u2" => "u16",
        "<i2" => "i16",
        "<u4" => "u32",
        "<i4" => "i32",
        "<u8" => "u64",
        "<i8" => "i64",
        "<f2" => "f16",
        "<f4" => "f32",
        "<f8" => "f64",
        "<c8" => "Complex<f32>",
        "<c16" => "Complex<f64>",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_as(descr: &str) -> String {
        found(&DType::parse(descr).unwrap())
    }

    #[test]
    fn types_have_the_names_that_numpy_and_rust_have_for_them() {
        for (descr, name) in [
            ("<f4", "float32 ('<f4', `f32`)"),
            ("|b1", "bool ('|b1', `u8`)"),
            ("|u1", "uint8 ('|u1', `u8`)"),
            ("<c16", "complex128 ('<c16', `Complex<f64>`)"),
            (">i2", "big-endian int16 ('>i2')"),
            ("<f16", "float128 ('<f16')"),
            ("<M8[ns]", "datetime64[ns] ('<M8[ns]')"),
            ("<m8[s]", "timedelta64[s] ('<m8[s]')"),
            ("|S5", "strings of 5 bytes ('|S5')"),
            ("<U3", "strings of 3 characters ('<U3')"),
            ("|V12", "opaque elements of 12 bytes ('|V12')"),
        ] {
            assert_eq!(found_as(descr), name);
        }
        assert_eq!(expected::<usize>(&DType::of::<usize>()), "uint64 ('<u8', `usize`)");
        assert_eq!(expected::<[u8; 3]>(&DType::of::<[u8; 3]>()), "opaque elements of 3 bytes ('|V3', `[u8; 3]`)");
    }
}
