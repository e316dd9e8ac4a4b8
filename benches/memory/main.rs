//! What does shared memory cost: to make, to fill, to map and touch in a second process?
//!
//! Each group asks one question and has its limits beside it: the same of a plain memfd, of memory that is not shared, or of
//! pages that are mapped already. Everything that is made is dropped while the clock stands still.
//!
//! | file | question | limit |
//! |---|---|---|
//! | `create.rs` | making a block, with and without filling it | a memfd that reserves nothing, an anonymous mapping, `Vec` |
//! | `again.rs` | filling and copying into a block that is mapped | the best that this processor has for it |
//! | `second.rs` | attaching, and the first pass over the block, in a second process | a pass over mapped pages |
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `NDSHM_BENCH_MEMORY_MIB` | size of the blocks | 256 |

mod again;
mod best;
#[path = "../common/mod.rs"]
mod common;
mod create;
#[path = "../peer/mod.rs"]
mod peer;
mod plain;
mod second;

use std::time::Duration;

use criterion::{Criterion, Throughput};
use ndarray::Ix1;
use ndshm::{ArrayOptions, HugePages, SharedArray};

use common::{Group, Result, size_name, variable};

fn main() -> Result<()> {
    let criterion = Criterion::default()
        // A run takes a tenth of a second: that many, and no more.
        .sample_size(12)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    common::run(criterion, second::answer, |criterion| {
        // What is dropped is not to serve what is made next: that would be filling again.
        ndshm::spare::set_limit(0);
        let block = Block { bytes: variable("NDSHM_BENCH_MEMORY_MIB", 256_usize)? << 20 };
        create::create(criterion, block)?;
        create::create_and_fill(criterion, block)?;
        create::create_from(criterion, block)?;
        again::fill(criterion, block)?;
        again::copy(criterion, block)?;
        second::attach(criterion, block)?;
        second::first_pass(criterion, block, second::Pass::Read)?;
        second::first_pass(criterion, block, second::Pass::Write)
    })
}

type Array = SharedArray<u64, Ix1>;

/// All bytes alike, so that whatever fills byte by byte can do it too.
const VALUE: u64 = 0x0101_0101_0101_0101;

/// What is made and filled.
#[derive(Clone, Copy)]
struct Block {
    bytes: usize,
}

impl Block {
    /// Elements.
    fn len(self) -> usize {
        self.bytes / size_of::<u64>()
    }

    fn group<'c>(self, criterion: &'c mut Criterion, what: &str) -> Group<'c> {
        let name = format!("{what} {}", size_name(self.bytes));
        common::group(criterion, &name, Throughput::Bytes(self.bytes as u64))
    }
}

/// By default a block of this size has huge pages.
fn small_pages() -> ArrayOptions<u64, Ix1> {
    Array::options().huge_pages(HugePages::Never)
}

/// A name that no other benchmark has at the same time.
fn unique_name() -> String {
    format!("bench-{}", std::process::id())
}
