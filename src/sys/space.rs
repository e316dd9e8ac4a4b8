//! Whether a block fits, asked before anything is reserved.
//!
//! What the kernel does not refuse it answers with a kill: memory past a control group's limit is an OOM kill, of a
//! bystander too, and a file past `RLIMIT_FSIZE` a SIGXFSZ. The look is advisory, since others allocate meanwhile; what
//! cannot be read is skipped.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use crate::sys::map::round_to_pages;
use crate::{Error, ErrorKind, Result};

/// Where a block is going to live.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// Memory without a name, which no file system limits.
    Anonymous,
    /// A file in this directory: memory too where that is a tmpfs.
    Directory(&'a Path),
}

impl Place<'_> {
    pub(crate) fn is_memory(self) -> bool {
        match self {
            Self::Anonymous => true,
            Self::Directory(dir) => statfs(dir).is_ok_and(|stat| {
                let kind = stat.filesystem_type();
                kind == TMPFS_MAGIC || kind == HUGETLBFS_MAGIC
            }),
        }
    }
}

/// Something that can be full.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    pub(crate) free: u64,
    pub(crate) total: u64,
    /// What it is, and how large all in all.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) advice: String,
}

/// A `NoSpace` error where `size` bytes do not fit under this process's file size limit.
pub(crate) fn check_file_size(size: usize) -> Result<()> {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_FSIZE) else { return Ok(()) };
    if limit == RLIM_INFINITY || size as u64 <= limit {
        return Ok(());
    }
    let what = "this process's file size limit".to_owned();
    let advice = "raise it (ulimit -f)".to_owned();
    Err(no_room(size, &Room { free: limit, total: limit, what, advice }))
}

/// Below so many bytes it does not pay to read what the machine and its control groups have left: that takes longer than
/// making the block, and what such a block takes is less than the figures change in that time.
const SMALL: usize = 1 << 20;

/// A `NoSpace` error where a new file of `size` bytes in `place` does not fit what is free now.
pub(crate) fn check(place: Place<'_>, size: usize) -> Result<()> {
    if let Place::Directory(dir) = place {
        check_inodes(dir)?;
    }
    check_room(place, size)
}

/// The same for `size` bytes more in a file that is there.
pub(crate) fn check_room(place: Place<'_>, size: usize) -> Result<()> {
    let needed = round_to_pages(size).unwrap_or(size) as u64;
    match rooms(place, size >= SMALL).into_iter().filter(|room| room.free < needed).min_by_key(|room| room.free) {
        Some(room) => Err(no_room(size, &room)),
        None => Ok(()),
    }
}

/// The error where the kernel said that `size` bytes do not fit, although they seemed to.
#[cold]
pub(crate) fn refused(place: Place<'_>, size: usize, errno: Errno) -> Error {
    let tightest = rooms(place, true).into_iter().min_by_key(|room| room.free);
    let error = match tightest {
        Some(room) if errno == Errno::ENOSPC => no_room(size, &room),
        _ => Error::new(ErrorKind::NoSpace, format!("cannot reserve {}", Bytes(size as u64))),
    };
    let kind = Error::from_os(errno, "").kind();
    error.with_kind(kind).with_source(std::io::Error::from(errno))
}

#[cold]
fn no_room(size: usize, room: &Room) -> Error {
    let (asked, free) = (Bytes(size as u64), Bytes(room.free));
    let Room { what, advice, .. } = room;
    Error::new(ErrorKind::NoSpace, format!("no room for {asked}: {free} free in {what}; {advice}, or ask for less"))
}

/// How many bytes the machine and this process's control groups have free; `None` where nobody says.
pub(crate) fn free_memory() -> Option<u64> {
    machine().into_iter().chain(control_groups()).map(|room| room.free).min()
}

/// All that limits how large a block in `place` can be.
pub(crate) fn rooms(place: Place<'_>, memory_too: bool) -> Vec<Room> {
    let mut rooms = Vec::new();
    if let Place::Directory(dir) = place {
        rooms.extend(file_system(dir));
    }
    if memory_too && place.is_memory() {
        rooms.extend(machine());
        rooms.extend(control_groups());
    }
    rooms
}

fn file_system(dir: &Path) -> Option<Room> {
    let stat = statvfs(dir).ok()?;
    // A tmpfs without a limit says 0.
    if stat.blocks() == 0 {
        return None;
    }
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let total = stat.blocks().saturating_mul(stat.fragment_size());
    let dir = dir.display();
    let advice = if dir.to_string() == crate::sys::file::SHM_DIR {
        "remove blocks there, make it larger (mount -o remount,size=… /dev/shm; docker run --shm-size=…), or use \
         anonymous memory, which it does not limit"
    } else {
        "make room there"
    };
    Some(Room { free, total, what: format!("{dir}, which holds {}", Bytes(total)), advice: advice.to_owned() })
}

fn check_inodes(dir: &Path) -> Result<()> {
    match statvfs(dir) {
        Ok(stat) if stat.files() > 0 && stat.files_available() == 0 => {
            let (dir, files) = (dir.display(), stat.files());
            Err(Error::new(
                ErrorKind::NoSpace,
                format!("no room for another file in {dir}: all of its {files} inodes are in use; remove files there"),
            ))
        }
        _ => Ok(()),
    }
}

fn machine() -> Option<Room> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let free =
        field(&info, "MemAvailable:")?.saturating_add(field(&info, "SwapFree:").unwrap_or(0)).saturating_mul(1024);
    let total = field(&info, "MemTotal:")?.saturating_mul(1024);
    let advice = "end other programs".to_owned();
    Some(Room { free, total, what: format!("this machine's memory of {}", Bytes(total)), advice })
}

/// The number after `key` in a file of lines such as `MemAvailable:   123 kB` or `inactive_file 456`.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_ascii_whitespace().next() == Some(key))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Which of the two kinds of control group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// This process's groups that can limit its memory: version, where the hierarchy is mounted, and the group below that.
pub(crate) fn own_memory_groups() -> Vec<(Version, PathBuf, PathBuf)> {
    match (fs::read_to_string("/proc/self/cgroup"), fs::read_to_string("/proc/self/mountinfo")) {
        (Ok(groups), Ok(mounts)) => memory_groups(&groups, &mounts),
        _ => Vec::new(),
    }
}

fn control_groups() -> Vec<Room> {
    let mut rooms = Vec::new();
    for (version, mount, group) in own_memory_groups() {
        for dir in group.ancestors().take_while(|dir| dir.starts_with(&mount)) {
            rooms.extend(group_room(version, dir));
        }
    }
    rooms
}

fn group_room(version: Version, dir: &Path) -> Option<Room> {
    let (limit, used, inactive, active) = match version {
        Version::V1 => ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"),
        Version::V2 => ("memory.max", "memory.current", "inactive_file", "active_file"),
    };
    let number = |name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
    // No limit is `max` in version 2, which is no number, and close to i64::MAX in version 1.
    let limit = number(limit).filter(|&limit| limit < 1 << 62)?;
    let used = number(used)?;
    // What is cached from files gives way; blocks are not on those lists.
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let cached = field(&stat, inactive).unwrap_or(0).saturating_add(field(&stat, active).unwrap_or(0));
    let what = format!("the control group {}, which is limited to {}", dir.display(), Bytes(limit));
    let advice = "raise its limit (docker run --memory=…; MemoryMax= in systemd; --mem in Slurm)".to_owned();
    Some(Room { free: limit.saturating_sub(used.saturating_sub(cached)), total: limit, what, advice })
}

/// For each hierarchy that can limit memory: its version, where it is mounted, and this process's group below that.
fn memory_groups(groups: &str, mounts: &str) -> Vec<(Version, PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((version, root, mount)) = memory_mount(line) else { continue };
        let own = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let ours = match version {
                Version::V1 => controllers.split(',').any(|c| c == "memory"),
                Version::V2 => controllers.is_empty(),
            };
            ours.then_some(path)
        });
        let Some(own) = own else { continue };
        // In a container the mount may show only a part of the tree; a group outside of it is out of sight.
        let below = Path::new(own).strip_prefix(&root).unwrap_or(Path::new(""));
        let group = if below.starts_with("..") { mount.clone() } else { mount.join(below) };
        found.push((version, mount, group));
    }
    found
}

fn memory_mount(line: &str) -> Option<(Version, PathBuf, PathBuf)> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let version = match after.next()? {
        "cgroup" if after.nth(1)?.split(',').any(|option| option == "memory") => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let mut before = before.split(' ').skip(3);
    Some((version, unescape(before.next()?), unescape(before.next()?)))
}

/// Undoes mountinfo's `\040` for a space and the like.
fn unescape(text: &str) -> PathBuf {
    let mut out = text.to_owned();
    for (code, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        out = out.replace(code, plain);
    }
    PathBuf::from(out)
}

/// A number of bytes for people, with the exact one where that is not the same.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} bytes", self.0);
        }
        let power = (self.0.ilog2() / 10) as usize;
        let unit = UNITS[power - 1];
        let whole = 1_u64 << (10 * power);
        if self.0.is_multiple_of(whole) {
            return write!(f, "{} {unit}", self.0 / whole);
        }
        let tenths = u128::from(self.0) * 10 / u128::from(whole);
        write!(f, "{}.{} {unit} ({} bytes)", tenths / 10, tenths % 10, self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_below_the_mount_in_and_out_of_containers() {
        let v1 = "36 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let inside = "36 31 0:32 /docker/ab /sys/fs/cgroup/mem\\040ory ro - cgroup cgroup rw,memory";
        let find = |groups, mounts| memory_groups(groups, mounts).remove(0);
        assert_eq!(
            find("5:cpu:/x\n4:memory,hugetlb:/a/b\n0::/", v1),
            (Version::V1, "/sys/fs/cgroup/memory".into(), "/sys/fs/cgroup/memory/a/b".into())
        );
        assert_eq!(
            find("0::/user.slice/a:b", v2),
            (Version::V2, "/sys/fs/cgroup".into(), "/sys/fs/cgroup/user.slice/a:b".into())
        );
        assert_eq!(
            find("4:memory:/docker/ab/c", inside),
            (Version::V1, "/sys/fs/cgroup/mem ory".into(), "/sys/fs/cgroup/mem ory/c".into())
        );
        assert_eq!(find("4:memory:/elsewhere", inside).2, Path::new("/sys/fs/cgroup/mem ory"));
        assert_eq!(find("0::/../../out", v2).2, Path::new("/sys/fs/cgroup"));
        assert!(memory_groups("4:memory:/a", "22 1 0:20 / /proc rw - proc proc rw").is_empty());
        assert!(memory_groups("nonsense", v1).is_empty());
    }

    #[test]
    fn numbers_of_bytes_read_well() {
        let shown: Vec<_> = [0, 1023, 1024, 1536, 1 << 30, u64::MAX].map(|n| Bytes(n).to_string()).into();
        assert_eq!(shown[..5], ["0 bytes", "1023 bytes", "1 KiB", "1.5 KiB (1536 bytes)", "1 GiB"]);
        assert_eq!(shown[5], "15.9 EiB (18446744073709551615 bytes)");
    }
}
