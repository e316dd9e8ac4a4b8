//! Kills for lack of memory, which the kernel counts but reports to nobody.
//!
//! A process that the kernel killed for that ends of an ordinary `SIGKILL`. What tells it apart is a counter of its control
//! group: `oom_kill` in `memory.events` (version 2) or `memory.oom_control` (version 1), or in `/proc/vmstat` for the whole
//! machine where no group has one. It counts other processes of the group too, so it says 'probably'.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::sys::space::{Bytes, Version, field, own_memory_groups};

/// How many kills there were when it was last looked at, by where they are counted.
#[derive(Debug, Default)]
pub(crate) struct OomKills {
    counts: Vec<(String, u64)>,
}

impl OomKills {
    pub(crate) fn now() -> Self {
        let groups = own_memory_groups().into_iter().filter_map(|(version, _, group)| {
            let file = match version {
                Version::V1 => "memory.oom_control",
                Version::V2 => "memory.events",
            };
            let count = field(&fs::read_to_string(group.join(file)).ok()?, "oom_kill")?;
            Some((format!("the control group {}", group.display()), count))
        });
        let mut counts: Vec<_> = groups.collect();
        if counts.is_empty() {
            let machine = fs::read_to_string("/proc/vmstat").ok().and_then(|text| field(&text, "oom_kill"));
            counts.extend(machine.map(|count| ("this machine".to_owned(), count)));
        }
        Self { counts }
    }

    /// One process has been killed: where the kernel has killed one for lack of memory that was not asked about yet.
    pub(crate) fn claim(&mut self) -> Option<String> {
        self.claim_from(&Self::now())
    }

    fn claim_from(&mut self, now: &Self) -> Option<String> {
        let (place, known) = self
            .counts
            .iter_mut()
            .find(|(place, known)| now.counts.iter().any(|(other, count)| other == place && count > known))?;
        *known += 1;
        Some(place.clone())
    }
}

/// What may have made a process abort: a limit on how much memory it can have, for people.
pub(crate) fn memory_limit() -> Option<String> {
    let limits = [(Resource::RLIMIT_AS, "its address space", "-v"), (Resource::RLIMIT_DATA, "its data", "-d")];
    limits.into_iter().find_map(|(resource, what, flag)| {
        let (limit, _) = getrlimit(resource).ok()?;
        (limit != RLIM_INFINITY).then(|| format!("{what} is limited to {} (ulimit {flag})", Bytes(limit)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kill_is_claimed_once() {
        let counts = |own, other| OomKills { counts: vec![("here".to_owned(), own), ("there".to_owned(), other)] };
        let mut known = counts(3, 5);
        assert_eq!(known.claim_from(&counts(3, 5)), None);
        let now = counts(5, 5);
        assert_eq!(known.claim_from(&now).as_deref(), Some("here"));
        assert_eq!(known.claim_from(&now).as_deref(), Some("here"));
        assert_eq!(known.claim_from(&now), None);
        assert_eq!(known.claim_from(&OomKills::default()), None);
    }
}
