//! What is asked for, checked before anything is done.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ndshm::{BlockFile, ErrorKind};

use crate::text;

/// A block as it is given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In `/dev/shm`.
    Name(String),
    /// A file, or `/proc/<pid>/fd/<n>`.
    Path(PathBuf),
}

impl Place {
    /// What has a `/` in it is a path.
    pub(crate) fn parse(given: &OsStr) -> Self {
        let bytes = given.as_encoded_bytes();
        match given.to_str() {
            Some(name) if !bytes.contains(&b'/') => Self::Name(name.to_owned()),
            // A name that is not UTF-8 can only be another program's.
            None if !bytes.contains(&b'/') => Self::Path(Path::new("/dev/shm").join(given)),
            _ => Self::Path(given.into()),
        }
    }

    pub(crate) fn open(&self) -> anyhow::Result<BlockFile> {
        match self {
            Self::Path(path) => Ok(BlockFile::open(path)?),
            Self::Name(name) => BlockFile::open_named(name).map_err(|error| {
                // Here, and not in /dev/shm, lies a file of that name.
                if error.kind() == ErrorKind::NotFound && Path::new(name).is_file() {
                    anyhow::anyhow!("{error}; for the file write ./{name}")
                } else {
                    error.into()
                }
            }),
        }
    }

    /// As it was given, for people.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Name(name) => text::escaped(name),
            Self::Path(path) => text::name(path.as_os_str()),
        }
    }
}

/// The name in `/dev/shm` that is meant: `/dev/shm/climate` is `climate`.
pub(crate) fn name_in_shm(given: OsString) -> OsString {
    match Path::new(&given).strip_prefix("/dev/shm") {
        Ok(rest) if !rest.as_os_str().is_empty() => rest.as_os_str().to_owned(),
        _ => given,
    }
}

/// A file, and not `-`: what is loaded has a size, and what is saved appears whole.
pub(crate) fn file(given: PathBuf) -> Result<PathBuf, String> {
    if given.as_os_str() == "-" {
        return Err("standard input and output are not taken; name a file, ./- for one of that name".to_owned());
    }
    Ok(given)
}

/// A file for a picture.
pub(crate) fn png(given: PathBuf) -> Result<PathBuf, String> {
    match given.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("png") => Ok(given),
        _ => Err("expected a name that ends in .png, the only kind of picture that is drawn".to_owned()),
    }
}

/// Permission bits in octal, such as `640`.
pub(crate) fn mode(given: &str) -> Result<u32, String> {
    let digits = given.strip_prefix("0o").unwrap_or(given);
    let mode =
        u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777 && digits.bytes().all(|b| b.is_ascii_digit()));
    mode.ok_or_else(|| "expected permission bits in octal from 0 to 777".to_owned())
}

/// Seconds, with a fraction if need be.
pub(crate) fn seconds(given: &str) -> Result<Duration, String> {
    let seconds = given.parse().ok().and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "expected a number of seconds such as 5 or 0.5".to_owned())
}

/// A size in MiB, up to 1 TiB.
pub(crate) fn mebibytes(given: &str) -> Result<usize, String> {
    let mebibytes = given.parse().ok().filter(|mebibytes| (1..=1 << 20).contains(mebibytes));
    mebibytes.ok_or_else(|| "expected a number of MiB from 1 to 1048576".to_owned())
}

/// The name that a file is loaded under where none is given: its own, without `.npy`.
pub(crate) fn name_from(file: &Path) -> Result<String, String> {
    let stem = match file.extension() {
        Some(extension) if extension == "npy" => file.file_stem(),
        _ => file.file_name(),
    };
    let name = stem.and_then(OsStr::to_str).filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or_else(|| "this file's name cannot be a block's: give one with --name".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn what_has_a_slash_is_a_path() {
        assert_eq!(Place::parse(OsStr::new("climate")), Place::Name("climate".to_owned()));
        assert_eq!(Place::parse(OsStr::new("./x.npy")), Place::Path("./x.npy".into()));
        assert_eq!(Place::parse(OsStr::new("/proc/7/fd/3")), Place::Path("/proc/7/fd/3".into()));
        let odd = OsStr::from_bytes(b"\xff");
        assert_eq!(Place::parse(odd), Place::Path(Path::new("/dev/shm").join(odd)));
    }

    #[test]
    fn names_in_dev_shm_may_be_given_as_paths() {
        assert_eq!(name_in_shm("/dev/shm/climate".into()), "climate");
        assert_eq!(name_in_shm("climate".into()), "climate");
        assert_eq!(name_in_shm("/dev/shm/".into()), "/dev/shm/");
        assert_eq!(name_from(Path::new("data/era5.npy")), Ok("era5".to_owned()));
        assert_eq!(name_from(Path::new("era5.bin")), Ok("era5.bin".to_owned()));
        assert!(name_from(Path::new("/")).is_err());
    }

    #[test]
    fn numbers_are_checked() {
        assert_eq!((mode("640"), mode("0o600")), (Ok(0o640), Ok(0o600)));
        for bad in ["", "8", "1777", "+6", "-1", "rw"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
        assert_eq!((mebibytes("1"), mebibytes("1048576")), (Ok(1), Ok(1 << 20)));
        for bad in ["", "0", "-1", "1048577", "1.5", "64MiB"] {
            assert!(mebibytes(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "nan", "1e99", "x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
