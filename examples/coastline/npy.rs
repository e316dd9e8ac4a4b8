//! The header of a `.npy` file, read from a stream.
//!
//! An array inside an `.npz` file is deflated, so it can be neither mapped nor sought in: its header is read first, then
//! its elements go where they shall be.

use std::io::Read;

/// No header that NumPy writes for a plain array comes near this.
const LONGEST: usize = 1 << 16;

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// The element type, such as `|b1`.
    pub(crate) descr: String,
    pub(crate) fortran_order: bool,
    pub(crate) shape: Vec<usize>,
}

/// Reads a header and leaves the stream at the first element.
pub(crate) fn read_header(stream: &mut impl Read) -> Result<Header, String> {
    let cut_short = |error: std::io::Error| format!("no header of an .npy file: {error}");
    let mut start = [0; 8];
    stream.read_exact(&mut start).map_err(cut_short)?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err("no .npy file: it does not begin with \\x93NUMPY".to_owned());
    }
    let mut len = [0; 4];
    let len_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(format!("an .npy file of version {version}, expected 1, 2 or 3")),
    };
    stream.read_exact(&mut len[..len_bytes]).map_err(cut_short)?;
    let len = u32::from_le_bytes(len) as usize;
    if len > LONGEST {
        return Err(format!("an .npy header of {len} bytes, expected at most {LONGEST}"));
    }
    let mut text = vec![0; len];
    stream.read_exact(&mut text).map_err(cut_short)?;
    let damaged = || {
        let text = String::from_utf8_lossy(&text).replace(char::is_control, " ");
        format!("a damaged .npy header: {}", text.trim_end())
    };
    std::str::from_utf8(&text).ok().and_then(parse).ok_or_else(damaged)
}

/// `{'descr': '|b1', 'fortran_order': False, 'shape': (21600, 43200), }`, with its keys in any order.
fn parse(text: &str) -> Option<Header> {
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        rest = match key {
            "descr" => {
                let (value, after) = quoted(value)?;
                descr = Some(value.to_owned());
                after
            }
            "fortran_order" => {
                let (value, after) = value.split_at(value.find([',', ' ']).unwrap_or(value.len()));
                fortran_order = Some(match value {
                    "True" => true,
                    "False" => false,
                    _ => return None,
                });
                after
            }
            "shape" => {
                let (axes, after) = value.strip_prefix('(')?.split_once(')')?;
                let axes = axes.trim().strip_suffix(',').unwrap_or(axes).trim();
                let axes = axes.split(',').filter(|_| !axes.is_empty()).map(|axis| axis.trim().parse().ok());
                shape = Some(axes.collect::<Option<Vec<usize>>>()?);
                after
            }
            _ => return None,
        };
        rest = rest.trim_start();
        rest = if rest.is_empty() { rest } else { rest.strip_prefix(',')?.trim_start() };
    }
    Some(Header { descr: descr?, fortran_order: fortran_order?, shape: shape? })
}

/// A quoted string and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
    text[1..].split_once(quote)
}
