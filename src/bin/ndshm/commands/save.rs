//! `ndshm save`: a block becomes a file.

use std::io::Write;

use anyhow::{Result, bail};
use ndshm::BlockState;

use super::Out;
use crate::Outcome;
use crate::cli::Save;
use crate::options::Place;
use crate::terminal::Terminal;
use crate::text::{self, Bytes};

pub(crate) fn run(save: &Save, terminal: Terminal, out: &mut Out) -> Result<Outcome> {
    let place = Place::parse(&save.block);
    let source = place.open()?;
    let info = source.array()?;
    let _locked = super::read_lock(&source, save.timeout)?;
    match source.info()?.state() {
        BlockState::Poisoned { pid } if !save.force => bail!(
            "a write to {} by process {pid} did not finish, so it may be half written; --force saves it as it is",
            place.shown()
        ),
        _ => {}
    }
    let bar = terminal.bar("saving", info.nbytes() as u64);
    let saved = source.save_npy(&save.file, |done, _| bar.set_position(done));
    bar.finish_and_clear();
    saved?;
    let (dtype, shape, size) = (info.dtype(), text::shape(info.shape()), Bytes(info.nbytes() as u64));
    writeln!(out, "{}: {dtype} {shape}, {size}", text::name(save.file.as_os_str()))?;
    Ok(Outcome::Done)
}
