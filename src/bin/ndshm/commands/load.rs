//! `ndshm load`: a file becomes a block that stays.

use std::io::Write;

use anyhow::{Context, Result, anyhow};
use ndshm::{BlockFile, ErrorKind, SharedMemory};

use super::Out;
use crate::Outcome;
use crate::cli::Load;
use crate::options;
use crate::terminal::Terminal;
use crate::text::{self, Bytes, escaped};

pub(crate) fn run(load: &Load, terminal: Terminal, out: &mut Out) -> Result<Outcome> {
    let name = match &load.name {
        Some(name) => name.clone(),
        None => options::name_from(&load.file).map_err(anyhow::Error::msg)?,
    };
    let source = BlockFile::open(&load.file)?;
    let info = source.array()?;
    let _locked = match super::read_lock(&source, load.timeout) {
        Ok(locked) => Some(locked),
        // A network file system: nobody can have it locked there.
        Err(error) if error.kind() == ErrorKind::Unsupported => None,
        Err(error) => return Err(error).context("the file is in use"),
    };
    let mut options = SharedMemory::options();
    if let Some(mode) = load.mode {
        options = options.mode(mode);
    }
    let bar = terminal.bar("loading", info.nbytes() as u64);
    let loaded = source.load_named(&name, &options, |done, _| bar.set_position(done));
    bar.finish_and_clear();
    let mut block = loaded.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            anyhow!("there is a block named {name:?} already; choose another --name, or remove it with 'ndshm rm'")
        }
        _ => error.into(),
    })?;
    // For programs that come later: from here on nobody removes it but by its name.
    block.keep();
    let (dtype, shape, size) = (info.dtype(), text::shape(info.shape()), Bytes(info.nbytes() as u64));
    writeln!(out, "{}: {dtype} {shape}, {size}", escaped(&name))?;
    Ok(Outcome::Done)
}
