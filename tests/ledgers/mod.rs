//! What stands in `/dev/shm`, and what a sweep has removed there.

use std::path::{Path, PathBuf};

use ndshm::Pruned;

use crate::reexec::all_shm_names;

pub(crate) fn path(name: impl AsRef<Path>) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

pub(crate) fn ledgers() -> Vec<String> {
    all_shm_names().into_iter().filter(|name| name.starts_with(".ndshm.")).collect()
}

pub(crate) fn names_of(pruned: &Pruned) -> Vec<&str> {
    let mut names: Vec<_> = pruned.blocks().iter().map(ndshm::PrunedBlock::name).collect();
    names.sort_unstable();
    names
}
