//! What does a process boundary cost a pool, held against the least that the machine allows?
//!
//! Each group asks one question and has its limits beside it, so that the ratio can be read off; `benches/ratios.py` prints
//! all of them. Everything is warm: processes have run before and pages are in the page tables.
//!
//! | file | question | limit |
//! |---|---|---|
//! | `call.rs` | an empty call, and with it an array of any size | one word passed between two processes |
//! | `chunks.rs` | many small chunks | rayon over the same chunks |
//! | `start.rs` | starting a worker | `posix_spawn` of `true` |
//! | `../turns` | an empty call and a kernel in place, in turns with their limits | a ping-pong; rayon on a `Vec` |
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `NDSHM_BENCH_HEAP_GIB` | what the parent has touched that starts workers from a large heap | 1 |

mod call;
mod chunks;
#[path = "../common/mod.rs"]
mod common;
#[path = "../peer/mod.rs"]
mod peer;
mod place;
mod rival;
mod start;
#[path = "../turns/mod.rs"]
mod turns;

use std::time::Duration;

use criterion::Criterion;

use common::{Group, Result, group, measure, pool, threads, variable};

fn main() -> Result<()> {
    // Before anything else: workers are measured from their start, and criterion looks for a plotter in its own.
    ndshm::init();
    let criterion = Criterion::default()
        // Many short samples: other work on the machine spares some of them, and `ratios.py` looks at the fastest, too.
        .sample_size(100)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    common::run(criterion, rival::answer, |criterion| {
        call::calls(criterion)?;
        chunks::in_place(criterion)?;
        chunks::in_place_alone(criterion)?;
        chunks::with_results(criterion)?;
        start::start(criterion)?;
        turns::measure()
    })
}
