//! What the tool does: one file a command.

mod bench;
mod doctor;
mod inspect;
mod load;
mod ls;
mod prune;
mod rm;
mod save;
mod serve;

use std::io::{self, BufWriter, StdoutLock, Write};

use anyhow::Result;

use crate::Outcome;
use crate::cli::{Cli, Command};
use crate::terminal::Terminal;
use crate::text;

/// Where commands write what was asked for. A write that fails is an `io::Error`, so that a closed pipe is known as one.
pub(crate) type Out = BufWriter<StdoutLock<'static>>;

pub(crate) fn run(cli: Cli, terminal: Terminal) -> Result<Outcome> {
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = match cli.command {
        Command::Ls(options) => ls::run(&options, terminal, &mut out),
        Command::Inspect(options) => inspect::run(&options, terminal, &mut out),
        Command::Load(options) => load::run(&options, terminal, &mut out),
        Command::Save(options) => save::run(&options, terminal, &mut out),
        Command::Rm(options) => rm::run(options),
        Command::Prune(options) => prune::run(&options, &mut out),
        Command::Serve(options) => match &options.stop {
            Some(address) => serve::stop(address, &mut out),
            None => serve::run(&options, &mut out),
        },
        Command::Doctor(options) => doctor::run(&options, terminal, &mut out),
        Command::Bench(options) => bench::run(&options, terminal, &mut out),
        Command::Completions(options) => Ok(out.write_all(&options.script()).map(|()| Outcome::Done)?),
    }?;
    out.flush()?;
    Ok(outcome)
}

/// For scripts: indented, with a line end.
pub(crate) fn write_json(out: &mut Out, value: &serde_json::Value) -> Result<()> {
    writeln!(out, "{}", text::printable_json(&format!("{value:#}")))?;
    Ok(())
}
