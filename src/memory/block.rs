//! The one state per (device, inode) in this process.
#![allow(dead_code, clippy::unnecessary_wraps, clippy::unused_self, reason = "used once the array layer lands")]

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::sys::fork::{Epoch, epoch};
use crate::sys::map::Access;
use crate::{Error, ErrorKind, Result};

pub(crate) struct Block {
    fd: OwnedFd,
    access: Access,
    private: bool,
}

impl Block {
    pub(crate) fn open(fd: OwnedFd, access: Access, private: bool) -> Result<Arc<Block>> {
        Ok(Arc::new(Self { fd, access, private }))
    }
}

pub(crate) struct LockHandle {
    block: Arc<Block>,
    epoch: Epoch,
}

impl LockHandle {
    pub(crate) fn new(block: Arc<Block>) -> Self {
        Self { block, epoch: epoch() }
    }

    pub(crate) fn block(&self) -> &Arc<Block> {
        &self.block
    }

    pub(crate) fn with_shared<R>(&self, f: impl FnOnce() -> R) -> Result<R> {
        if self.epoch != epoch() {
            return Err(Error::new(ErrorKind::Closed, "this block is not mapped in a forked child"));
        }
        Ok(f())
    }

    pub(crate) fn with_exclusive<R>(&self, f: impl FnOnce() -> R) -> Result<R> {
        self.with_shared(f)
    }

    pub(crate) fn end_privacy(&self) {}
}
