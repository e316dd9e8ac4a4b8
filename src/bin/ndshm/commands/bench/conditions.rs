//! What spoils the numbers of a benchmark, as far as it can be seen.

use std::fs;
use std::thread;
use std::time::Duration;

use ndshm::{HugePages, SharedMemory};
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;

/// Something that makes measurements other than they would be on a quiet machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) topic: &'static str,
    pub(super) found: String,
    pub(super) advice: &'static str,
}

/// How long the machine is watched before anything is measured.
const WATCH: Duration = Duration::from_millis(300);
/// A load above that is somebody else's.
const IDLE: f64 = 0.5;
/// Above that share of time taken by other virtual machines it shows.
const STOLEN: f64 = 0.01;

/// What is found before anything is measured.
pub(super) fn before() -> Vec<Condition> {
    let steal = Steal::now();
    let found = [build(), huge_pages(), load(), governor(), battery(), pinned(), quota()];
    thread::sleep(WATCH);
    found.into_iter().chain([steal.since()]).flatten().collect()
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_owned())
}

fn build() -> Option<Condition> {
    cfg!(debug_assertions).then(|| Condition {
        topic: "build",
        found: "this tool was built without optimisation".to_owned(),
        advice: "build it with --release",
    })
}

/// By trying: settings alone do not tell.
fn huge_pages() -> Option<Condition> {
    let error = SharedMemory::options().huge_pages(HugePages::Require).anonymous(4 << 20).err()?;
    Some(Condition {
        topic: "huge pages",
        found: format!("there are none to be had ({error})"),
        advice: "new arrays are several times as fast with them; see 'ndshm doctor'",
    })
}

fn load() -> Option<Condition> {
    let load = first_number(&read("/proc/loadavg")?)?;
    (load > IDLE).then(|| Condition {
        topic: "other work",
        found: format!("the load was {load:.2} in the last minute"),
        advice: "measure while the machine is idle",
    })
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

fn governor() -> Option<Condition> {
    let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")?;
    let driver = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver").unwrap_or_default();
    // These two choose the frequency themselves whatever the governor is called.
    let by_hardware = driver.starts_with("intel_pstate") || driver.starts_with("amd-pstate-epp");
    (matches!(&*governor, "powersave" | "conservative") && !by_hardware).then(|| Condition {
        topic: "power saving",
        found: format!("the CPUs' frequency governor is {governor:?}"),
        advice: "cpupower frequency-set -g performance",
    })
}

fn battery() -> Option<Condition> {
    let mains: Vec<_> = fs::read_dir("/sys/class/power_supply")
        .ok()?
        .filter_map(|supply| fs::read_to_string(supply.ok()?.path().join("online")).ok())
        .collect();
    let off = !mains.is_empty() && mains.iter().all(|online| online.trim() == "0");
    off.then(|| Condition {
        topic: "power saving",
        found: "the machine runs on its battery".to_owned(),
        advice: "measure with the mains plugged in",
    })
}

/// CPUs that this process may run on.
fn allowed() -> Option<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    Some((0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).count())
}

fn pinned() -> Option<Condition> {
    let (allowed, all) = (allowed()?, cpus_in(&read("/sys/devices/system/cpu/online")?)?);
    let one = "a worker and who calls it take turns on one CPU; measure with two or more";
    (allowed < all || all == 1).then(|| Condition {
        topic: "CPUs",
        found: format!("this process may use {allowed} of {all}"),
        advice: if allowed == 1 { one } else { "run it without taskset for the whole machine's numbers" },
    })
}

/// How many CPUs a list such as `0-3,8` names.
fn cpus_in(list: &str) -> Option<usize> {
    list.split(',').try_fold(0, |count, range| {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        Some(count + (to + 1).checked_sub(from)?)
    })
}

/// The control group's share of CPU time, which makes the kernel stop a process that has used it up.
fn quota() -> Option<Condition> {
    let (usable, allowed) = (thread::available_parallelism().ok()?.get(), allowed()?);
    (usable < allowed).then(|| Condition {
        topic: "CPU quota",
        found: format!("the control group may use {usable} of {allowed} CPUs' time"),
        advice: "pauses come in between; measure without the limit",
    })
}

/// The time that other virtual machines have taken from this one, to look back to.
pub(super) struct Steal(Option<Ticks>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Ticks {
    stolen: u64,
    all: u64,
}

impl Steal {
    pub(super) fn now() -> Self {
        Self(read("/proc/stat").and_then(|stat| ticks(&stat)))
    }

    pub(super) fn since(self) -> Option<Condition> {
        let (before, now) = (self.0?, Self::now().0?);
        let share = now.stolen.saturating_sub(before.stolen) as f64 / now.all.saturating_sub(before.all).max(1) as f64;
        (share > STOLEN).then(|| Condition {
            topic: "virtual machine",
            found: format!("{:.0} % of the CPUs' time went to other machines on the same host", share * 100.0),
            advice: "measure again, or at another time",
        })
    }
}

/// From the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, and what is in them already.
fn ticks(stat: &str) -> Option<Ticks> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let numbers: Vec<u64> = numbers.map_while(|number| number.parse().ok()).collect();
    Some(Ticks { stolen: *numbers.get(7)?, all: numbers.iter().take(8).sum() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(["0", "0-1", "0-3,8,10-11"].map(cpus_in), [Some(1), Some(2), Some(7)]);
        assert_eq!(["", "3-1", "x"].map(cpus_in), [None; 3]);
    }

    #[test]
    fn stolen_time_is_the_eighth_number() {
        let stat = "cpu  10 0 20 900 5 0 1 64 7 0\ncpu0 1 2 3\n";
        assert_eq!(ticks(stat), Some(Ticks { stolen: 64, all: 1000 }));
        assert_eq!(ticks("cpu 1 2 3"), None);
        assert_eq!(ticks("intr 5"), None);
    }

    #[test]
    fn the_load_is_the_first_number() {
        assert_eq!(first_number("1.94 1.98 2.52 2/123 4711"), Some(1.94));
        assert_eq!(first_number(""), None);
    }
}
