//! A file that replaces another one when it is whole, and leaves nothing behind otherwise.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys::random::random_u64;

/// A file under a hidden name beside its target. Dropped before it is published, it is removed.
pub(crate) struct AtomicFile {
    file: File,
    hidden: PathBuf,
    target: PathBuf,
    published: bool,
}

impl AtomicFile {
    pub(crate) fn create(target: &Path) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // Short enough whatever the target's name is.
        let name: String = name.chars().take(40).collect();
        let hidden = target.with_file_name(format!(".{name}.{:016x}", random_u64()?));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&hidden)
            .map_err(|error| Error::from_os(error, format!("cannot create a file beside {}", target.display())))?;
        Ok(Self { file, hidden, target: target.to_owned(), published: false })
    }

    pub(crate) fn as_file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, in place of what had it before.
    pub(crate) fn publish(mut self) -> Result<()> {
        std::fs::rename(&self.hidden, &self.target)
            .map_err(|error| Error::from_os(error, format!("cannot replace {}", self.target.display())))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.published {
            // Nothing more can be done about a file that cannot be removed.
            let _ = std::fs::remove_file(&self.hidden);
        }
    }
}
