//! Filling and copying into a block whose pages are mapped: what is left when nothing faults.

use criterion::Criterion;
use ndarray::Array1;

use crate::best::{COPIES, FILLS};
use crate::common::measure;
use crate::plain::Anonymous;
use crate::{Array, Block, Result, VALUE, small_pages};

pub(crate) fn fill(criterion: &mut Criterion, block: Block) -> Result<()> {
    let mut group = block.group(criterion, "fill again");
    for (name, fill) in FILLS {
        measure(
            &mut group,
            name,
            || filled(block),
            |bencher, memory| {
                bencher.iter(|| fill(memory.elements_mut(), VALUE));
            },
        )?;
    }
    for (name, small) in [("array", false), ("array, small pages", true)] {
        measure(
            &mut group,
            name,
            || array(block, small),
            |bencher, array| {
                bencher.iter(|| array.write().expect("nobody else has it").fill(VALUE));
            },
        )?;
    }
    group.finish();
    Ok(())
}

pub(crate) fn copy(criterion: &mut Criterion, block: Block) -> Result<()> {
    let mut group = block.group(criterion, "copy again");
    let source = || Array1::from_elem(block.len(), VALUE);
    for (name, copy) in COPIES {
        measure(
            &mut group,
            name,
            || Ok((filled(block)?, source())),
            |bencher, (memory, source)| {
                bencher.iter(|| copy(memory.elements_mut(), source.as_slice().unwrap_or_default()));
            },
        )?;
    }
    for (name, small) in [("array", false), ("array, small pages", true)] {
        measure(
            &mut group,
            name,
            || Ok((array(block, small)?, source())),
            |bencher, (array, source)| {
                bencher.iter(|| array.write().expect("nobody else has it").assign(source));
            },
        )?;
    }
    group.finish();
    Ok(())
}

/// Memory that is not shared, in which every page is mapped.
fn filled(block: Block) -> Result<Anonymous> {
    let mut memory = Anonymous::map(block.bytes)?;
    memory.elements_mut().fill(VALUE);
    Ok(memory)
}

fn array(block: Block, small: bool) -> Result<Array> {
    let options = if small { small_pages() } else { Array::options() };
    Ok(options.from_elem(block.len(), VALUE)?)
}
