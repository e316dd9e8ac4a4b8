//! The locks, each with a number that it guards.

use std::fs::File;
use std::sync::RwLock;

use ndarray::Ix1;
use ndshm::SharedArray;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

use crate::Access;
use crate::common::Result;
use crate::mutex::{Counter, Mutex};

pub(crate) type Array = SharedArray<u64, Ix1>;

/// The lock of another process: a kind, and where to find it.
#[expect(unsafe_code, reason = "attaching, where all write under the lock")]
pub(crate) fn open(kind: &str, address: &str) -> Result<Box<dyn Lock>> {
    Ok(match kind {
        "mutex" => Box::new(Mutex::of(Counter::open(address)?)),
        "flock" => Box::new(WholeFile::of(Counter::open(address)?)?),
        "description" => Box::new(Description(Counter::open(address)?)),
        // SAFETY: only this benchmark's processes know the name, and they write through guards alone.
        "array" => Box::new(unsafe { Array::attach(address)? }),
        _ => return Err(format!("no peer is called {kind}").into()),
    })
}

/// What can be locked.
pub(crate) trait Lock {
    /// Locks, reads the number or adds one to it, unlocks; returns the number.
    fn once(&mut self, access: Access) -> Result<u64>;
}

impl Lock for Array {
    fn once(&mut self, access: Access) -> Result<u64> {
        Ok(match access {
            Access::Read => self.read()?[0],
            Access::Write => {
                let mut guard = self.write()?;
                guard[0] += 1;
                guard[0]
            }
        })
    }
}

impl Lock for &RwLock<u64> {
    fn once(&mut self, access: Access) -> Result<u64> {
        let poisoned = |_| "another thread panicked";
        Ok(match access {
            Access::Read => *self.read().map_err(|_| "another thread panicked")?,
            Access::Write => {
                let mut guard = self.write().map_err(poisoned)?;
                *guard += 1;
                *guard
            }
        })
    }
}

impl Lock for Mutex {
    fn once(&mut self, access: Access) -> Result<u64> {
        self.locked(|counter| count(counter, access))
    }
}

/// `flock` on the whole file.
pub(crate) struct WholeFile {
    /// Away while it is locked.
    file: Option<File>,
    counter: Counter,
}

impl WholeFile {
    pub(crate) fn of(counter: Counter) -> Result<Self> {
        Ok(Self { file: Some(counter.file().try_clone()?), counter })
    }
}

impl Lock for WholeFile {
    fn once(&mut self, access: Access) -> Result<u64> {
        let argument = match access {
            Access::Read => FlockArg::LockShared,
            Access::Write => FlockArg::LockExclusive,
        };
        let file = self.file.take().ok_or("an earlier lock failed")?;
        let locked = Flock::lock(file, argument).map_err(|(_, errno)| errno)?;
        let number = count(&self.counter, access);
        self.file = Some(locked.unlock().map_err(|(_, errno)| errno)?);
        Ok(number)
    }
}

/// An open file description lock: what arrays are locked with.
pub(crate) struct Description(pub(crate) Counter);

impl Description {
    fn set(&self, kind: libc::c_int) -> Result<()> {
        let kind = libc::c_short::try_from(kind)?;
        let whence = libc::c_short::try_from(libc::SEEK_SET)?;
        let range = libc::flock { l_type: kind, l_whence: whence, l_start: 0, l_len: 1, l_pid: 0 };
        fcntl(self.0.file(), FcntlArg::F_OFD_SETLKW(&range))?;
        Ok(())
    }
}

impl Lock for Description {
    fn once(&mut self, access: Access) -> Result<u64> {
        self.set(match access {
            Access::Read => libc::F_RDLCK,
            Access::Write => libc::F_WRLCK,
        })?;
        let number = count(&self.0, access);
        self.set(libc::F_UNLCK)?;
        Ok(number)
    }
}

fn count(counter: &Counter, access: Access) -> u64 {
    match access {
        Access::Read => counter.get(),
        Access::Write => {
            // In two steps, of which a lock that does not exclude would lose some.
            counter.set(counter.get() + 1);
            counter.get()
        }
    }
}
