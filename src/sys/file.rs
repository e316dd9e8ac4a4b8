//! Files that blocks live in: opened with suspicion, sized, reserved, given a name.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, RenameFlags, fallocate, open, renameat2};
use nix::sys::sendfile::sendfile64;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, lstat, stat};
use nix::unistd::{ftruncate, geteuid, linkat, unlink};

use crate::sys::flock;
use crate::sys::map::Access;
use crate::sys::random::random_u64;
use crate::{Error, ErrorKind, Result};

/// Where named blocks live.
pub(crate) const SHM_DIR: &str = "/dev/shm";

/// What a file is called in the making, where the file system knows none without a name.
pub(crate) const HIDDEN_PREFIX: &str = ".ndshm-";

/// Reserving more than this in one call could, on older kernels, start again at every signal and never end.
const RESERVE_STEP: usize = 32 << 20;

/// What one call copies at most.
const APPEND_STEP: usize = 64 << 20;

/// Which file a descriptor stands for, whatever it is called.
///
/// Numbers come back: once the file is gone another may get the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

impl FileId {
    fn of(stat: &FileStat) -> Self {
        Self { dev: stat.st_dev, ino: stat.st_ino }
    }
}

/// What follows a path's last component where that is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// A link is an error: somebody else could have planted it.
    Refuse,
    Follow,
}

fn flags_of(access: Access) -> OFlag {
    // Without O_NONBLOCK a FIFO would hang; regular files do not mind it.
    let common = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    match access {
        Access::ReadOnly => common | OFlag::O_RDONLY,
        Access::ReadWrite => common | OFlag::O_RDWR,
    }
}

/// Opens an existing regular file; whatever else is there is a `Layout` error that says what.
pub(crate) fn open_existing(path: &Path, access: Access, links: Links) -> Result<OwnedFd> {
    let flags = match links {
        Links::Refuse => flags_of(access) | OFlag::O_NOFOLLOW,
        Links::Follow => flags_of(access),
    };
    match open_clear(path, flags, Mode::empty()) {
        Ok(fd) => {
            require_regular(fd.as_fd(), path)?;
            Ok(fd)
        }
        Err(errno) => Err(open_error(errno, path, access, links)),
    }
}

/// Opens a file, never as one of the three standard streams: a program that has closed those may put others in their
/// place, over a lock that it knows nothing of, and print into a block.
fn open_clear(path: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    clear_of_streams(retry(|| open(path, flags, mode))?)
}

/// The same open file under another number, if it has that of a standard stream.
pub(crate) fn clear_of_streams(fd: OwnedFd) -> nix::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    // `try_clone` gives no number below 3.
    fd.try_clone().map_err(|error| error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw))
}

/// What a name stands for, for who wants to lock it.
#[derive(Debug)]
pub(crate) enum Found {
    /// A regular file.
    File(OwnedFd),
    /// A regular file that this user may neither read nor write: it can be looked at, but not locked.
    Closed(OwnedFd),
    NotAFile,
    Nothing,
}

/// Opens a regular file in whatever way its mode allows.
pub(crate) fn open_to_lock(path: &Path) -> Result<Found> {
    let failed = |errno| Error::from_os(errno, format!("cannot open {}", path.display()));
    match lstat(path) {
        Ok(stat) if file_type(&stat) == SFlag::S_IFREG => {}
        Ok(_) => return Ok(Found::NotAFile),
        Err(Errno::ENOENT) => return Ok(Found::Nothing),
        Err(errno) => return Err(failed(errno)),
    }
    for access in [OFlag::O_RDONLY, OFlag::O_WRONLY, OFlag::O_PATH] {
        let flags = access | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW;
        let fd = match open_clear(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(Found::Nothing),
            Err(Errno::ELOOP | Errno::EISDIR | Errno::ENXIO) => return Ok(Found::NotAFile),
            Err(Errno::EACCES) => continue,
            Err(errno @ (Errno::EMFILE | Errno::ENFILE)) => {
                return Err(descriptors_error(errno, &format!("open {}", path.display())));
            }
            Err(errno) => return Err(failed(errno)),
        };
        return Ok(match file_type(&stat_of(fd.as_fd())?) {
            SFlag::S_IFREG if access == OFlag::O_PATH => Found::Closed(fd),
            SFlag::S_IFREG => Found::File(fd),
            _ => Found::NotAFile,
        });
    }
    Err(failed(Errno::EACCES))
}

/// Whether this user's processes alone can have written a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    Own,
    /// This user's, but others could have had their hands in it: how is the end of a sentence.
    Doubtful(&'static str),
    /// Another user's, or no regular file.
    Foreign,
    Nothing,
}

pub(crate) fn trust(fd: BorrowedFd<'_>) -> Result<Trust> {
    Ok(trust_in(&stat_of(fd)?))
}

/// The same, without opening it.
pub(crate) fn trust_at(path: &Path) -> Result<Trust> {
    match lstat(path) {
        Ok(stat) => Ok(trust_in(&stat)),
        Err(Errno::ENOENT) => Ok(Trust::Nothing),
        Err(errno) => Err(Error::from_os(errno, format!("cannot inspect {}", path.display()))),
    }
}

fn trust_in(stat: &FileStat) -> Trust {
    if file_type(stat) != SFlag::S_IFREG || stat.st_uid != geteuid().as_raw() {
        return Trust::Foreign;
    }
    match (stat.st_mode & 0o022, stat.st_nlink) {
        (0, 1) => Trust::Own,
        (0, 0) => Trust::Nothing,
        (0, _) => Trust::Doubtful("has several names"),
        _ => Trust::Doubtful("can be written by other users"),
    }
}

#[cold]
fn open_error(errno: Errno, path: &Path, access: Access, links: Links) -> Error {
    let shown = path.display();
    match errno {
        // ELOOP: a link; EISDIR: a directory; ENXIO: a socket or a device without a driver.
        Errno::ELOOP | Errno::EISDIR | Errno::ENXIO => {
            let found = match lstat(path) {
                Ok(stat) if links == Links::Refuse || errno != Errno::ELOOP => kind_of(&stat),
                _ => "a symbolic link that leads nowhere",
            };
            Error::new(ErrorKind::Layout, format!("{shown} is {found}, expected a regular file"))
        }
        Errno::ENOENT => Error::from_os(errno, format!("there is no {shown}")),
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            let how = match access {
                Access::ReadOnly => "reading",
                Access::ReadWrite => "reading and writing",
            };
            Error::from_os(errno, format!("cannot open {shown} for {how}"))
        }
        Errno::EMFILE | Errno::ENFILE => descriptors_error(errno, &format!("open {shown}")),
        _ => Error::from_os(errno, format!("cannot open {shown}")),
    }
}

#[cold]
pub(crate) fn descriptors_error(errno: Errno, what: &str) -> Error {
    Error::from_os(errno, format!("cannot {what}: no file descriptor is left; see `ulimit -n`"))
}

/// A `Layout` error unless `fd` is a regular file; `path` is for the message.
pub(crate) fn require_regular(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let stat = stat_of(fd)?;
    if file_type(&stat) == SFlag::S_IFREG {
        return Ok(());
    }
    let (shown, found) = (path.display(), kind_of(&stat));
    Err(Error::new(ErrorKind::Layout, format!("{shown} is {found}, expected a regular file")))
}

/// A `Layout` error where something other than a regular file is at `path`, links followed.
pub(crate) fn require_replaceable(path: &Path) -> Result<()> {
    match stat(path) {
        Ok(stat) if file_type(&stat) != SFlag::S_IFREG => {
            let (shown, found) = (path.display(), kind_of(&stat));
            Err(Error::new(ErrorKind::Layout, format!("{shown} is {found}, expected a regular file or nothing")))
        }
        // Whatever else is wrong comes out when the file is made.
        _ => Ok(()),
    }
}

fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn kind_of(stat: &FileStat) -> &'static str {
    match file_type(stat) {
        SFlag::S_IFREG => "a regular file",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFLNK => "a symbolic link",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFCHR => "a character device",
        SFlag::S_IFBLK => "a block device",
        _ => "not a file",
    }
}

/// A new open file description of the same file: locks taken through it are its own.
pub(crate) fn reopen(fd: BorrowedFd<'_>, access: Access) -> Result<OwnedFd> {
    let path = proc_path(fd);
    open_clear(&path, flags_of(access), Mode::empty()).map_err(|errno| match errno {
        Errno::ENOENT => Error::from_os(errno, "cannot open a descriptor anew: /proc is not mounted")
            .with_kind(ErrorKind::Unsupported),
        Errno::EMFILE | Errno::ENFILE => descriptors_error(errno, "open a descriptor anew"),
        _ => Error::from_os(errno, "cannot open a descriptor anew"),
    })
}

fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn stat_of(fd: BorrowedFd<'_>) -> Result<FileStat> {
    fstat(fd).map_err(|errno| Error::from_os(errno, "cannot inspect a file descriptor"))
}

/// The size in bytes.
pub(crate) fn size(fd: BorrowedFd<'_>) -> Result<u64> {
    // A regular file's size is never negative.
    Ok(stat_of(fd)?.st_size.unsigned_abs())
}

/// Does the file have memory, or room on its disk, for all of its first `len` bytes?
pub(crate) fn is_whole(fd: BorrowedFd<'_>, len: usize) -> bool {
    missing(fd, len).is_ok_and(|missing| missing == 0)
}

/// For how many of its first `len` bytes the file has no memory yet, nor room on its disk.
pub(crate) fn missing(fd: BorrowedFd<'_>, len: usize) -> Result<usize> {
    let blocks = usize::try_from(stat_of(fd)?.st_blocks).unwrap_or(0);
    Ok(len.saturating_sub(blocks.saturating_mul(512)))
}

pub(crate) fn identity(fd: BorrowedFd<'_>) -> Result<FileId> {
    Ok(FileId::of(&stat_of(fd)?))
}

/// The file system that a directory is in, links followed.
pub(crate) fn device(dir: &Path) -> Result<u64> {
    stat(dir)
        .map(|stat| stat.st_dev)
        .map_err(|errno| Error::from_os(errno, format!("cannot inspect {}", dir.display())))
}

/// The user that a file belongs to.
pub(crate) fn user(fd: BorrowedFd<'_>) -> Result<u32> {
    Ok(stat_of(fd)?.st_uid)
}

/// Which file has that name now, links not followed; `None` where there is none.
pub(crate) fn identity_at(path: &Path) -> Result<Option<FileId>> {
    match lstat(path) {
        Ok(stat) => Ok(Some(FileId::of(&stat))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(Error::from_os(errno, format!("cannot inspect {}", path.display()))),
    }
}

/// Reads from `offset` on until `out` is full or the file ends, and says how many bytes it was.
pub(crate) fn read_at(fd: BorrowedFd<'_>, offset: usize, out: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = to_off_t(offset.saturating_add(done))?;
        match retry(|| nix::sys::uio::pread(fd, rest, at)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(errno) => return Err(Error::from_os(errno, format!("cannot read at byte {at}"))),
        }
    }
    Ok(done)
}

/// Writes all of `bytes`. Look at `RLIMIT_FSIZE` first: going past it is a signal that kills.
pub(crate) fn write_at(fd: BorrowedFd<'_>, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let at = to_off_t(offset + done).map_err(|_| Errno::EFBIG)?;
        match retry(|| nix::sys::uio::pwrite(fd, rest, at))? {
            0 => return Err(Errno::ENOSPC),
            n => done += n,
        }
    }
    Ok(())
}

/// Writes the `len` bytes of `from` that begin at byte `at` to where `to` stands. Its holes are zeros, and are not filled for that.
///
/// Fewer bytes than that are an `UnexpectedEof`. Look at `RLIMIT_FSIZE` first: going past it is a signal that kills.
pub(crate) fn append(to: BorrowedFd<'_>, from: BorrowedFd<'_>, at: usize, len: usize) -> io::Result<()> {
    let too_large = |_| io::Error::from(Errno::EFBIG);
    let mut at = to_off_t(at).map_err(too_large)?;
    let end = at.checked_add(to_off_t(len).map_err(too_large)?).ok_or(io::Error::from(Errno::EFBIG))?;
    while at < end {
        // What one call takes at most, so that it comes back for signals.
        let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(APPEND_STEP);
        match retry(|| sendfile64(to, from, Some(&mut at), count)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            // Some files cannot be read or written that way.
            Err(Errno::EINVAL | Errno::ENOSYS) => return copy_rest(to, from, at, end),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy_rest(to: BorrowedFd<'_>, from: BorrowedFd<'_>, mut at: i64, end: i64) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = retry(|| nix::sys::uio::pread(from, &mut buffer[..count], at))?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            rest = &rest[retry(|| nix::unistd::write(to, rest))?..];
        }
        at += i64::try_from(read).map_err(|_| io::Error::from(Errno::EFBIG))?;
    }
    Ok(())
}

pub(crate) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    fchmod(fd, Mode::from_bits_truncate(mode))
        .map_err(|errno| Error::from_os(errno, format!("cannot set the permission bits {mode:04o}")))
}

/// Sets the size. Look at `RLIMIT_FSIZE` first: going past it is a signal that kills.
pub(crate) fn set_size(fd: BorrowedFd<'_>, size: usize) -> Result<()> {
    let len = to_off_t(size)?;
    retry(|| ftruncate(fd, len)).map_err(|errno| Error::from_os(errno, format!("cannot make a block of {size} bytes")))
}

/// Makes `len` bytes zero, in place. Needs no room and heeds no limit on the size of files.
pub(crate) fn clear(fd: BorrowedFd<'_>, at: usize, len: usize) -> Result<(), Errno> {
    let (at, len) = (to_off_t(at).map_err(|_| Errno::EFBIG)?, to_off_t(len).map_err(|_| Errno::EFBIG)?);
    retry(|| fallocate(fd, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, at, len))
}

/// Reserves every byte up to `size`, so that no later write can fail for want of room.
pub(crate) fn reserve(fd: BorrowedFd<'_>, size: usize) -> Result<(), Errno> {
    let mut at = 0;
    while at < size {
        let step = RESERVE_STEP.min(size - at);
        let (from, len) = (to_off_t(at).map_err(|_| Errno::EFBIG)?, to_off_t(step).map_err(|_| Errno::EFBIG)?);
        match retry(|| fallocate(fd, FallocateFlags::empty(), from, len)) {
            Ok(()) => at += step,
            // Some file systems on disk cannot reserve; on a fresh file zeros do the same, only slower.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => return write_zeros(fd, at, size),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Gives back the memory of the first `size` bytes, which are zeros from then on, whoever has them mapped.
pub(crate) fn punch(fd: BorrowedFd<'_>, size: usize) -> Result<(), Errno> {
    let len = to_off_t(size).map_err(|_| Errno::EFBIG)?;
    retry(|| fallocate(fd, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, len))
}

fn write_zeros(fd: BorrowedFd<'_>, from: usize, size: usize) -> Result<(), Errno> {
    let zeros = vec![0_u8; 1 << 20];
    let mut at = from;
    while at < size {
        let piece = &zeros[..zeros.len().min(size - at)];
        let offset = to_off_t(at).map_err(|_| Errno::EFBIG)?;
        match retry(|| nix::sys::uio::pwrite(fd, piece, offset))? {
            0 => return Err(Errno::ENOSPC),
            n => at += n,
        }
    }
    Ok(())
}

fn to_off_t(n: usize) -> Result<i64> {
    i64::try_from(n).map_err(|_| Error::new(ErrorKind::InvalidSize, format!("{n} bytes is more than a file can have")))
}

fn retry<T>(mut f: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match f() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// A new file that nobody can find yet. Dropped before [`link`](Self::link), nothing is left of it.
#[derive(Debug)]
pub(crate) struct Unlinked {
    fd: OwnedFd,
    /// Its name of the moment, where the file system cannot make files without one.
    hidden: Option<Hidden>,
}

/// A file name that goes when this does, unless it has been disarmed.
#[derive(Debug)]
struct Hidden {
    path: PathBuf,
    id: FileId,
    epoch: crate::sys::fork::Epoch,
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if self.epoch == crate::sys::fork::epoch() && identity_at(&self.path).is_ok_and(|id| id == Some(self.id)) {
            // Nothing can be done about a failure here.
            let _ = unlink(self.path.as_path());
        }
    }
}

impl Unlinked {
    /// Makes an empty file in `dir`, open for reading and writing. The umask applies to `mode`.
    pub(crate) fn create(dir: &Path, mode: u32) -> Result<Self> {
        let flags = flags_of(Access::ReadWrite) | OFlag::O_TMPFILE;
        match open_clear(dir, flags, Mode::from_bits_truncate(mode)) {
            Ok(fd) => Ok(Self { fd, hidden: None }),
            // The file system (EOPNOTSUPP) or the kernel (EISDIR, EINVAL, ENOENT) does not know O_TMPFILE. An ENOENT
            // that means a missing directory comes again there.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => Self::create_hidden(dir, mode),
            Err(errno) => Err(create_error(errno, dir)),
        }
    }

    /// Makes it under a name that begins with [`HIDDEN_PREFIX`], which is free or is not taken. For as long as it has that
    /// name it is locked (`flock`): who can lock it knows that its maker is dead.
    fn create_hidden(dir: &Path, mode: u32) -> Result<Self> {
        let flags = flags_of(Access::ReadWrite) | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        loop {
            let path = dir.join(format!("{HIDDEN_PREFIX}{:016x}", random_u64()?));
            match open_clear(&path, flags, Mode::from_bits_truncate(mode)) {
                Ok(fd) => {
                    let id = identity(fd.as_fd())?;
                    let hidden = Hidden { path, id, epoch: crate::sys::fork::epoch() };
                    // A sweep that came between has it locked or has removed it already.
                    let locked = flock::hold(fd.as_fd()) != Err(Errno::EAGAIN);
                    if locked && identity_at(&hidden.path)? == Some(id) {
                        return Ok(Self { fd, hidden: Some(hidden) });
                    }
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(create_error(errno, dir)),
            }
        }
    }

    /// One that is never to have a name, such as a memfd.
    pub(crate) fn nameless(fd: OwnedFd) -> Self {
        Self { fd, hidden: None }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Does without a name.
    pub(crate) fn into_fd(self) -> OwnedFd {
        if self.hidden.is_some() {
            drop(self.hidden);
            flock::release(self.fd.as_fd());
        }
        self.fd
    }

    /// Gives the file the name `path`, which must not be there yet: `EEXIST` says that it is.
    pub(crate) fn link(self, path: &Path) -> nix::Result<OwnedFd> {
        let Some(hidden) = self.hidden else {
            link_fd(self.fd.as_fd(), path)?;
            return Ok(self.fd);
        };
        match linkat(AT_FDCWD, hidden.path.as_path(), AT_FDCWD, path, AtFlags::empty()) {
            Ok(()) => {}
            // No hard links there. The old name is gone afterwards, and with it what `hidden` would remove.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                renameat2(AT_FDCWD, hidden.path.as_path(), AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE)?;
            }
            Err(errno) => return Err(errno),
        }
        drop(hidden);
        flock::release(self.fd.as_fd());
        Ok(self.fd)
    }
}

/// Gives a file that has none a name, which must not be there yet.
pub(crate) fn link_fd(fd: BorrowedFd<'_>, path: &Path) -> nix::Result<()> {
    match linkat(AT_FDCWD, proc_path(fd).as_path(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EEXIST) => Err(Errno::EEXIST),
        // Without /proc: since 6.10 this needs no privilege. Its error says less, so the first one is told.
        Err(first) => match linkat(fd, c"", AT_FDCWD, path, AtFlags::AT_EMPTY_PATH) {
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => Err(Errno::EEXIST),
            Err(_) => Err(first),
        },
    }
}

#[cold]
fn create_error(errno: Errno, dir: &Path) -> Error {
    let shown = dir.display();
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => {
            Error::from_os(errno, format!("cannot create a file: there is no directory {shown}"))
        }
        Errno::EMFILE | Errno::ENFILE => descriptors_error(errno, &format!("create a file in {shown}")),
        _ => Error::from_os(errno, format!("cannot create a file in {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_name_gets_one_with_and_without_o_tmpfile() {
        let dir = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        for (i, make) in [Unlinked::create, Unlinked::create_hidden].into_iter().enumerate() {
            let path = dir.path().join(format!("file-{i}"));
            let before = names();
            drop(make(dir.path(), 0o600).unwrap());
            assert_eq!(names(), before, "dropped, nothing is left");

            let file = make(dir.path(), 0o600).unwrap();
            nix::sys::uio::pwrite(file.fd(), b"whole", 0).unwrap();
            assert!(!path.exists());
            let fd = file.link(&path).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"whole");
            assert_eq!(identity_at(&path).unwrap(), Some(identity(fd.as_fd()).unwrap()));

            let taken = make(dir.path(), 0o600).unwrap().link(&path);
            assert_eq!(taken.unwrap_err(), Errno::EEXIST);
            assert_eq!(names(), before + 1, "neither the hidden name nor the refused file is left");
        }
        let missing = Unlinked::create(&dir.path().join("missing"), 0o600).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert!(missing.to_string().contains("no directory"), "{missing}");
    }

    #[test]
    fn zeros_stand_in_for_a_reservation() {
        let file = tempfile::tempfile().unwrap();
        let size = (2 << 20) + 12_345;
        set_size(file.as_fd(), size).unwrap();
        write_zeros(file.as_fd(), 4096, size).unwrap();
        let stat = stat_of(file.as_fd()).unwrap();
        assert_eq!(stat.st_size.unsigned_abs(), size as u64);
        assert!(stat.st_blocks.unsigned_abs() * 512 >= 2 << 20);
    }

    #[test]
    fn reading_stops_where_the_file_ends() {
        let file = tempfile::tempfile().unwrap();
        nix::sys::uio::pwrite(&file, b"0123456789", 0).unwrap();
        let mut out = [0; 8];
        assert_eq!(read_at(file.as_fd(), 0, &mut out).unwrap(), 8);
        assert_eq!(read_at(file.as_fd(), 7, &mut out).unwrap(), 3);
        assert_eq!(out[..3], *b"789");
        assert_eq!(read_at(file.as_fd(), 10, &mut out).unwrap(), 0);
        assert_eq!(read_at(file.as_fd(), usize::MAX, &mut out).unwrap_err().kind(), ErrorKind::InvalidSize);
    }
}
