//! A process's mark on what it leaves behind: enough to tell later, by its id, that it has ended.
//!
//! An id alone proves nothing: it is given out again, and means another process in another pid namespace (containers
//! that share `/dev/shm`). So the mark has the start time and both namespaces that the two numbers are counted in, and
//! whoever cannot compare all of them takes the process to be alive.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::sys::process::PidFd;

/// The mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// 0: unknown, never taken to have ended.
    pub(crate) pid: u32,
    /// In clock ticks since the machine's start, as counted in `time_ns`.
    pub(crate) started: u64,
    pub(crate) pid_ns: u64,
    pub(crate) time_ns: u64,
}

impl Stamp {
    /// Unknown where `/proc` does not tell.
    pub(crate) fn of_this_process() -> Self {
        let stamp = || {
            let (pid_ns, time_ns) = namespaces()?;
            Some(Self { pid: std::process::id(), started: start_time("self")?, pid_ns, time_ns })
        };
        stamp().unwrap_or_default()
    }

    /// The process's id, where it is known and means that process here.
    pub(crate) fn pid_here(&self) -> Option<u32> {
        let here = namespaces().is_some_and(|(pid_ns, _)| pid_ns == self.pid_ns);
        Some(self.pid).filter(|&pid| pid != 0 && here)
    }

    /// Is it certain that the process has ended?
    pub(crate) fn has_ended(&self) -> bool {
        let Some(pid) = i32::try_from(self.pid).ok().filter(|&pid| pid > 0) else { return false };
        if namespaces() != Some((self.pid_ns, self.time_ns)) {
            return false;
        }
        match PidFd::open(pid) {
            Ok(process) if process.has_ended() => return true,
            Ok(_) => {}
            Err(error) => return error.raw_os_error() == Some(libc::ESRCH),
        }
        // Somebody has that id now; with another start time it is somebody else.
        proc_is_of_this_namespace() && start_time(&pid.to_string()).is_some_and(|started| started != self.started)
    }
}

/// Is it certain that no process has that id? As far as this process can tell, which another pid namespace is hidden from.
pub(crate) fn is_gone(pid: u32) -> bool {
    match i32::try_from(pid).map(PidFd::open) {
        Ok(Ok(process)) => process.has_ended(),
        Ok(Err(error)) => error.raw_os_error() == Some(libc::ESRCH),
        Err(_) => true,
    }
}

/// The pid and the time namespace of this process, by their inode numbers; a kernel without time namespaces has 0.
fn namespaces() -> Option<(u64, u64)> {
    let pid = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    let time = fs::metadata("/proc/self/ns/time").map_or(0, |time| time.ino());
    Some((pid, time))
}

/// Does `/proc` count processes as this one does? One that was mounted outside lists several ids for it.
fn proc_is_of_this_namespace() -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.is_some_and(|ids| ids.split_ascii_whitespace().count() == 1)
}

fn start_time(pid: &str) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything. The start time is the 22nd.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_has_ended_only_where_that_is_certain() {
        let own = Stamp::of_this_process();
        assert_eq!((own.pid, own.pid_here()), (std::process::id(), Some(std::process::id())));
        assert_eq!(Stamp { pid_ns: own.pid_ns + 1, ..own }.pid_here(), None);
        assert!(!own.has_ended());

        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let started = start_time(&child.id().to_string()).unwrap();
        let stamp = Stamp { pid: child.id(), started, ..own };
        assert!(!stamp.has_ended());
        assert!(Stamp { started: started - 1, ..stamp }.has_ended(), "the id is somebody else's by now");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(stamp.has_ended());
        for unknown in [
            Stamp::default(),
            Stamp { pid: u32::MAX, ..stamp },
            Stamp { pid_ns: own.pid_ns + 1, ..stamp },
            Stamp { time_ns: own.time_ns + 1, ..stamp },
        ] {
            assert!(!unknown.has_ended(), "{unknown:?}");
        }
    }

    #[test]
    fn a_process_that_nobody_has_reaped_has_ended() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let stamp = Stamp {
            pid: child.id(),
            started: start_time(&child.id().to_string()).unwrap(),
            ..Stamp::of_this_process()
        };
        let pidfd = PidFd::open(child.id().cast_signed()).unwrap();
        child.kill().unwrap();
        while !pidfd.has_ended() {
            std::thread::yield_now();
        }
        assert!(stamp.has_ended());
        child.wait().unwrap();
    }
}
