//! The blocks that a server holds, by label.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::content;
use crate::error::{Error, ErrorKind, Result};
use crate::manager::protocol::{Content, Kind, Listed, check_label};
use crate::memory::{HeldName, Record, check_is_memory};
use crate::sys::file::{self, Trust};
use crate::sys::fork::{Epoch, epoch};

/// How long a server that ends waits for others who remove the same names, all in all.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// What a server holds. Dropped, as in a panic, it lets go of everything, too.
#[derive(Debug)]
pub(super) struct Store {
    /// A forked child has a copy of it, and no names.
    epoch: Epoch,
    blocks: BTreeMap<String, Stored>,
    /// For the process that started the server.
    record: Option<Arc<Record>>,
    /// Of the last label that was made up here.
    last: u64,
}

#[derive(Debug)]
struct Stored {
    place: Place,
    kind: Kind,
}

/// A block that was found.
struct Opened {
    fd: OwnedFd,
    name: Option<String>,
    kind: Kind,
}

/// What keeps a block there.
#[derive(Debug)]
enum Place {
    /// A name in `/dev/shm` that is the server's.
    Named(HeldName),
    /// A descriptor: the block lives as long as that is open.
    Open(OwnedFd),
}

impl Store {
    pub(super) fn new(record: Option<Record>) -> Self {
        Self { epoch: epoch(), blocks: BTreeMap::new(), record: record.map(Arc::new), last: 0 }
    }

    /// Gives the block behind `fd` a name that is the server's from here on.
    pub(super) fn create(&mut self, fd: &OwnedFd, name: &str, label: Option<String>, kind: Kind) -> Result<String> {
        let label = label.unwrap_or_else(|| name.to_owned());
        self.check_free(&label)?;
        check_is_memory(fd.as_fd())?;
        if file::trust(fd.as_fd())? == Trust::Foreign {
            let message = "found a block of another user, expected one of this user that is to get a name";
            return Err(Error::new(ErrorKind::Permission, message));
        }
        content::of(fd.as_fd(), kind)?;
        let held = HeldName::give(name, fd.as_fd(), self.record.as_ref())?;
        self.blocks.insert(label.clone(), Stored { place: Place::Named(held), kind });
        Ok(label)
    }

    /// Holds the block behind `fd`.
    pub(super) fn publish(&mut self, fd: OwnedFd, label: Option<String>, kind: Kind) -> Result<String> {
        check_is_memory(fd.as_fd())?;
        content::of(fd.as_fd(), kind)?;
        let label = label.unwrap_or_else(|| self.new_label(kind));
        self.check_free(&label)?;
        self.blocks.insert(label.clone(), Stored { place: Place::Open(fd), kind });
        Ok(label)
    }

    fn new_label(&mut self, kind: Kind) -> String {
        let noun = match kind {
            Kind::Memory => "memory",
            Kind::List => "list",
            Kind::Array => "array",
        };
        loop {
            self.last += 1;
            let label = format!("{noun}-{}", self.last);
            if !self.blocks.contains_key(&label) {
                return label;
            }
        }
    }

    /// Labels of blocks whose names were removed by hand are free again.
    fn check_free(&mut self, label: &str) -> Result<()> {
        check_label(label)?;
        match self.open(label) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                Err(Error::new(ErrorKind::AlreadyExists, format!("the manager has a block labelled {label:?} already")))
            }
        }
    }

    /// The block's descriptor, name and contents.
    pub(super) fn find(&mut self, label: &str) -> Result<(OwnedFd, Option<String>, Content)> {
        let Opened { fd, name, kind } = self.open(label)?;
        let content = content::of(fd.as_fd(), kind)?;
        Ok((fd, name, content))
    }

    fn open(&mut self, label: &str) -> Result<Opened> {
        let Entry::Occupied(entry) = self.blocks.entry(label.to_owned()) else { return Err(not_found(label)) };
        if let Some(opened) = entry.get().open()? {
            return Ok(opened);
        }
        // Removed by hand: nobody can attach to it any more.
        entry.remove().place.settle();
        Err(not_found(label))
    }

    /// Removes a block, or says that its name is being removed by somebody else.
    pub(super) fn remove(&mut self, label: &str) -> Result<()> {
        let Entry::Occupied(entry) = self.blocks.entry(label.to_owned()) else { return Err(not_found(label)) };
        if let Place::Named(held) = &entry.get().place {
            held.remove(Duration::ZERO)?;
        }
        entry.remove().place.settle();
        Ok(())
    }

    /// Lets a block go and leaves it its name.
    pub(super) fn keep(&mut self, label: &str) -> Result<()> {
        let Opened { name, .. } = self.open(label)?;
        if name.is_none() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the block labelled {label:?} has no name of the manager's that could stay without it"),
            ));
        }
        if let Some(stored) = self.blocks.remove(label) {
            stored.place.settle();
        }
        Ok(())
    }

    /// What is there.
    pub(super) fn list(&mut self) -> Vec<Listed> {
        let labels: Vec<String> = self.blocks.keys().cloned().collect();
        let listed = |label: String| {
            let Opened { fd, name, kind } = self.open(&label).ok()?;
            // Somebody may have written over its head.
            let content =
                content::of(fd.as_fd(), kind).unwrap_or_else(|error| Content::Damaged { problem: error.to_string() });
            let size = file::size(fd.as_fd()).ok()?;
            Some(Listed { label, name, size, content })
        };
        labels.into_iter().filter_map(listed).collect()
    }

    /// Removes everything, and says what could not be removed: it stays in the ledger. The memory is given back with the
    /// descriptors, which can take longer than anybody should wait for.
    pub(super) fn clear(&mut self) -> (Vec<Error>, Vec<OwnedFd>) {
        let mut open = Vec::new();
        let mut busy = Vec::new();
        for (_, stored) in std::mem::take(&mut self.blocks) {
            let held = match stored.place {
                Place::Named(held) => held,
                Place::Open(fd) => {
                    open.push(fd);
                    continue;
                }
            };
            open.extend(held.open().ok().flatten());
            match held.remove(Duration::ZERO) {
                Ok(_) => held.settle(),
                Err(_) => busy.push(held),
            }
        }
        let mut problems = Vec::new();
        if !busy.is_empty() {
            // To remove a name takes a descriptor, and it may have been these that were too many.
            open.clear();
        }
        let deadline = Instant::now() + LAST_PATIENCE;
        for held in busy {
            match held.remove(deadline.saturating_duration_since(Instant::now())) {
                Ok(_) => held.settle(),
                Err(error) => {
                    problems.push(error);
                    held.leave();
                }
            }
        }
        (problems, open)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.epoch == epoch() {
            drop(self.clear());
        }
    }
}

impl Stored {
    /// `None` where its name was removed by hand.
    fn open(&self) -> Result<Option<Opened>> {
        let kind = self.kind;
        match &self.place {
            Place::Named(held) => Ok(held.open()?.map(|fd| Opened { fd, name: Some(held.name().to_owned()), kind })),
            Place::Open(fd) => {
                let fd = fd.try_clone().map_err(|error| Error::from_os(error, "cannot hand out a block"))?;
                Ok(Some(Opened { fd, name: None, kind }))
            }
        }
    }
}

impl Place {
    fn settle(self) {
        if let Self::Named(held) = self {
            held.settle();
        }
    }
}

#[cold]
fn not_found(label: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("the manager has no block labelled {label:?}"))
}
