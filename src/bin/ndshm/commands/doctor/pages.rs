//! Huge pages: who may have them, and how.

use ndshm::{HugePages, SharedMemory};

use super::{Finding, Level, chosen, read};

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

pub(super) fn look() -> Vec<Finding> {
    [Some(on_request()), settings(), mount(), reserved()].into_iter().flatten().collect()
}

/// The library's own way, tried.
fn on_request() -> Finding {
    const TOPIC: &str = "huge pages";
    match SharedMemory::options().huge_pages(HugePages::Require).anonymous(2 << 20) {
        Ok(_) => Finding::good(TOPIC, "can be had; ndshm makes arrays and blocks from 2 MiB on of them"),
        Err(error) => {
            let meaning = "filling and walking large arrays takes longer; nothing fails";
            Finding::new(
                TOPIC,
                Level::Note,
                error.to_string(),
                meaning,
                "Linux 6.1 or newer has them without an administrator",
            )
        }
    }
}

fn settings() -> Option<Finding> {
    let enabled = read(&format!("{THP}/enabled"))?;
    let shmem = read(&format!("{THP}/shmem_enabled"))?;
    let found = format!("enabled: {}; shmem_enabled: {}", chosen(&enabled), chosen(&shmem));
    Some(match chosen(&shmem) {
        "always" | "within_size" | "force" => Finding::good("huge page setting", found),
        _ => {
            let meaning = "other programs' anonymous shared memory, and what is reserved lazily, has small pages";
            let advice = format!("echo within_size > {THP}/shmem_enabled");
            Finding::new("huge page setting", Level::Note, found, meaning, advice)
        }
    })
}

fn mount() -> Option<Finding> {
    let mounts = read("/proc/self/mounts")?;
    // The last one of that path is what is seen.
    let line = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/dev/shm"))?;
    let option = huge_option(line.split(' ').nth(3)?);
    Some(match option {
        "always" | "within_size" => Finding::good("/dev/shm pages", format!("mounted with huge={option}")),
        _ => {
            let meaning = "other programs' named blocks, and what is reserved lazily, have small pages";
            let advice = "mount -o remount,huge=within_size /dev/shm";
            Finding::new("/dev/shm pages", Level::Note, format!("mounted with huge={option}"), meaning, advice)
        }
    })
}

fn huge_option(options: &str) -> &str {
    options.split(',').find_map(|option| option.strip_prefix("huge=")).unwrap_or("never")
}

/// Set aside by the administrator: taken from everybody else, and not used by this crate.
fn reserved() -> Option<Finding> {
    let info = read("/proc/meminfo")?;
    let number = |key: &str| -> Option<u64> {
        info.lines().find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next()?.parse().ok())
    };
    let (total, free, size) = (number("HugePages_Total:")?, number("HugePages_Free:")?, number("Hugepagesize:")?);
    (total > 0).then(|| {
        let found = format!("{total} pages of {} MiB are set aside, {free} of them free", size / 1024);
        let meaning = "that memory is lost for everything else";
        Finding::new(
            "reserved pages",
            Level::Note,
            found,
            meaning,
            "sysctl vm.nr_hugepages=0, unless another program needs them",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_without_the_option_has_small_pages() {
        assert_eq!(huge_option("rw,nosuid,size=64k,huge=within_size"), "within_size");
        assert_eq!(huge_option("rw,relatime"), "never");
    }
}
