//! Making a block, with and without filling it.

use std::hint::black_box;

use criterion::Criterion;
use ndarray::Array1;
use ndshm::Reserve;

use crate::common::{measure, timed, total};
use crate::plain::{Anonymous, Memfd, Reserved};
use crate::{Array, Block, Group, Result, VALUE, small_pages, unique_name};

pub(crate) fn create(criterion: &mut Criterion, block: Block) -> Result<()> {
    let mut group = block.group(criterion, "create");
    making(&mut group, "memfd", || Memfd::create(block.bytes, Reserved::Nothing))?;
    making(&mut group, "memfd, fallocate", || Memfd::create(block.bytes, Reserved::All))?;
    making(&mut group, "anonymous mapping", || Anonymous::map(block.bytes))?;
    making(&mut group, "Vec", || Ok(vec![0_u64; block.len()]))?;
    making(&mut group, "array", || Ok(Array::zeros(block.len())?))?;
    making(&mut group, "array, named", || Ok(Array::options().name(unique_name()).zeros(block.len())?))?;
    making(&mut group, "array, reserved lazily", || Ok(lazily(block)?))?;
    making(&mut group, "array, small pages", || Ok(small_pages().zeros(block.len())?))?;
    group.finish();
    Ok(())
}

pub(crate) fn create_and_fill(criterion: &mut Criterion, block: Block) -> Result<()> {
    let mut group = block.group(criterion, "create and fill");
    making(&mut group, "memfd", || {
        let mut memory = Memfd::create(block.bytes, Reserved::Nothing)?;
        memory.elements_mut().fill(VALUE);
        Ok(memory)
    })?;
    making(&mut group, "memfd, fallocate", || {
        let mut memory = Memfd::create(block.bytes, Reserved::All)?;
        memory.elements_mut().fill(VALUE);
        Ok(memory)
    })?;
    making(&mut group, "anonymous mapping", || {
        let mut memory = Anonymous::map(block.bytes)?;
        memory.elements_mut().fill(VALUE);
        Ok(memory)
    })?;
    making(&mut group, "anonymous mapping, huge pages", || {
        let mut memory = Anonymous::map_huge(block.bytes)?;
        memory.elements_mut().fill(VALUE);
        Ok(memory)
    })?;
    making(&mut group, "Vec", || Ok(vec![VALUE; block.len()]))?;
    making(&mut group, "array", || Ok(Array::from_elem(block.len(), VALUE)?))?;
    making(&mut group, "array, reserved lazily", || {
        let mut array = lazily(block)?;
        array.write()?.fill(VALUE);
        Ok(array)
    })?;
    making(&mut group, "array, small pages", || Ok(small_pages().from_elem(block.len(), VALUE)?))?;
    group.finish();
    Ok(())
}

/// A copy of elements that lie in memory which is not shared.
pub(crate) fn create_from(criterion: &mut Criterion, block: Block) -> Result<()> {
    let mut group = block.group(criterion, "create from a slice of");
    let source = || Ok(Array1::from_elem(block.len(), VALUE));
    making_from(&mut group, "memfd", source, |source| {
        let mut memory = Memfd::create(block.bytes, Reserved::Nothing)?;
        memory.elements_mut().copy_from_slice(source.as_slice().unwrap_or_default());
        Ok(memory)
    })?;
    making_from(&mut group, "Vec", source, |source| Ok(source.to_vec()))?;
    making_from(&mut group, "array", source, |source| Ok(Array::from_array(source)?))?;
    making_from(&mut group, "array, small pages", source, |source| Ok(small_pages().from_array(source)?))?;
    group.finish();
    Ok(())
}

fn making<B>(group: &mut Group<'_>, name: &str, make: impl Fn() -> Result<B>) -> Result<()> {
    making_from(group, name, || Ok(()), |()| make())
}

/// How long `make` takes; what it makes is dropped after the clock has stopped.
fn making_from<S, B>(
    group: &mut Group<'_>,
    name: &str,
    source: impl FnOnce() -> Result<S>,
    make: impl Fn(&S) -> Result<B>,
) -> Result<()> {
    measure(group, name, source, |bencher, source| {
        bencher.iter_custom(|iters| {
            total(iters, || {
                let (time, block) = timed(|| make(source));
                black_box(block.expect("there is room for it"));
                time
            })
        });
    })
}

fn lazily(block: Block) -> ndshm::Result<Array> {
    Array::options().reserve(Reserve::Lazily).zeros(block.len())
}
