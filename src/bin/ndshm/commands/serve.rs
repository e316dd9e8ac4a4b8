//! `ndshm serve`: a manager that stays.

use std::io::{ErrorKind, Write};

use anyhow::Result;
use ndshm::SharedMemoryManager;

use super::Out;
use crate::cli::Serve;
use crate::text::plural;
use crate::{Outcome, complain};

pub(crate) fn run(serve: &Serve, out: &mut Out) -> Result<Outcome> {
    let mut builder = SharedMemoryManager::builder();
    if let Some(name) = &serve.name {
        builder = builder.name(name);
    }
    if serve.detach {
        let manager = builder.start_detached()?;
        return match writeln!(out, "{}", manager.address()).and_then(|()| out.flush()) {
            Ok(()) => Ok(Outcome::Done),
            // Who gave the name may not care to read it.
            Err(error) if error.kind() == ErrorKind::BrokenPipe && serve.name.is_some() => Ok(Outcome::Done),
            Err(error) => {
                // Nobody knows of it.
                manager.shutdown()?;
                Err(error.into())
            }
        };
    }
    let server = builder.bind()?;
    writeln!(out, "{}", server.address())?;
    // Whoever started it waits for the address.
    out.flush()?;
    let ended = server.run()?;
    for problem in ended.problems() {
        complain(format_args!("{problem}"));
    }
    Ok(if ended.problems().is_empty() { Outcome::Done } else { Outcome::Failed })
}

/// Ends a manager that was started before.
pub(crate) fn stop(address: &str, out: &mut Out) -> Result<Outcome> {
    let manager = SharedMemoryManager::connect(address)?;
    let count = manager.list()?.len();
    let ended = manager.shutdown()?;
    writeln!(out, "stopped, with {}", plural(count, "block"))?;
    for problem in ended.problems() {
        complain(format_args!("{problem}"));
    }
    Ok(if ended.problems().is_empty() { Outcome::Done } else { Outcome::Failed })
}
