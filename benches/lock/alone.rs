//! Nobody else wants the lock.

use std::sync::RwLock;

use criterion::{Criterion, Throughput};

use crate::Access;
use crate::common::{Group, Result, group, measure};
use crate::locks::{Array, Description, Lock, WholeFile};
use crate::mutex::{Counter, Mutex};

pub(crate) fn alone(criterion: &mut Criterion, access: Access) -> Result<()> {
    let mut group = group(criterion, &format!("{} lock", access.name()), Throughput::Elements(1));
    let lock = RwLock::new(0);
    one(&mut group, "std RwLock", access, || Ok(&lock))?;
    one(&mut group, "pthread mutex", access, || Mutex::new(Counter::create()?))?;
    one(&mut group, "flock", access, || WholeFile::of(Counter::create()?))?;
    one(&mut group, "kernel's lock", access, || Ok(Description(Counter::create()?)))?;
    one(&mut group, "array", access, || Ok(Array::zeros(1)?))?;
    one(&mut group, "array that others can reach", access, || {
        let mut array = Array::zeros(1)?;
        array.share_fd()?;
        Ok(array)
    })?;
    group.finish();
    Ok(())
}

fn one<L: Lock>(group: &mut Group<'_>, name: &str, access: Access, make: impl FnOnce() -> Result<L>) -> Result<()> {
    measure(group, name, make, |bencher, lock| {
        bencher.iter(|| lock.once(access).expect("nobody else has it"));
    })
}
