//! How much memory do workers take that read one array, all of it?
//!
//! For 1, 2 and 4 workers: the sum of what `Pss` in `/proc/<pid>/smaps_rollup` says of this process and its workers, less
//! what it was before there was an array, held against the array and 8 MiB a worker. Page tables are no part of that sum and
//! stand beside it; the budget leaves them out too. It fails where the budget is exceeded.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `NDSHM_BENCH_MEMORY_MIB` | size of the array | 256 |

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::process::{self, ExitCode};

use ndarray::Ix1;
use ndshm::{ArrayOptions, Each, HugePages, Pool, SharedArray};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const WORKERS: [usize; 3] = [1, 2, 4];
const KIB_A_WORKER: u64 = 8 << 10;

fn main() -> Result<ExitCode> {
    ndshm::init();
    let quick = std::env::args().any(|argument| argument == "--test");
    let mib = match std::env::var("NDSHM_BENCH_MEMORY_MIB") {
        Ok(mib) => mib.parse()?,
        Err(_) if quick => 16,
        Err(_) => 256,
    };
    let mut within = true;
    println!("array of {mib} MiB      workers       PSS      budget        page tables");
    for (pages, huge_pages) in [("huge pages", HugePages::Try), ("small pages", HugePages::Never)] {
        for workers in WORKERS {
            let options = SharedArray::options().huge_pages(huge_pages);
            let Footprint { pss, tables } = reading(workers, options, mib << 20)?;
            let budget = ((mib as u64) << 10) + KIB_A_WORKER * workers as u64;
            let verdict = if pss <= budget { "within" } else { "over" };
            within &= pss <= budget;
            println!(
                "{pages:<18} {workers:>9} {:>9} {:>11} {verdict:>6} {:>11}",
                mib_of(pss),
                mib_of(budget),
                mib_of(tables)
            );
        }
    }
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Of several processes together, in KiB.
struct Footprint {
    pss: u64,
    tables: u64,
}

/// What an array of so many bytes makes a pool and its parent grow by, when every worker has read all of it.
fn reading(workers: usize, options: ArrayOptions<u64, Ix1>, bytes: usize) -> Result<Footprint> {
    ndshm::spare::set_limit(0);
    let pool = Pool::builder().workers(workers).build()?;
    let processes: Vec<u32> = [process::id()].into_iter().chain(pool.worker_pids()).collect();
    let before = footprint(&processes)?;
    let len = bytes / size_of::<u64>();
    let array = options.from_elem(len, 1)?;
    let mut readers = BTreeSet::new();
    // Who is quick may take what was meant for another.
    while readers.len() < workers {
        let read = pool.map((&array, Each(&vec![(); workers])), |(array, ()), _| (process::id(), array.sum()))?;
        if read.iter().any(|&(_, sum)| sum != len as u64) {
            return Err("a worker has read something else".into());
        }
        readers.extend(read.into_iter().map(|(pid, _)| pid));
    }
    let after = footprint(&processes)?;
    Ok(Footprint { pss: after.pss.saturating_sub(before.pss), tables: after.tables.saturating_sub(before.tables) })
}

fn footprint(processes: &[u32]) -> Result<Footprint> {
    let mut sum = Footprint { pss: 0, tables: 0 };
    for pid in processes {
        sum.pss += kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")?;
        sum.tables += kib(&format!("/proc/{pid}/status"), "VmPTE:")?;
    }
    Ok(sum)
}

/// The number of a line such as `Pss:    123 kB`.
fn kib(file: &str, key: &str) -> Result<u64> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)).ok_or_else(|| format!("no {key} in {file}"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}

fn mib_of(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}
