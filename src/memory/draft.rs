//! Making blocks: sized, reserved, mapped and written first, and only then given a name.
//!
//! ```text
//! look whether it fits → file without a name → size → map → huge pages → reserve → populate → (contents) → publish
//! ```
//!
//! A named one is written into the process's ledger just before it gets its name.
//!
//! So nobody ever sees a block half made, an existing name is an error and not a race, and a failure at any step leaves
//! nothing behind.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::SealFlag;

use crate::memory::ledger::{self, Noted, step};
use crate::memory::name::{self, OwnedName};
use crate::memory::shared_memory::Whereabouts;
use crate::memory::spare;
use crate::memory::{Block, HugePages, LockHandle, SharedMemory, SharedMemoryOptions};
use crate::sys::file::{self, SHM_DIR, Unlinked};
use crate::sys::map::{Access, HUGE_PAGE, Mapping};
use crate::sys::memfd;
use crate::sys::patience::Patience;
use crate::sys::space::{self, Place};
use crate::{Error, ErrorKind, Result};

/// What a new block is going to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A memfd, sealed against shrinking and growing.
    Anonymous,
    /// A new name in `/dev/shm`.
    Generated,
    /// This name in `/dev/shm`.
    Named(String),
    /// A file on disk: made beside its target, then given its name. It stays when its handles are dropped.
    Path(PathBuf),
}

impl Target {
    /// Where it lives until then and afterwards.
    fn place(&self) -> Place<'_> {
        match self {
            Self::Anonymous => Place::Anonymous,
            Self::Generated | Self::Named(_) => Place::Directory(Path::new(SHM_DIR)),
            Self::Path(path) => Place::Directory(match path.parent() {
                Some(dir) if dir != Path::new("") => dir,
                _ => Path::new("."),
            }),
        }
    }
}

/// A block in the making: sized, reserved, mapped to be read and written. Dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Draft {
    file: Unlinked,
    /// For the block's locks: a description of its own, made while the mode still let anyone make one.
    lock: OwnedFd,
    mapping: Mapping,
    target: Target,
}

fn is_for_want_of_something(error: &Error) -> bool {
    error.kind() == ErrorKind::NoSpace || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

fn create_file(target: &Target) -> Result<Unlinked> {
    match target.place() {
        Place::Anonymous => memfd::create().map(Unlinked::nameless),
        // A file on disk gets what the umask leaves, as other programs' files do.
        Place::Directory(dir) => Unlinked::create(dir, if matches!(target, Target::Path(_)) { 0o666 } else { 0o600 }),
    }
}

impl Draft {
    pub(super) fn new(options: &SharedMemoryOptions, target: Target, size: usize) -> Result<Self> {
        match Self::try_new(options, target.clone(), size) {
            // What is kept for reuse is room too, and has descriptors.
            Err(error) if is_for_want_of_something(&error) && spare::release() > 0 => {
                Self::try_new(options, target, size)
            }
            made => made,
        }
    }

    fn try_new(options: &SharedMemoryOptions, target: Target, size: usize) -> Result<Self> {
        if matches!(target, Target::Generated | Target::Named(_)) {
            // What dead processes have left may have the name or the room that this one wants.
            ledger::sweep_once();
        }
        let place = target.place();
        let eager = options.is_eager();
        // Past this limit comes a signal that kills, for a file without contents too.
        space::check_file_size(size)?;
        if eager {
            space::check(place, size)?;
        }

        let file = create_file(&target)?;
        let fd = file.fd();
        let lock = file::reopen(fd, Access::ReadWrite)?;
        match (&target, options.mode) {
            (Target::Path(_), None) => {}
            // A memfd made never to be run refuses a change of these bits; nobody opens it by a path either.
            (Target::Anonymous, mode) => file::set_mode(fd, mode.unwrap_or(0o600) & 0o666)?,
            (_, mode) => file::set_mode(fd, mode.unwrap_or(0o600))?,
        }
        file::set_size(fd, size)?;
        if target == Target::Anonymous {
            memfd::add_seals(fd, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)?;
        }

        let mapping = Mapping::new(fd, size, Access::ReadWrite, options.aligns(size), options.core_dump)?;
        // A disk's file system has none, and says so only after a page of each was written.
        let asked = options.huge_pages.is_some();
        if asked || place.is_memory() {
            // Before the rest is reserved: on pages that are there already it takes ten times as long.
            collapse(&mapping, options.huge_pages_of(size))?;
        }
        if eager {
            file::reserve(fd, size).map_err(|errno| space::refused(place, size, errno))?;
        }
        if options.populate {
            mapping.populate(0..size, !place.is_memory())?;
        }
        Ok(Self { file, lock, mapping, target })
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// The file, to be written through the kernel instead.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.fd()
    }

    /// Gives the block its name, whole: `AlreadyExists` where the name is taken.
    pub(crate) fn publish(self) -> Result<SharedMemory> {
        let Self { file, lock, mapping, target } = self;
        let private = target == Target::Anonymous;
        // What can fail comes before the name, so that a failure leaves none behind.
        let lock = LockHandle::new(Block::open(lock, mapping.access(), private)?);
        let named = |file: Unlinked, name: String| -> Result<_> {
            let path = name::path_of(&name)?;
            let noted = Noted::new(&name, file.fd())?;
            let fd = link(file, &path, LEFT_BEHIND)?;
            step();
            let owned = OwnedName::new(name.clone(), noted);
            Ok((fd, Whereabouts::Named(name), Some(owned)))
        };
        let (fd, whereabouts, owned) = match target {
            Target::Anonymous => (file.into_fd(), Whereabouts::Anonymous, None),
            Target::Generated => named(file, name::generate()?)?,
            Target::Named(name) => named(file, name)?,
            Target::Path(path) => (link(file, &path, "")?, Whereabouts::Path(path), None),
        };
        Ok(SharedMemory::assemble(fd, lock, mapping, whereabouts, owned))
    }

    /// Lets somebody else give the block its name: `give` hands over the descriptor with the name that was asked for,
    /// and who gets it removes the name, too.
    pub(crate) fn publish_through(self, give: impl FnOnce(BorrowedFd<'_>, &str) -> Result<()>) -> Result<SharedMemory> {
        let Self { file, lock, mapping, target } = self;
        let name = match target {
            Target::Generated => name::generate()?,
            Target::Named(name) => name,
            Target::Anonymous | Target::Path(_) => {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "only a block in /dev/shm can be given a name there",
                ));
            }
        };
        let lock = LockHandle::new(Block::open(lock, mapping.access(), false)?);
        give(file.fd(), &name)?;
        Ok(SharedMemory::assemble(file.into_fd(), lock, mapping, Whereabouts::Named(name), None))
    }
}

fn collapse(mapping: &Mapping, wanted: HugePages) -> Result<()> {
    let required = wanted == HugePages::Require;
    if wanted == HugePages::Never {
        return Ok(());
    }
    if mapping.len() < HUGE_PAGE {
        if required {
            let message =
                format!("huge pages of {HUGE_PAGE} bytes are required for a block of {} bytes", mapping.len());
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        return Ok(());
    }
    let patience = if required { Patience::Endless } else { Patience::Short };
    match mapping.collapse(patience) {
        Err(errno) if required => {
            let message = format!("huge pages are required, but there are none for a block of {} bytes", mapping.len());
            Err(Error::from_os(errno, message).with_kind(ErrorKind::Unsupported))
        }
        // Small pages do as well.
        _ => Ok(()),
    }
}

/// What can be done about a name that is taken.
const LEFT_BEHIND: &str = "; attach to it, or, if a program that is gone left it, remove it: ndshm::prune, SharedMemory::unlink_name, or \
     `ndshm rm NAME` in a shell";

fn link(file: Unlinked, path: &Path, advice: &str) -> Result<OwnedFd> {
    file.link(path).map_err(|errno| {
        let shown = path.display();
        match errno {
            Errno::EEXIST => Error::from_os(errno, format!("there is a {shown} already{advice}")),
            _ => Error::from_os(errno, format!("cannot give a block the name {shown}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_file_on_disk_appears_whole_stays_and_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.npy");
        let draft = SharedMemory::options().draft(Target::Path(path.clone()), 5000).unwrap();
        crate::memory::copy::copy_in(draft.mapping(), 4990, b"last bytes");
        assert!(!path.exists(), "nobody sees a draft");
        drop(draft.publish().unwrap());
        assert!(fs::metadata(&path).unwrap().blocks() * 512 >= 5000, "reserved");

        let again = SharedMemory::options().draft(Target::Path(path.clone()), 10).unwrap();
        assert_eq!(again.publish().unwrap_err().kind(), ErrorKind::AlreadyExists);
        drop(SharedMemory::options().draft(Target::Path(dir.path().join("dropped")), 10).unwrap());
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        for path in [&path, &link] {
            let mut memory = SharedMemory::open_path(path, Access::ReadOnly).unwrap();
            let mut bytes = [0; 10];
            memory.read_at(4990, &mut bytes).unwrap();
            assert_eq!((&bytes, memory.size(), memory.name()), (b"last bytes", 5000, None));
            assert_eq!(memory.unlink().unwrap_err().kind(), ErrorKind::NotFound);
        }
        assert_eq!(SharedMemory::open_path(dir.path(), Access::ReadWrite).unwrap_err().kind(), ErrorKind::Layout);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_descriptor_is_mapped_through_one_of_its_own() {
        let memory = SharedMemory::anonymous(100).unwrap();
        let fd = memory.reopen(Access::ReadWrite).unwrap();
        let other = SharedMemory::from_fd(fd.as_fd(), Access::ReadWrite).unwrap();
        drop(fd);
        other.write_at(90, b"ten bytes.").unwrap();
        let mut bytes = [0; 20];
        assert_eq!(memory.read_header(90, &mut bytes).unwrap(), 10);
        assert_eq!(bytes[..10], *b"ten bytes.");

        let (pipe, _write) = nix::unistd::pipe().unwrap();
        let error = SharedMemory::from_fd(pipe.as_fd(), Access::ReadOnly).unwrap_err();
        assert_eq!(error.to_string(), "the descriptor is a FIFO, expected a regular file");
    }

    #[test]
    fn a_file_cut_short_is_a_short_header_and_no_bus_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut");
        fs::write(&path, [1; 8192]).unwrap();
        let memory = SharedMemory::open_path(&path, Access::ReadOnly).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
        assert_eq!(memory.read_header(4096, &mut [0; 8]).unwrap(), 0);
        assert_eq!(memory.mapping().populate(4096..8192, false).unwrap_err().kind(), ErrorKind::NoSpace);
    }
}
