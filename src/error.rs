//! One opaque [`Error`] with a [`kind`](Error::kind).

use std::error::Error as StdError;
use std::fmt;
use std::ops::Range;

/// What a fallible call of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// Match on [`kind`](Error::kind) to decide what to do and print the error to tell a person: the message says what was
/// found and what was expected, and [`source`](StdError::source) holds the operating system's or serde's own error
/// where there is one.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    rows: Vec<Range<usize>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No block or file has that name.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The name is empty, too long, `.` or `..`, or has a `/` or a NUL byte in it.
    InvalidName,
    /// The size is 0, too large for this machine, or does not fit the block.
    InvalidSize,
    /// An argument is out of its range, such as an axis that the array does not have.
    InvalidArgument,
    /// `/dev/shm`, the control group, the process's limits or the machine has no room for it.
    NoSpace,
    /// The operating system does not allow it, or the memory was opened read-only.
    Permission,
    /// Not a block of that kind, or a damaged one.
    Layout,
    /// The elements have another type.
    TypeMismatch,
    /// The array has another shape or rank, or arguments split into different numbers of chunks.
    ShapeMismatch,
    /// A write did not finish: the writer, or a task of its pool, died or panicked; see `clear_poison`.
    Poisoned,
    /// The lock is held: by another handle or process, or, where waiting could never end, by this thread itself.
    WouldBlock,
    /// A worker process died while it ran a task.
    WorkerDied,
    /// A task panicked.
    TaskPanicked,
    /// A task returned an error.
    TaskFailed,
    /// A call did not end within its [`deadline`](crate::Call::deadline).
    TimedOut,
    /// A call was [cancelled](crate::CancelToken).
    Cancelled,
    /// [`init`](crate::init) was not called in this program.
    NotInitialized,
    /// Used in a forked child, or after it was shut down.
    Closed,
    /// The machine, the kernel or the way the program was started does not allow it.
    Unsupported,
    /// A value could not be turned into bytes or back.
    Serialization,
    /// Any other error of the operating system.
    Io,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { inner: Box::new(Inner { kind, message: message.into(), rows: Vec::new(), source: None }) }
    }

    /// An error of the operating system: its `errno` decides the kind, `context` says what was being done.
    pub(crate) fn from_os(source: impl Into<std::io::Error>, context: impl Into<String>) -> Self {
        let source = source.into();
        let kind = match source.raw_os_error() {
            Some(libc::ENOENT) => ErrorKind::NotFound,
            Some(libc::EEXIST) => ErrorKind::AlreadyExists,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => ErrorKind::Permission,
            Some(libc::ENOSPC | libc::ENOMEM | libc::EDQUOT | libc::EFBIG) => ErrorKind::NoSpace,
            Some(libc::ENAMETOOLONG) => ErrorKind::InvalidName,
            Some(libc::ENOSYS | libc::EOPNOTSUPP) => ErrorKind::Unsupported,
            _ => ErrorKind::Io,
        };
        Self::new(kind, context).with_source(source)
    }

    /// The error that the last system call of this thread left in `errno`.
    pub(crate) fn last_os(context: impl Into<String>) -> Self {
        Self::from_os(std::io::Error::last_os_error(), context)
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    pub(crate) fn with_rows(mut self, rows: Vec<Range<usize>>) -> Self {
        self.inner.rows = rows;
        self
    }

    #[must_use]
    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.inner.kind = kind;
        self
    }

    /// Adds which block or file is not what it should be; errors of other kinds name theirs already.
    #[must_use]
    pub(crate) fn about(mut self, place: impl fmt::Display) -> Self {
        if matches!(self.kind(), ErrorKind::Layout | ErrorKind::TypeMismatch | ErrorKind::ShapeMismatch) {
            self.inner.message = format!("{}: {place}", self.inner.message);
        }
        self
    }

    /// What kind of error this is.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The rows that a failed call to a pool did not finish, in ascending order and merged where they touch; empty for
    /// every other error. They are indices along the axis that the call's first splitting argument was split on; where that
    /// is [`Each`](crate::Each), of its items. [`Call::only_rows`](crate::Call::only_rows) runs just them again.
    pub fn rows(&self) -> &[Range<usize>] {
        &self.inner.rows
    }

    /// The `errno` of the system call that failed, where one did.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.inner.source.as_ref()?.downcast_ref::<std::io::Error>()?.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        match &self.inner.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

/// What a person reads when `main` returns the error: the message, then the kind.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?}", self.inner.kind)?;
        if !self.inner.rows.is_empty() {
            write!(f, ", rows {:?}", self.inner.rows)?;
        }
        f.write_str(")")
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => std::io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => std::io::ErrorKind::AlreadyExists,
            ErrorKind::InvalidName | ErrorKind::InvalidSize | ErrorKind::InvalidArgument => {
                std::io::ErrorKind::InvalidInput
            }
            ErrorKind::NoSpace => std::io::ErrorKind::StorageFull,
            ErrorKind::Permission => std::io::ErrorKind::PermissionDenied,
            ErrorKind::Layout | ErrorKind::TypeMismatch | ErrorKind::ShapeMismatch => std::io::ErrorKind::InvalidData,
            ErrorKind::WouldBlock => std::io::ErrorKind::WouldBlock,
            ErrorKind::TimedOut => std::io::ErrorKind::TimedOut,
            ErrorKind::Unsupported => std::io::ErrorKind::Unsupported,
            _ => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
