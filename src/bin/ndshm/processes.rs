//! Who has which memory mapped, and what has no name: by `/proc`, as far as this user may look.
//!
//! Processes come and go while they are looked at; what is gone, or is another user's, is left out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sys::stat::makedev;

use crate::text;

/// Device and inode.
pub(crate) type Id = (u64, u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// What the kernel calls it, escaped.
    pub(crate) name: String,
}

/// What all processes have.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    mapped: HashMap<Id, Vec<Process>>,
    /// Memory without a name, or whose name was removed, and where it can be opened.
    nameless: BTreeMap<Id, PathBuf>,
}

/// What the kernel adds to the path of a file whose name was removed.
const REMOVED: &[u8] = b" (deleted)";
/// The path of anonymous memory that was made with this crate.
const ANONYMOUS: &[u8] = b"/memfd:ndshm (deleted)";
const SHM: &[u8] = b"/dev/shm/";

impl Processes {
    /// Looks at all processes, in the order of their ids.
    pub(crate) fn look() -> Self {
        let mut found = Self::default();
        let shm = fs::metadata("/dev/shm").map_or(0, |metadata| metadata.dev());
        let mut pids: Vec<u32> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        for pid in pids {
            found.look_at(pid, shm);
        }
        found
    }

    fn look_at(&mut self, pid: u32, shm: u64) {
        let Ok(maps) = fs::read(format!("/proc/{pid}/maps")) else { return };
        let ids: HashSet<Id> = maps.split(|&byte| byte == b'\n').filter_map(|line| mapping(line, shm)).collect();
        if !ids.is_empty() {
            let process = Process { pid, name: name_of(pid) };
            for id in ids {
                self.mapped.entry(id).or_default().push(process.clone());
            }
        }
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(target) = fs::read_link(&path) else { continue };
            let target = target.as_os_str().as_bytes();
            // A look at what it leads to; a descriptor that is closed meanwhile leads nowhere. A block that was made
            // without a name and has one by now still has the old path here.
            if is_nameless(target)
                && let Ok(metadata) = fs::metadata(&path)
                && metadata.nlink() == 0
                && (target == ANONYMOUS || metadata.dev() == shm)
            {
                self.nameless.entry((metadata.dev(), metadata.ino())).or_insert(path);
            }
        }
    }

    /// Those that have a block mapped.
    pub(crate) fn mapping(&self, id: Id) -> &[Process] {
        self.mapped.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Paths by which memory without a name can be opened, one for each.
    pub(crate) fn nameless(&self) -> impl Iterator<Item = &PathBuf> {
        self.nameless.values()
    }
}

pub(crate) fn name_of(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    text::escaped(String::from_utf8_lossy(&name).trim_end_matches('\n'))
}

fn is_nameless(target: &[u8]) -> bool {
    // The ledgers of this crate are in nobody's way.
    let removed = target.strip_suffix(REMOVED).and_then(|path| path.strip_prefix(SHM));
    target == ANONYMOUS || removed.is_some_and(|name| !name.starts_with(b".ndshm"))
}

/// The file that a line such as `7f12-7f34 rw-s 00000000 00:1a 42   /dev/shm/climate` tells of, if it may be a block.
fn mapping(line: &[u8], shm: u64) -> Option<Id> {
    let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty()).skip(3);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let inode: u64 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = device.split_once(':')?;
    let device = makedev(u64::from_str_radix(major, 16).ok()?, u64::from_str_radix(minor, 16).ok()?);
    let path = fields.next()?;
    (inode != 0 && (device == shm || path.starts_with(b"/memfd:"))).then_some((device, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_blocks_are_told_from_others() {
        let shm = makedev(0, 0x1a);
        let block = b"7f12a000-7f12b000 rw-s 00000000 00:1a 42                 /dev/shm/climate (deleted)";
        assert_eq!(mapping(block, shm), Some((shm, 42)));
        let memfd = b"7f12a000-7f12b000 rw-s 00000000 00:01 7                  /memfd:ndshm (deleted)";
        assert_eq!(mapping(memfd, shm), Some((makedev(0, 1), 7)));
        for other in [
            &b"7f12a000-7f12b000 r-xp 00000000 fe:01 42                 /usr/lib/libc.so"[..],
            b"7f12a000-7f12b000 rw-p 00000000 00:00 0 ",
            b"7f12a000-7f12b000 rw-p 00000000 00:00 0                  [heap]",
            b"",
            b"1 2 3 x:y z w",
        ] {
            assert_eq!(mapping(other, shm), None);
        }
    }

    #[test]
    fn nameless_memory_is_ours_or_lies_in_dev_shm() {
        assert!(is_nameless(b"/memfd:ndshm (deleted)"));
        assert!(is_nameless(b"/dev/shm/climate (deleted)"));
        for other in [
            &b"/memfd:pulseaudio (deleted)"[..],
            b"/dev/shm/climate",
            b"/dev/shm/.ndshm.12 (deleted)",
            b"/tmp/x (deleted)",
        ] {
            assert!(!is_nameless(other));
        }
    }
}
