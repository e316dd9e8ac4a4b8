//! What is held against its limit so closely that both have to be measured at once.
//!
//! The two processors of a virtual machine may be close to each other in one second and far apart in the next, and a
//! ping-pong takes five times as long then; its memory may be twice as fast in one second as in the next. What is measured
//! one after the other, as the other benchmarks do it, is not measured on the same machine then. Here all take turns, and what
//! is printed is the median over all rounds of the ratio within one.
//!
//! Whose turn it is not is stopped, or asleep: each needs the processors for itself.
//!
//! | file | question | limit |
//! |---|---|---|
//! | `call.rs` | an empty call, and one that is lent an array, where both sides spin | a ping-pong |
//! | `kernel.rs` | a kernel in place, with one worker and more | rayon on a `Vec` |
//!
//! An argument that is no option is a part of the names of those groups that are to be measured.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `NDSHM_BENCH_ROUNDS` | how often each has its turn | 300 for calls, some for kernels |
//! | `NDSHM_BENCH_KERNEL_MIB` | size of the kernels' array | 512 |
//! | `NDSHM_BENCH_WORKERS` | numbers of workers for the kernels, such as `1,2,4,8,16` | 1, 2, 4 … up to the number of processors |

mod call;
mod kernel;
mod subject;

use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

use crate::common::Result;
use subject::{Measured, quantile};

/// Measures the groups that were asked for.
pub(crate) fn measure() -> Result<()> {
    // As criterion takes them.
    let (options, filters): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let is_test = options.iter().any(|option| option == "--test");
    let is_asked_for = |name: &str| filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str()));
    for group in call::calls()?.into_iter().chain(kernel::kernels(is_test)?) {
        if is_asked_for(group.name()) {
            let measured = group.measure(is_test)?;
            if !is_test {
                keep(&measured)?;
            }
        }
    }
    Ok(())
}

/// Keeps what was measured where `results.py` looks for it.
fn keep(group: &Measured) -> Result<()> {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    let mut entries = String::new();
    for (name, times) in &group.times {
        let [median, fastest] = [5, 0].map(|tenths| quantile(times, tenths));
        let comma = if entries.is_empty() { "" } else { ",\n  " };
        write!(entries, "{comma}{name:?}: [{at}, {median:e}, {fastest:e}]")?;
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target").into());
    let folder = Path::new(&target).join("bench-turns");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(
        folder.join(&group.name).with_extension("json"),
        format!("{{\n {:?}: {{\n  {entries}\n }}\n}}\n", group.name),
    )?;
    Ok(())
}
