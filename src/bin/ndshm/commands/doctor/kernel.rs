//! What this kernel can do: by trying where that is possible, else by its version.

use std::time::Duration;

use ndshm::{BlockFile, SharedMemory};

use super::{Finding, Level, read};

/// A version from which a feature is there, what it is, and what is done without.
const FEATURES: [((u32, u32), &str, &str); 4] = [
    ((5, 3), "pidfd", "pools and managers cannot hold their processes safely"),
    ((5, 14), "MADV_POPULATE", "memory is not populated ahead, so first accesses wait for page faults"),
    ((6, 1), "MADV_COLLAPSE", "huge pages on request are not to be had for shared memory"),
    ((6, 3), "MFD_NOEXEC_SEAL", "anonymous memory is not sealed against being run as a program"),
];

pub(super) fn look() -> Vec<Finding> {
    let mut findings = vec![version(), anonymous(), proc()];
    findings.extend(hidden_processes());
    findings
}

fn version() -> Finding {
    const TOPIC: &str = "kernel";
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let Some(version) = parse(&release) else {
        let meaning = "what it can do is found out when it is needed";
        return Finding::new(TOPIC, Level::Note, format!("of an unknown version: {release:?}"), meaning, "");
    };
    let missing: Vec<_> = FEATURES.iter().filter(|(since, ..)| version < *since).collect();
    match missing[..] {
        [] => Finding::good(TOPIC, format!("Linux {release}, with all that is made use of")),
        [(since, name, meaning), ..] => {
            let names: Vec<&str> = missing.iter().map(|(_, name, _)| *name).collect();
            let level = if *name == "pidfd" { Level::Problem } else { Level::Note };
            let found = format!("Linux {release}, without {}", names.join(", "));
            let newest = missing.last().map_or(*since, |(since, ..)| *since);
            Finding::new(TOPIC, level, found, meaning, format!("Linux {}.{} has all of it", newest.0, newest.1))
        }
    }
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Makes anonymous memory, and locks it through `/proc`, as another process would.
fn anonymous() -> Finding {
    const TOPIC: &str = "anonymous memory";
    let attempt = || -> ndshm::Result<()> {
        use std::os::fd::AsRawFd;
        let mut memory = SharedMemory::anonymous(4096)?;
        let fd = memory.share_fd()?.as_raw_fd();
        let file = BlockFile::open(format!("/proc/self/fd/{fd}"))?;
        file.read_lock(Duration::from_secs(1)).map(drop)
    };
    match attempt() {
        Ok(()) => Finding::good(TOPIC, "can be made, sealed, locked and handed on"),
        Err(error) => {
            let meaning = "arrays without a name, pools and managers do not work";
            let advice = "allow memfd_create and fcntl locks in the container's seccomp profile, and mount /proc";
            Finding::new(TOPIC, Level::Problem, error.to_string(), meaning, advice)
        }
    }
}

fn proc() -> Finding {
    match std::fs::read_link("/proc/self/exe") {
        Ok(_) => Finding::good("/proc", "is there: programs can start copies of themselves"),
        Err(error) => {
            let meaning = "pools and managers start copies of the program by it";
            Finding::new(
                "/proc",
                Level::Problem,
                format!("/proc/self/exe: {error}"),
                meaning,
                "mount -t proc proc /proc",
            )
        }
    }
}

fn hidden_processes() -> Option<Finding> {
    let mounts = read("/proc/self/mounts")?;
    let options = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next()? == "/proc").then(|| fields.nth(1).unwrap_or_default().to_owned())
    })?;
    let hidden = options.split(',').find_map(|option| option.strip_prefix("hidepid="))?;
    (!matches!(hidden, "0" | "off")).then(|| {
        let meaning = "other users' processes are not seen, so 'ndshm ls' cannot tell who has a block mapped";
        Finding::new("other processes", Level::Note, format!("/proc is mounted with hidepid={hidden}"), meaning, "")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse("6.18.44-fc"), Some((6, 18)));
        assert_eq!(parse("5.3"), Some((5, 3)));
        assert_eq!(parse("6.1-rc1"), Some((6, 1)));
        assert_eq!((parse(""), parse("six.one")), (None, None));
        assert!((5, 14) > (5, 3));
        assert!(FEATURES.is_sorted_by_key(|(since, ..)| *since));
    }
}
