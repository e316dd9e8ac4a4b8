//! Numbers and names, as people read them.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// A name or message that others had a hand in: what could move the cursor, or hide something, is escaped.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if prints(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
    }
    shown
}

fn prints(c: char) -> bool {
    // Besides control characters the others are those that turn the direction of writing or have no width.
    matches!(c, ' ' | '"' | '\'' | '\\') || (!c.is_control() && !c.is_whitespace() && c.escape_debug().count() == 1)
}

/// JSON in which what does not print is escaped the way JSON does.
pub(crate) fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if prints(c) || c == '\n' {
            shown.push(c);
        } else {
            shown.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    shown
}

/// A name of any bytes.
pub(crate) fn name(name: &OsStr) -> String {
    let mut shown = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        shown.push_str(&escaped(chunk.valid()));
        for byte in chunk.invalid() {
            shown.extend(["\\x".to_owned(), format!("{byte:02x}")]);
        }
    }
    shown
}

/// A number of bytes in three digits or four: `512 B`, `2.97 MiB`, `1.00 GiB`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1023.5 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let digits = match value {
            ..9.995 => 2,
            ..99.95 => 1,
            _ => 0,
        };
        f.pad(&format!("{value:.digits$} {}", UNITS[unit]))
    }
}

/// `1 block`, `3 blocks`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// An array's axes as Python writes them: `(3, 4)`, `(3,)`, `()`.
pub(crate) fn shape(lengths: &[usize]) -> String {
    match lengths {
        [length] => format!("({length},)"),
        _ => format!("({})", lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        let shown = |bytes| Bytes(bytes).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1023), "1023 B");
        assert_eq!(shown(1024), "1.00 KiB");
        assert_eq!(shown(10 * 1024 - 1), "10.0 KiB");
        assert_eq!(shown(123_456_789), "118 MiB");
        assert_eq!(shown((1 << 20) - 1), "1.00 MiB");
        assert_eq!(shown(u64::MAX), "16.0 EiB");
        assert_eq!(format!("{:>10}|", Bytes(5)), "       5 B|");
    }

    #[test]
    fn what_moves_the_cursor_is_escaped() {
        assert_eq!(escaped("climate 'größe' \"x\" \\ 数"), "climate 'größe' \"x\" \\ 数");
        assert_eq!(escaped("a\x1b[31mb\nc\u{202e}d\u{200b}"), r"a\u{1b}[31mb\nc\u{202e}d\u{200b}");
        assert_eq!(name(OsStr::from_bytes(b"a\xffb\t")), r"a\xffb\t");
        assert_eq!(printable_json("{\n \"ü\u{202e}\u{e0001}\"\n}"), "{\n \"ü\\u202e\\udb40\\udc01\"\n}");
    }

    #[test]
    fn shapes_are_python_s() {
        assert_eq!([&[][..], &[3], &[3, 4]].map(shape), ["()", "(3,)", "(3, 4)"]);
    }
}
