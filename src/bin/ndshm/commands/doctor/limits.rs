//! What this process may have.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::{Finding, Level, read};
use crate::text::Bytes;

pub(super) fn look() -> Vec<Finding> {
    [descriptors(), files(), mappings()].into_iter().flatten().collect()
}

fn descriptors() -> Option<Finding> {
    const TOPIC: &str = "descriptors";
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let found = format!("{} at a time, {} at most", shown(soft), shown(hard));
    // Each handle has two.
    let meaning = "each handle on a block takes two, a worker process one more: some hundred arrays at a time";
    let advice = "ulimit -n 65536; for services LimitNOFILE=65536";
    Some(match soft {
        ..256 => Finding::new(TOPIC, Level::Warning, found, meaning, advice),
        256..4096 => Finding::new(TOPIC, Level::Note, found, meaning, advice),
        _ => Finding::good(TOPIC, found),
    })
}

fn shown(limit: u64) -> String {
    if limit == RLIM_INFINITY { "any number".to_owned() } else { limit.to_string() }
}

fn files() -> Option<Finding> {
    let (soft, _) = getrlimit(Resource::RLIMIT_FSIZE).ok()?;
    (soft != RLIM_INFINITY).then(|| {
        let found = format!("files of this shell have at most {}", Bytes(soft));
        let meaning = "larger blocks are a NoSpace error, anonymous ones too";
        Finding::new("file size", Level::Warning, found, meaning, "ulimit -f unlimited")
    })
}

fn mappings() -> Option<Finding> {
    let most: u64 = read("/proc/sys/vm/max_map_count")?.parse().ok()?;
    let found = format!("{most} a process");
    Some(if most < 16_384 {
        let meaning = "each handle on a block takes one";
        Finding::new("mappings", Level::Warning, found, meaning, "sysctl vm.max_map_count=65530")
    } else {
        Finding::good("mappings", found)
    })
}
