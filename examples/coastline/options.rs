//! The command line.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// The mask that comes with the repository.
const MASK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/globe_land_mask.npz");
const MOST_WORKERS: usize = 1024;

pub(crate) const HELP: &str = "\
Surveys the world's coasts on a land mask in shared memory, with one worker process per CPU.

Usage: coastline [--mask FILE] [--workers N] [--out FILE]

  --mask FILE    the mask, .npz (with an array `mask` and perhaps `lat`) or .npy; nonzero is ocean.
                 Bytes or booleans (|u1 or |b1; `lat` is <f8), 180 x 360 cells or a multiple of it, from
                 90° N and 180° W on.
                 By default the one under examples/data, 21600 x 43200
  --workers N    so many worker processes; by default one per CPU
  --out FILE     the map, a PNG; coastline.png by default
  -h, --help     this text";

/// What the program was asked to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invocation {
    Survey(Options),
    /// The other end of a socket, for comparison: the program starts itself so.
    Receive,
    Help,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) mask: PathBuf,
    pub(crate) workers: Option<NonZeroUsize>,
    pub(crate) out: PathBuf,
}

/// Reads the arguments that follow the program's name; the error is one line.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Invocation, String> {
    let mut options = Options { mask: MASK.into(), workers: None, out: "coastline.png".into() };
    let mut arguments = arguments.peekable();
    if arguments.next_if(|first| first == super::handover::RECEIVE).is_some() {
        return Ok(Invocation::Receive);
    }
    while let Some(argument) = arguments.next() {
        let (name, inline) = split_at_equals(&argument);
        let mut value = || {
            let value = inline.clone().or_else(|| arguments.next()).filter(|value| !value.is_empty());
            value.ok_or_else(|| format!("{name} needs a value; try --help"))
        };
        match &*name {
            "--mask" => options.mask = value()?.into(),
            "--workers" => options.workers = Some(worker_count(&value()?)?),
            "--out" => options.out = value()?.into(),
            "-h" | "--help" if inline.is_none() => return Ok(Invocation::Help),
            _ => return Err(format!("unknown argument \"{}\"; try --help", argument.display())),
        }
    }
    check_output(&options)?;
    Ok(Invocation::Survey(options))
}

/// `--name=value` as well as `--name value`. A value need not be UTF-8, a name is.
fn split_at_equals(argument: &OsString) -> (String, Option<OsString>) {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = argument.as_bytes();
    let equals = bytes.iter().position(|&byte| byte == b'=').filter(|_| bytes.starts_with(b"--"));
    let name = String::from_utf8_lossy(&bytes[..equals.unwrap_or(bytes.len())]).into_owned();
    (name, equals.map(|at| OsString::from_vec(bytes[at + 1..].to_vec())))
}

fn worker_count(value: &OsString) -> Result<NonZeroUsize, String> {
    let count = value.to_str().and_then(|text| text.parse::<NonZeroUsize>().ok());
    count
        .filter(|count| count.get() <= MOST_WORKERS)
        .ok_or_else(|| format!("--workers takes a number from 1 to {MOST_WORKERS}, not \"{}\"", value.display()))
}

/// Better to hear of a bad place for the map now than when it is drawn.
fn check_output(options: &Options) -> Result<(), String> {
    let out = &options.out;
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if out.is_dir() || out.file_name().is_none() {
        return Err(format!("--out {}: is a folder, expected a file", out.display()));
    }
    match folder {
        Some(folder) if !folder.is_dir() => {
            Err(format!("--out {}: there is no folder {}", out.display(), folder.display()))
        }
        _ => Ok(()),
    }
}
