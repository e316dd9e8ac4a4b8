//! `ndshm prune`: what killed programs have left.

use std::io::Write;

use anyhow::Result;
use serde_json::json;

use super::{Out, write_json};
use crate::cli::Prune;
use crate::text::{Bytes, escaped, plural};
use crate::{Outcome, complain};

pub(crate) fn run(options: &Prune, out: &mut Out) -> Result<Outcome> {
    let pruned = if options.dry_run { ndshm::prunable() } else { ndshm::prune() }?;
    let mut blocks: Vec<_> = pruned.blocks().iter().collect();
    blocks.sort_unstable_by_key(|block| block.name());
    if options.json {
        let blocks = blocks.iter().map(|block| {
            json!({ "name": block.name(), "size": block.size(), "owner_pid": block.owner_pid(), "removed": !options.dry_run })
        });
        write_json(out, &blocks.collect())?;
    } else {
        let verb = if options.dry_run { "would remove" } else { "removed" };
        for block in &blocks {
            let owner = block.owner_pid().map_or_else(String::new, |pid| format!(" (process {pid})"));
            writeln!(
                out,
                "{verb} {}, {}, of a program that is gone{owner}",
                escaped(block.name()),
                Bytes(block.size())
            )?;
        }
        let total = Bytes(blocks.iter().map(|block| block.size()).sum());
        match blocks.len() {
            0 => writeln!(out, "nothing to remove")?,
            1 => {}
            count => writeln!(out, "{verb} {}, {total} in all", plural(count, "block"))?,
        }
    }
    out.flush()?;
    for problem in pruned.problems() {
        complain(format_args!("{problem}"));
    }
    Ok(if pruned.problems().is_empty() { Outcome::Done } else { Outcome::Failed })
}
