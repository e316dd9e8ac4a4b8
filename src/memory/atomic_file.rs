//! A file that replaces another one when it is whole, and leaves nothing behind otherwise: not where the process is
//! killed meanwhile either, but for the moment between two system calls at its end.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys::file::{self, Unlinked};
use crate::sys::random::random_u64;

/// A file without a name beside its target. Dropped before it is published, nothing is left of it.
pub(crate) struct AtomicFile {
    file: File,
    unlinked: Unlinked,
    target: PathBuf,
}

impl AtomicFile {
    /// # Errors
    /// `Layout` where something is there that nobody means to replace: a device, a FIFO, a directory, or a link to one.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        file::require_replaceable(target)?;
        let dir = target.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        let unlinked = Unlinked::create(dir, 0o666)?;
        let file = unlinked.fd().try_clone_to_owned().map_err(|error| cannot_replace(error, target))?;
        Ok(Self { file: file.into(), unlinked, target: target.to_owned() })
    }

    pub(crate) fn as_file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, in place of what had it before.
    pub(crate) fn publish(self) -> Result<()> {
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        // Short enough whatever the target's name is.
        let name: String = name.chars().take(40).collect();
        // Only a rename replaces what is there, and it needs a name.
        let hidden = self.target.with_file_name(format!(".{name}.{:016x}", random_u64()?));
        self.unlinked.link(&hidden).map_err(|errno| cannot_replace(errno, &self.target))?;
        std::fs::rename(&hidden, &self.target).map_err(|error| {
            // Nothing more can be done about a file that cannot be removed.
            let _ = std::fs::remove_file(&hidden);
            cannot_replace(error, &self.target)
        })
    }
}

#[cold]
fn cannot_replace(error: impl Into<std::io::Error>, target: &Path) -> Error {
    Error::from_os(error, format!("cannot replace {}", target.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_file_is_seen_when_it_is_whole_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let names = || fs::read_dir(dir.path()).unwrap().count();
        let target = dir.path().join("target");
        fs::write(&target, "before").unwrap();
        let file = AtomicFile::create(&target).unwrap();
        file.as_file().write_all(b"after").unwrap();
        assert_eq!((fs::read(&target).unwrap(), names()), (b"before".to_vec(), 1));
        file.publish().unwrap();
        assert_eq!((fs::read(&target).unwrap(), names()), (b"after".to_vec(), 1));
        drop(AtomicFile::create(&target).unwrap());
        assert_eq!(names(), 1);

        // In time: a directory may take its place while it is written.
        let taken = dir.path().join("taken");
        let file = AtomicFile::create(&taken).unwrap();
        fs::create_dir(&taken).unwrap();
        let error = file.publish().unwrap_err();
        assert!(error.to_string().contains("cannot replace"), "{error}");
        assert_eq!(names(), 2);
    }

    #[test]
    fn what_is_no_file_is_not_replaced() {
        // Saving to /dev/null as root put a file in its place.
        let dir = tempfile::tempdir().unwrap();
        let (fifo, link, lost) = (dir.path().join("fifo"), dir.path().join("link"), dir.path().join("lost"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink(&fifo, &link).unwrap();
        symlink("nowhere", &lost).unwrap();
        for (path, found) in [(&*fifo, "a FIFO"), (&*link, "a FIFO"), (dir.path(), "a directory")] {
            let error = AtomicFile::create(path).map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Layout);
            assert_eq!(error.to_string(), format!("{} is {found}, expected a regular file or nothing", path.display()));
        }
        AtomicFile::create(&lost).unwrap().publish().unwrap();
        assert!(fs::symlink_metadata(&lost).unwrap().is_file());
    }
}
