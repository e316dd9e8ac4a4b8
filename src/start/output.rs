//! Where workers print.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Where the standard output or error of a pool's workers goes; see [`PoolBuilder::stdout`](crate::PoolBuilder::stdout).
///
/// Anything that a descriptor stands for can be one: a file, a pipe's end, a socket. All workers write to the same open
/// file, those that come later too. What they write in one piece of moderate size is not torn apart; for a file that others
/// write to as well, open it for appending.
///
/// # Examples
///
/// ```standalone_crate
/// use std::io::Read;
///
/// use ndshm::{Pool, WorkerOutput};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     ndshm::init();
///     let (mut reader, writer) = std::io::pipe()?;
///     let pool = Pool::builder()
///         .workers(1)
///         .stdout(std::os::fd::OwnedFd::from(writer))
///         .stderr(WorkerOutput::null())
///         .build()?;
///     pool.for_each((), |(), _| println!("hello"))?;
///     drop(pool);
///     let mut said = String::new();
///     reader.read_to_string(&mut said)?;
///     assert_eq!(said, "hello\n");
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct WorkerOutput(Kind);

#[derive(Clone, Debug, Default)]
enum Kind {
    #[default]
    Inherit,
    Null,
    Fd(Arc<OwnedFd>),
}

impl WorkerOutput {
    /// Where this process's own goes.
    pub fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// Nowhere.
    pub fn null() -> Self {
        Self(Kind::Null)
    }

    pub(crate) fn to_stdio(&self) -> Result<Stdio> {
        match &self.0 {
            Kind::Inherit => Ok(Stdio::inherit()),
            Kind::Null => Ok(Stdio::null()),
            Kind::Fd(fd) => {
                let copy = fd.try_clone().map_err(|error| Error::from_os(error, "cannot hand a worker its output"))?;
                Ok(copy.into())
            }
        }
    }
}

impl From<OwnedFd> for WorkerOutput {
    fn from(fd: OwnedFd) -> Self {
        Self(Kind::Fd(Arc::new(fd)))
    }
}

impl From<File> for WorkerOutput {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}
