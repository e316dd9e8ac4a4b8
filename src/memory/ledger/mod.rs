//! Who owns which name, so that what a killed process leaves is found and nothing else is taken.
//!
//! Every process that owns named blocks keeps one *ledger*, `/dev/shm/.ndshm.<random>`, that lists them. It is locked for
//! as long as the process lives; who can take the lock knows that the process is dead, and *sweeps*: removes the names
//! that still are those blocks, then the ledger. A process sweeps before it creates its first named block, and whenever
//! it is asked to ([`prune`]).
//!
//! ```text
//!          owner                                          /dev/shm                           after kill -9 here, a sweep
//!  create  sweep once                                                                       -
//!          file without a name, of its size               -                                  finds nothing: it is gone
//!          first entry:  file without a name, lock,       -                                  the same
//!                        head and entry, link             .ndshm.r [climate]                 removes the ledger
//!          other ones:   write a slot                     .ndshm.r [climate]                 removes the ledger
//!          link                                           .ndshm.r [climate]  climate        removes both
//!  keep    clear the slot                                 .ndshm.r []         climate        removes the ledger
//!  drop    lock the block, look again, unlink             .ndshm.r [climate]                 removes the ledger
//!          clear the slot                                 .ndshm.r []                        removes the ledger
//!          last entry, instead: cut the ledger to nothing .ndshm.r, empty                    removes the ledger
//!                        unlink it                        -                                  finds nothing
//!  sweep   lock the ledger, is it there still, read it    .ndshm.r [climate]  climate        begins again
//!          each: lock the block, look again, unlink       .ndshm.r [climate]                 begins again
//!          unlink the ledger                              -                                  finds nothing
//! ```
//!
//! Where the file system knows no files without a name (gVisor), the first ones are called `.ndshm-<random>` until they get
//! theirs, and are locked (`flock`) by their maker for so long: a sweep removes those that it can lock.
//!
//! An entry is there before its name and until after it. So whatever has a name and is not kept stands in a ledger (what is
//! left is found), and a kept block or one of another program stands in none (what is not left is not taken).
//!
//! # What is believed
//!
//! *A ledger*: a regular file of this user with this one name and nobody else's right to write it, which says of itself
//! which file it is (a copy is none) and has no damage. Others are left alone; those of this user are told of.
//!
//! *That the owner is dead*: its lock can be taken. The lock belongs to an open file description, which a child that the
//! owner forked holds as well; so where it cannot be taken, the process id in the head decides, if it is certain that
//! this process has ended ([`Stamp`](crate::sys::stamp::Stamp)). A child is no owner: it maps nothing and its drops do
//! nothing. A ledger has its lock before its name, or a sweep would come between.
//!
//! *That a name is the block*: device, inode and the file handle with its generation, since inode numbers may come back.
//! An owner that gets no handles (a sandbox forbids the call) notes the numbers alone, and they have to do; a sweep that gets
//! none leaves blocks alone that were noted with one, and their ledger to somebody who can compare.
//!
//! # Who excludes whom
//!
//! ```text
//!   owner × sweep      the ledger's lock: a sweep has nothing to do with a living owner's names
//!   sweep × sweep      the ledger's lock; and where a dead owner's child holds it, as for removers
//!   remover × remover  the lock on the block behind the name (`remove`), held from the second look to the unlink
//!   creator × all      the kernel: no name is linked where one is; a name changes hands only through a remover
//! ```
//!
//! Nobody waits for a ledger; a remover waits with no other lock than its own process's books, and for a bounded time. So nobody
//! waits in a circle, a process that was stopped holds up nobody for ever, and there is no file that another user could
//! plant or lock to keep this one's processes waiting: the files that are locked are those of this user. Who may open a
//! block (`mode`) can lock it and so keep its name from being removed; it is told of, and stays in the ledger. A sweep
//! waits a second for all such blocks together.
//!
//! Who removes names without this lock (`rm`, Python) can do so between the second look and the unlink; where a third one
//! then takes the name in the same moment, its file is unlinked. The kernel has nothing to prevent that.
//!
//! # A second list
//!
//! A manager's server writes its entries into a [`Record`] as well, which the process that started it keeps: should the server
//! be killed, that one removes the names at once, whatever became of the ledger.
//!
//! # In the process
//!
//! A forked child has books of its own. The parent's entries remember the process that made them and do nothing in the
//! child. A process that changes its user, or over whose `/dev/shm` another one is mounted, has a ledger for each, so that a
//! ledger has the user and the file system of what it lists. A ledger that somebody has removed, renamed, cut or opened to
//! others is noticed and made again, with all entries, when the next block is created. Its descriptor is none of the
//! standard streams: who puts another file in place of those would end the lock without knowing. Slots are used again, so a ledger is as large as the most blocks that its process owned at a time,
//! and shrinks when there are less.

mod file;
mod format;
#[cfg(test)]
pub(crate) mod kill_support;
#[cfg(test)]
mod kill_tests;
mod owner;
mod owners;
mod prune;
mod record;
mod remove;
mod step;
mod sweep;

pub(crate) use owner::{Noted, sweep_once};
pub(crate) use owners::{Owned, is_ledger, owned};
pub use prune::{Pruned, PrunedBlock, prunable, prune};
pub(crate) use record::Record;
pub(crate) use remove::{Removal, remove, remove_open, remove_within};
pub(crate) use step::step;
#[cfg(test)]
pub(crate) use step::tests::{arm, disarm};

/// What the names of ledgers begin with; blocks cannot have such names.
const PREFIX: &str = ".ndshm.";
