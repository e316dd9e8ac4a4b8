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
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use ndshm::{BlockFile, BlockLock, BlockState, ErrorKind};

use crate::Outcome;
use crate::cli::{Cli, Command};
use crate::terminal::Terminal;
use crate::{complain, text};

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

/// Who waits for longer is told what for.
const SILENCE: Duration = Duration::from_millis(500);

/// Locks a block for reading, and says on stderr what it waits for where that takes a while.
fn read_lock(file: &BlockFile, timeout: Duration) -> ndshm::Result<BlockLock<'_>> {
    if timeout <= SILENCE {
        return file.read_lock(timeout);
    }
    match file.read_lock(Duration::ZERO) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        other => return other,
    }
    let (done, waiting) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(SILENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let writer = match file.info().map(|info| info.state()) {
                    Ok(BlockState::Written { pid: Some(pid) }) => format!("process {pid}"),
                    _ => "another process".to_owned(),
                };
                let path = file.path().display();
                complain(format_args!("waiting for {writer}, which is writing {path}, for at most {timeout:?}"));
            }
        });
        let locked = file.read_lock(timeout);
        drop(done);
        locked
    })
}

/// For scripts: indented, with a line end.
pub(crate) fn write_json(out: &mut Out, value: &serde_json::Value) -> Result<()> {
    writeln!(out, "{}", text::printable_json(&format!("{value:#}")))?;
    Ok(())
}
