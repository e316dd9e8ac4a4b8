//! What does it take to lock an array, look at one element and unlock it?
//!
//! With nobody else about, and with 2 and 4 who want the same lock all the time. The limit of an array that others can
//! reach is the kernel's lock on its file, taken by hand. Beside it stand what else excludes processes, and
//! `std::sync::RwLock`, which only excludes threads: its contenders are threads.
//!
//! | file | question |
//! |---|---|
//! | `alone.rs` | nobody else wants the lock |
//! | `contended.rs` | several do, all the time |

mod alone;
#[path = "../common/mod.rs"]
mod common;
mod contended;
mod locks;
mod mutex;
#[path = "../peer/mod.rs"]
mod peer;

use std::time::Duration;

use criterion::Criterion;

use common::Result;

fn main() -> Result<()> {
    let criterion = Criterion::default()
        .sample_size(20)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    common::run(criterion, contended::answer, |criterion| {
        for access in [Access::Read, Access::Write] {
            alone::alone(criterion, access)?;
        }
        for contenders in [2, 4] {
            for access in [Access::Read, Access::Write] {
                contended::contended(criterion, access, contenders)?;
            }
        }
        Ok(())
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    /// Adds one to the element.
    Write,
}

impl Access {
    fn name(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
        }
    }
}
