//! How many workers there are, how many threads each may have, and which CPUs.

use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sys::affinity;

/// What thread pools ask for their size.
const THREAD_VARIABLES: [&str; 7] = [
    "RAYON_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
];

/// In a worker: how many threads its pool leaves to it. 0 in every other process.
static SHARE: AtomicUsize = AtomicUsize::new(0);

/// In a worker: takes its place among the others. Where the system refuses the CPUs, it goes on without.
pub(super) fn settle(threads: usize, place: &[usize]) {
    // Relaxed: a number for later, which guards nothing.
    SHARE.store(threads, Ordering::Relaxed);
    if !place.is_empty() {
        affinity::restrict(place);
    }
}

/// The CPUs that this process may use.
pub(super) fn cpus() -> usize {
    // Affinity and the control group's quota are in this one.
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let slurm = number(std::env::var_os("SLURM_CPUS_PER_TASK").as_deref());
    let share = Some(SHARE.load(Ordering::Relaxed)).filter(|&share| share > 0);
    [slurm, share].into_iter().flatten().fold(available, usize::min)
}

/// A number of CPUs or threads, of at least one. Of a list, as OpenMP has it for nested levels, the first.
fn number(value: Option<&OsStr>) -> Option<usize> {
    let first = value?.to_str()?.split(',').next()?;
    first.trim().parse().ok().filter(|&number| number > 0)
}

/// The variables that keep a worker's thread pools to so many threads. Those that are lower already stay, unless the
/// number was asked for.
pub(super) fn thread_caps(
    threads: usize,
    asked: bool,
    inherited: impl Fn(&str) -> Option<OsString>,
) -> Vec<(OsString, Option<OsString>)> {
    let is_lower = |name: &&str| number(inherited(name).as_deref()).is_some_and(|number| number <= threads);
    let capped = THREAD_VARIABLES.iter().filter(|name| asked || !is_lower(name));
    capped.map(|name| (name.into(), Some(threads.to_string().into()))).collect()
}

/// Shares CPUs out among workers.
pub(super) fn places(cpus: &[usize], workers: usize) -> Vec<Vec<usize>> {
    let count = cpus.len();
    (0..workers)
        .map(|index| {
            if count >= workers {
                cpus[index * count / workers..(index + 1) * count / workers].to_vec()
            } else {
                cpus.get(index % count.max(1)).copied().into_iter().collect()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_shared_out_in_order_and_evenly() {
        assert_eq!(places(&[0, 1, 2, 5, 6], 2), [vec![0, 1], vec![2, 5, 6]]);
        assert_eq!(places(&[4, 7], 2), [[4], [7]]);
        assert_eq!(places(&[4, 7], 5), [[4], [7], [4], [7], [4]]);
        assert_eq!(places(&[], 2), [vec![], vec![]]);
    }

    #[test]
    fn thread_pools_are_capped_unless_they_are_lower_already() {
        let inherited = |name: &str| match name {
            "RAYON_NUM_THREADS" => Some("2".into()),
            "OMP_NUM_THREADS" => Some("3,2".into()),
            "MKL_NUM_THREADS" => Some("16".into()),
            "OPENBLAS_NUM_THREADS" => Some("0".into()),
            "BLIS_NUM_THREADS" => Some("many".into()),
            _ => None,
        };
        let names = |caps: Vec<(OsString, Option<OsString>)>| {
            assert!(caps.iter().all(|(_, value)| value.as_deref() == Some(OsStr::new("4"))));
            caps.into_iter().map(|(name, _)| name.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(thread_caps(4, false, inherited)), THREAD_VARIABLES[2..]);
        assert_eq!(names(thread_caps(4, true, inherited)), THREAD_VARIABLES);
    }

    #[test]
    fn only_whole_numbers_of_at_least_one_count() {
        for (value, expected) in
            [("4", Some(4)), (" 7 ", Some(7)), ("2,4", Some(2)), ("0", None), ("-1", None), ("", None)]
        {
            assert_eq!(number(Some(OsStr::new(value))), expected, "{value:?}");
        }
        assert_eq!(number(None), None);
    }
}
