//! The Python dict literal in a `.npy` header.
//!
//! Only what such a header is made of is read, and none of Python beside it:
//!
//! ```text
//! dict  = "{" key ":" value ("," key ":" value)* ","? "}"
//! value = string | "True" | "False" | tuple
//! tuple = "(" ")" | "(" int "," ")" | "(" int ("," int)+ ","? ")"
//! int   = digits "L"?                    Python 2 wrote the L
//! ```

use super::dtype::DType;
use super::npy::{MAX_NUMPY_RANK, damaged};
use crate::{Error, ErrorKind, Result};

/// What the dict says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) dtype: DType,
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
}

/// Reads the whole of `text`: the dict, with white space before and after it.
pub(super) fn parse(text: &[u8]) -> Result<Header> {
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    let mut reader = Reader { text, at: 0 };
    reader.expect(b'{', "'{'")?;
    while !reader.eat(b'}') {
        let key = reader.string("a key or '}'")?;
        reader.expect(b':', "':'")?;
        let is_new = match key {
            b"descr" => descr.replace(reader.dtype()?).is_none(),
            b"fortran_order" => fortran_order.replace(reader.boolean()?).is_none(),
            b"shape" => shape.replace(reader.shape()?).is_none(),
            _ => {
                let shown = key[..key.len().min(40)].escape_ascii();
                return Err(damaged(format!("found key '{shown}', expected 'descr', 'fortran_order' or 'shape'")));
            }
        };
        if !is_new {
            return Err(damaged(format!("found key '{}' twice, expected it once", key.escape_ascii())));
        }
        if !reader.eat(b',') {
            reader.expect(b'}', "',' or '}'")?;
            break;
        }
    }
    if reader.peek().is_some() {
        return Err(reader.unexpected("the end of the header"));
    }
    let missing =
        |key| damaged(format!("found no key '{key}' in the header, expected 'descr', 'fortran_order' and 'shape'"));
    Ok(Header {
        dtype: descr.ok_or_else(|| missing("descr"))?,
        fortran_order: fortran_order.ok_or_else(|| missing("fortran_order"))?,
        shape: shape.ok_or_else(|| missing("shape"))?,
    })
}

struct Reader<'a> {
    text: &'a [u8],
    /// At most `text.len()`.
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next byte that is not white space, which is left there.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r' | b'\x0c') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, what: &str) -> Result<()> {
        if self.eat(byte) { Ok(()) } else { Err(self.unexpected(what)) }
    }

    fn unexpected(&mut self, expected: &str) -> Error {
        let found = match self.peek() {
            Some(byte) => format!("'{}'", byte.escape_ascii()),
            None => "its end".to_owned(),
        };
        damaged(format!("found {found} at byte {} of the header's text, expected {expected}", self.at))
    }

    /// A string without escapes, which no header needs.
    fn string(&mut self, what: &str) -> Result<&'a [u8]> {
        let Some(quote @ (b'\'' | b'"')) = self.peek() else {
            return Err(self.unexpected(what));
        };
        self.at += 1;
        let rest = &self.text[self.at..];
        let len = rest.iter().take_while(|&&byte| byte != quote && byte != b'\\' && byte != b'\n').count();
        self.at += len;
        if rest.get(len) != Some(&quote) {
            return Err(self.unexpected("the end of the string"));
        }
        self.at += 1;
        Ok(&rest[..len])
    }

    fn dtype(&mut self) -> Result<DType> {
        if self.peek() == Some(b'[') {
            return Err(Error::new(
                ErrorKind::TypeMismatch,
                "found elements that have fields (a structured NumPy type), expected ones of a single type such as '<f8'; \
                 for structs store them in Python as `a.view(f'V{a.itemsize}')`",
            ));
        }
        let descr = self.string("a string that names the element type")?;
        let descr = std::str::from_utf8(descr)
            .map_err(|_| damaged(format!("found element type '{}', expected one such as '<f8'", clip(descr))))?;
        DType::parse(descr)
    }

    fn boolean(&mut self) -> Result<bool> {
        self.peek();
        for (word, value) in [(b"True".as_slice(), true), (b"False", false)] {
            let rest = &self.text[self.at..];
            if rest.starts_with(word) && !rest.get(word.len()).is_some_and(|&byte| is_name(byte)) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.unexpected("True or False"))
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        self.expect(b'(', "'('")?;
        let mut shape = Vec::new();
        while !self.eat(b')') {
            shape.push(self.integer()?);
            if shape.len() > MAX_NUMPY_RANK {
                return Err(damaged(format!("found more than {MAX_NUMPY_RANK} axes, expected at most so many")));
            }
            if !self.eat(b',') {
                // To Python, `(3)` is a number.
                self.expect(b')', if shape.len() == 1 { "','" } else { "',' or ')'" })?;
                if shape.len() == 1 {
                    self.at -= 1;
                    return Err(self.unexpected("','"));
                }
                break;
            }
        }
        Ok(shape)
    }

    fn integer(&mut self) -> Result<usize> {
        self.peek();
        let rest = &self.text[self.at..];
        let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = &rest[..len];
        let next = rest.get(len + usize::from(rest.get(len) == Some(&b'L')));
        let has_leading_zero = len > 1 && digits[0] == b'0';
        if len == 0 || has_leading_zero || next.is_some_and(|&byte| is_name(byte)) {
            return Err(self.unexpected("the length of an axis"));
        }
        let value = digits
            .iter()
            .try_fold(0_usize, |value, digit| value.checked_mul(10)?.checked_add(usize::from(digit - b'0')));
        let value = value
            .ok_or_else(|| damaged(format!("found an axis of length {}, which no memory can hold", clip(digits))))?;
        self.at += len + usize::from(rest.get(len) == Some(&b'L'));
        Ok(value)
    }
}

/// Whether a word or a number goes on with this byte.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// So much of untrusted text as fits in a message.
fn clip(text: &[u8]) -> std::slice::EscapeAscii<'_> {
    text[..text.len().min(40)].escape_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_of(tuple: &str) -> Result<Vec<usize>> {
        parse(format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {tuple}}}").as_bytes())
            .map(|header| header.shape)
    }

    #[test]
    fn keys_come_in_any_order_and_white_space_anywhere() {
        for text in [
            "{'descr': '<f8', 'fortran_order': True, 'shape': (3, 4), }   \n",
            "{'descr':'<f8','fortran_order':True,'shape':(3,4)}",
            "{'shape': (3, 4), 'fortran_order': True, 'descr': '<f8'}",
            " \t{ \"shape\" : ( 3 , 4 , ) ,\n'descr' : \"<f8\" , 'fortran_order' :True\r\n, } \n\n",
        ] {
            let header = parse(text.as_bytes()).unwrap();
            assert_eq!((header.dtype.descr(), header.fortran_order), ("<f8", true), "{text}");
            assert_eq!(header.shape, [3, 4], "{text}");
        }
    }

    #[test]
    fn shapes_are_read_as_python_writes_them() {
        assert_eq!(shape_of("()").unwrap(), []);
        assert_eq!(shape_of("(3,)").unwrap(), [3]);
        assert_eq!(shape_of("(3, 4)").unwrap(), [3, 4]);
        assert_eq!(shape_of("(3L, 4L)").unwrap(), [3, 4]);
        assert_eq!(shape_of("(3L,)").unwrap(), [3]);
        assert_eq!(shape_of("( 0, 18446744073709551615 )").unwrap(), [0, usize::MAX]);
    }

    #[test]
    fn other_shapes_are_refused() {
        for tuple in [
            "(3)",
            "(,)",
            "(3,,)",
            "(,3)",
            "3",
            "[3]",
            "(-3,)",
            "(3.0,)",
            "(3 4)",
            "(03, 4)",
            "(3LL,)",
            "(3_0,)",
            "(0x3,)",
            "(L,)",
            "(3l,)",
            "((3,),)",
            "('3',)",
            "(True,)",
            "(3,",
            "(3",
            "(",
            "None",
            "(18446744073709551616,)",
            "(3,4)(5,)",
        ] {
            let error = shape_of(tuple).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Layout, "{tuple}: {error}");
        }
        let many = format!("({})", "1,".repeat(65));
        assert_eq!(shape_of(&many).unwrap_err().kind(), ErrorKind::Layout);
        assert_eq!(shape_of(&format!("({})", "1,".repeat(64))).unwrap().len(), 64);
    }

    #[test]
    fn every_other_dict_is_refused() {
        for (text, reason) in [
            ("", "found its end at byte 0"),
            ("{}", "no key 'descr'"),
            ("{'descr': '<f8', 'shape': (3,)}", "no key 'fortran_order'"),
            ("{'descr': '<f8', 'fortran_order': False}", "no key 'shape'"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), 'x': 1}", "found key 'x'"),
            ("{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (3,)}", "'descr' twice"),
            ("{'descr': '<f8' 'fortran_order': False, 'shape': (3,)}", "expected ',' or '}'"),
            ("{'descr' '<f8', 'fortran_order': False, 'shape': (3,)}", "expected ':'"),
            ("{'descr': '<f8', 'fortran_order': 0, 'shape': (3,)}", "expected True or False"),
            ("{'descr': '<f8', 'fortran_order': Falsehood, 'shape': (3,)}", "expected True or False"),
            ("{'descr': 8, 'fortran_order': False, 'shape': (3,)}", "expected a string"),
            ("{'descr': '<f8, 'fortran_order': False, 'shape': (3,)}", "found element type \"<f8, \""),
            (r"{'descr': '\x3cf8', 'fortran_order': False, 'shape': (3,)}", "expected the end of the string"),
            ("{'descr': '<q8', 'fortran_order': False, 'shape': (3,)}", "found element type \"<q8\""),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)} 1", "expected the end of the header"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}\0\0", "expected the end of the header"),
            ("{,'descr': '<f8', 'fortran_order': False, 'shape': (3,)}", "expected a key or '}'"),
            ("{'descr': '<f8',, 'fortran_order': False, 'shape': (3,)}", "expected a key or '}'"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,)", "expected ',' or '}'"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Layout, "{text}");
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn structured_elements_are_named_as_such() {
        let text = "{'descr': [('a', '<f8'), ('b', '<i4', (2,))], 'fortran_order': False, 'shape': (3,), }";
        let error = parse(text.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TypeMismatch);
        assert!(error.to_string().contains("structured"), "{error}");
    }
}
