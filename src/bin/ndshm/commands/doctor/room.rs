//! How much room there is, and what takes it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use ndshm::Limit;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

use super::{Finding, Level, read};
use crate::text::{Bytes, plural};

const SHM: &str = "/dev/shm";
/// What containers get unless they ask for more.
const CONTAINER_DEFAULT: u64 = 64 << 20;

pub(super) fn look() -> Vec<Finding> {
    let limits = ndshm::limits();
    let mut findings = vec![shm(&limits), place()];
    findings.extend(inodes());
    findings.extend(limits.iter().filter(|limit| !limit.what().starts_with(SHM)).map(memory));
    findings.extend(overcommit());
    findings.extend(leftovers());
    findings
}

fn shm(limits: &[Limit]) -> Finding {
    const TOPIC: &str = "/dev/shm";
    let Some(limit) = limits.iter().find(|limit| limit.what().starts_with(SHM)) else {
        return Finding::good(TOPIC, "no limit of its own");
    };
    let (free, total) = (limit.free(), limit.total());
    let found = format!("{}, of which {} are free", Bytes(total), Bytes(free));
    // In percent, rounded down.
    let share = free.saturating_mul(100) / total.max(1);
    if total <= CONTAINER_DEFAULT {
        let meaning =
            "a container's default: larger named blocks are a NoSpace error. Anonymous arrays are not limited by it";
        let advice = "docker run --shm-size=8g …; in Kubernetes mount an emptyDir with medium: Memory at /dev/shm";
        Finding::new(TOPIC, if free == 0 { Level::Problem } else { Level::Warning }, found, meaning, advice)
    } else if share < 10 {
        let level = if free < 1 << 20 { Level::Problem } else { Level::Warning };
        let advice =
            "look at it with 'ndshm ls', then 'ndshm prune' or 'ndshm rm'; or mount -o remount,size=… /dev/shm";
        Finding::new(TOPIC, level, found, "nearly full: what does not fit is a NoSpace error", advice)
    } else {
        Finding::good(TOPIC, found)
    }
}

/// Is it memory, and may this user make blocks there as this crate does?
fn place() -> Finding {
    const TOPIC: &str = "named blocks";
    let kind = match statfs(SHM) {
        Ok(stat) if stat.filesystem_type() == TMPFS_MAGIC => "",
        Ok(_) => "; it is no tmpfs, so blocks may be written to a disk",
        Err(error) => {
            let meaning = "named blocks, ShareableList and Python's shared memory do not work; anonymous arrays do";
            let advice = "mount -t tmpfs tmpfs /dev/shm";
            return Finding::new(TOPIC, Level::Problem, format!("{SHM}: {error}"), meaning, advice);
        }
    };
    match OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_TMPFILE).mode(0o600).open(SHM) {
        Ok(_) if kind.is_empty() => Finding::good(TOPIC, "can be made, whole before they have a name"),
        Ok(_) => {
            let meaning = "slower, and the space is the disk's";
            Finding::new(TOPIC, Level::Warning, format!("can be made{kind}"), meaning, "mount -t tmpfs tmpfs /dev/shm")
        }
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::EACCES | nix::libc::EPERM | nix::libc::EROFS)) => {
            let found = format!("cannot be made: {error}");
            let meaning = "named blocks and ShareableList do not work for this user; anonymous arrays do";
            Finding::new(TOPIC, Level::Problem, found, meaning, "chmod 1777 /dev/shm, or mount it writable")
        }
        Err(error) => {
            let found = format!("no file without a name there: {error}");
            let meaning = "a hidden name is used instead, which a killed program can leave behind";
            Finding::new(TOPIC, Level::Note, found, meaning, "")
        }
    }
}

fn inodes() -> Option<Finding> {
    let stat = statvfs(SHM).ok().filter(|stat| stat.files() > 0)?;
    let (free, total) = (stat.files_available(), stat.files());
    (free < 100).then(|| {
        let found = format!("{free} of {total} files are left");
        let level = if free == 0 { Level::Problem } else { Level::Warning };
        let advice = "remove files there, or mount -o remount,nr_inodes=… /dev/shm";
        Finding::new(
            "/dev/shm files",
            level,
            found,
            "each named block takes one, and each owning process another",
            advice,
        )
    })
}

fn memory(limit: &Limit) -> Finding {
    let topic = if limit.what().starts_with("the control group") { "control group" } else { "memory" };
    let (free, total) = (limit.free(), limit.total());
    let found = format!("{}: {} are free", limit.what(), Bytes(free));
    if free.saturating_mul(20) < total {
        let level = if free < 16 << 20 { Level::Problem } else { Level::Warning };
        let meaning = "nearly full: what does not fit is a NoSpace error; what others take can end in an OOM kill";
        Finding::new(topic, level, found, meaning, limit.advice())
    } else if topic == "control group" {
        let meaning =
            "shared memory counts as the group's that touched it first, and stays counted until it is removed";
        Finding::new(topic, Level::Note, found, meaning, limit.advice())
    } else {
        Finding::good(topic, found)
    }
}

fn overcommit() -> Option<Finding> {
    (read("/proc/sys/vm/overcommit_memory")? == "2").then(|| {
        let found = "vm.overcommit_memory is 2";
        let meaning = "the kernel refuses memory that it could not back, lazily reserved blocks too";
        Finding::new("overcommit", Level::Note, found, meaning, "sysctl vm.overcommit_memory=0")
    })
}

fn leftovers() -> Option<Finding> {
    let pruned = ndshm::prunable().ok()?;
    if !pruned.problems().is_empty() {
        let found = pruned.problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let meaning = "what these name is never removed by itself";
        return Some(Finding::new(
            "left behind",
            Level::Warning,
            found,
            meaning,
            "look at them, and remove them by hand",
        ));
    }
    let bytes = pruned.blocks().iter().map(ndshm::PrunedBlock::size).sum();
    (!pruned.blocks().is_empty()).then(|| {
        let found =
            format!("{} of programs that were killed, {}", plural(pruned.blocks().len(), "block"), Bytes(bytes));
        let meaning = "the next program that creates a named block removes them";
        Finding::new("left behind", Level::Note, found, meaning, "ndshm prune")
    })
}
