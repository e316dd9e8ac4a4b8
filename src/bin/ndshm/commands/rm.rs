//! `ndshm rm`: names that nobody needs any more.

use std::ffi::OsStr;
use std::fs;

use anyhow::{Result, bail, ensure};
use ndshm::{BlockInfo, BlockOwner, ErrorKind, SharedMemory};

use super::ls::is_kept;
use crate::cli::Rm;
use crate::options::name_in_shm;
use crate::processes::{Processes, name_of};
use crate::{Outcome, complain, text, with_causes};

pub(crate) fn run(rm: Rm) -> Result<Outcome> {
    let blocks = ndshm::blocks()?;
    let mut outcome = Outcome::Done;
    for name in rm.names.into_iter().map(name_in_shm) {
        let block = blocks.iter().find(|block| block.name() == Some(&name));
        if let Err(error) = remove(&name, block, rm.force) {
            complain(format_args!("{}", with_causes(&error)));
            outcome = Outcome::Failed;
        }
    }
    Ok(outcome)
}

fn remove(name: &OsStr, block: Option<&BlockInfo>, force: bool) -> Result<()> {
    let shown = text::name(name);
    if name.as_encoded_bytes().starts_with(b".ndshm") {
        bail!("{shown} is no block: programs note there what they own, and 'ndshm prune' removes what is left of them");
    }
    let Some(block) = block else {
        ensure!(
            name.as_encoded_bytes().contains(&b'/') || fs::symlink_metadata(format!("/dev/shm/{shown}")).is_err(),
            "{shown} is no file, and no block; remove it with rm or rmdir"
        );
        if force && !name.as_encoded_bytes().contains(&b'/') {
            return Ok(());
        }
        bail!("there is no block named {shown:?} in /dev/shm");
    };
    match block.owner() {
        BlockOwner::Process { pid, alive: true } if !force => {
            let owner = pid.map_or_else(|| "a program".to_owned(), |pid| process(pid, &name_of(pid)));
            bail!("{shown} is owned by {owner}, which runs and removes it by itself; --force removes the name now");
        }
        BlockOwner::Unknown if !force => {
            bail!("{shown} belongs to user {}; --force tries all the same", block.uid())
        }
        // Python's, say: it stands in no ledger whose it is. What was kept waits for this command, whoever has it attached.
        BlockOwner::Nobody if !force && !is_kept(block) => {
            let processes = Processes::look();
            let users: Vec<_> =
                processes.mapping(block.id()).iter().map(|user| process(user.pid, &user.name)).collect();
            ensure!(
                users.is_empty(),
                "{shown} is mapped by {}, and may be needed there; --force removes the name now",
                users.join(", ")
            );
        }
        _ => {}
    }
    let Some(name) = name.to_str() else {
        bail!("{shown} is not UTF-8, so no program of this kind made it; remove it with rm");
    };
    match SharedMemory::unlink_name(name) {
        // Somebody was faster.
        Err(error) if error.kind() == ErrorKind::NotFound && force => Ok(()),
        removed => Ok(removed?),
    }
}

fn process(pid: u32, name: &str) -> String {
    // It may have ended meanwhile.
    if name.is_empty() { format!("process {pid}") } else { format!("process {pid} ({name})") }
}
