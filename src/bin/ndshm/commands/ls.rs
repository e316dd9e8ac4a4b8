//! `ndshm ls`: what is there, and who has it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use anyhow::{Context, Result};
use ndshm::{BlockFile, BlockInfo, BlockKind, BlockOwner, BlockState};
use serde_json::{Value, json};

use super::{Out, write_json};
use crate::cli::Ls;
use crate::processes::{Process, Processes, name_of};
use crate::table::{Align, Cell, Table};
use crate::terminal::Terminal;
use crate::text::{self, Bytes, escaped};
use crate::{Outcome, complain};

pub(crate) fn run(options: &Ls, terminal: Terminal, out: &mut Out) -> Result<Outcome> {
    let listing = Listing::make(options)?;
    if options.json {
        write_json(out, &listing.json())?;
    } else if listing.blocks.is_empty() && listing.others.is_empty() {
        if !options.patterns.is_empty() {
            complain(format_args!("no shared memory of such a name"));
            return Ok(Outcome::Failed);
        }
        writeln!(out, "no shared memory")?;
    } else {
        listing.table(terminal).write(out, &terminal.strong())?;
    }
    Ok(Outcome::Done)
}

struct Listing {
    blocks: Vec<BlockInfo>,
    /// What lies in `/dev/shm` and is no file: its name, user and kind.
    others: Vec<(OsString, u32, &'static str)>,
    processes: Processes,
}

impl Listing {
    fn make(options: &Ls) -> Result<Self> {
        let mut blocks = ndshm::blocks()?;
        let mut others = not_files().context("cannot list /dev/shm")?;
        let processes = Processes::look();
        if !options.named {
            // Its process may be gone by now, and then so is the memory.
            let nameless = processes.nameless().filter_map(|path| BlockFile::open(path).ok()?.info().ok());
            blocks.extend(nameless);
        }
        let wanted =
            |name: &str| options.patterns.is_empty() || options.patterns.iter().any(|text| name.contains(text));
        blocks.retain(|block| wanted(&title(block)));
        others.retain(|(name, ..)| wanted(&text::name(name)));
        Ok(Self { blocks, others, processes })
    }

    fn table(&self, terminal: Terminal) -> Table<6> {
        let mut table = Table::new([
            ("NAME", Align::Left),
            ("KIND", Align::Left),
            ("SIZE", Align::Right),
            ("RESIDENT", Align::Right),
            ("OWNER", Align::Left),
            ("MAPPED BY", Align::Left),
        ]);
        for block in &self.blocks {
            let mapped = brief(self.processes.mapping(block.id()));
            table.push([
                Cell::new(title(block)),
                kind(block, terminal),
                Bytes(block.size()).to_string().into(),
                Bytes(block.resident()).to_string().into(),
                owner(block, terminal),
                if mapped.is_empty() { Cell::styled("-", terminal.faint()) } else { mapped.into() },
            ]);
        }
        for (name, uid, kind) in &self.others {
            let dash = || Cell::styled("-", terminal.faint());
            let kind = Cell::styled(*kind, terminal.faint());
            table.push([text::name(name).into(), kind, dash(), dash(), user(*uid, terminal), dash()]);
        }
        table
    }

    fn json(&self) -> Value {
        let blocks = self.blocks.iter().map(|block| {
            let mut value = describe(block);
            let mapped = self.processes.mapping(block.id());
            value["mapped_by"] = mapped.iter().map(|p| json!({ "pid": p.pid, "name": p.name })).collect();
            value
        });
        let others = self.others.iter().map(|(name, uid, kind)| {
            let name = name.to_string_lossy();
            json!({ "name": name, "path": format!("/dev/shm/{name}"), "kind": kind, "uid": uid })
        });
        blocks.chain(others).collect()
    }
}

/// Pipes, directories and what else a program can have put there.
fn not_files() -> std::io::Result<Vec<(OsString, u32, &'static str)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/dev/shm")? {
        let entry = entry?;
        // Gone by now, where there is nothing to be seen.
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = metadata.file_type();
        let kind = match () {
            () if kind.is_file() => continue,
            () if kind.is_dir() => "directory",
            () if kind.is_symlink() => "symbolic link",
            () if kind.is_fifo() => "fifo",
            () if kind.is_socket() => "socket",
            () => "device",
        };
        found.push((entry.file_name(), metadata.uid(), kind));
    }
    found.sort_unstable();
    Ok(found)
}

/// The name, or the path by which memory without one is reached.
fn title(block: &BlockInfo) -> String {
    block.name().map_or_else(|| text::name(block.path().as_os_str()), text::name)
}

/// A word for what is in it, as it stands in JSON.
fn kind_word(block: &BlockInfo) -> &'static str {
    let is_semaphore = block.name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"sem."));
    match block.kind() {
        BlockKind::Array(_) => "array",
        BlockKind::List { .. } => "list",
        BlockKind::Unsupported { .. } => "unsupported",
        BlockKind::Damaged { .. } => "damaged",
        BlockKind::Unreadable => "unreadable",
        _ if is_semaphore => "semaphore",
        _ => "memory",
    }
}

fn kind(block: &BlockInfo, terminal: Terminal) -> Cell {
    match block.kind() {
        BlockKind::Array(info) => {
            let order = if info.is_fortran() && info.shape().len() > 1 { ", Fortran order" } else { "" };
            let text = format!("{} {}{order}", info.dtype(), text::shape(info.shape()));
            match block.state() {
                BlockState::Poisoned { .. } => Cell::styled(format!("{text}, poisoned"), terminal.bad()),
                _ => Cell::new(text),
            }
        }
        BlockKind::List { len } => Cell::new(format!("list of {len}")),
        BlockKind::Unsupported { .. } => Cell::new("unsupported array"),
        BlockKind::Damaged { .. } => Cell::styled("damaged array", terminal.bad()),
        _ => Cell::styled(kind_word(block), terminal.faint()),
    }
}

/// An array of this crate has a count of its writes; who made it and left it stands nowhere.
pub(super) fn is_kept(block: &BlockInfo) -> bool {
    block.name().is_some() && block.owner() == BlockOwner::Nobody && block.generation().is_some()
}

fn owner(block: &BlockInfo, terminal: Terminal) -> Cell {
    match block.owner() {
        BlockOwner::Process { pid: Some(pid), alive: true } => {
            Cell::styled(format!("{} {pid}", name_of(pid)).trim_start().to_owned(), terminal.good())
        }
        BlockOwner::Process { pid: None, alive: true } => Cell::styled("alive", terminal.good()),
        BlockOwner::Process { pid: Some(pid), .. } => Cell::styled(format!("dead ({pid})"), terminal.warning()),
        BlockOwner::Process { .. } => Cell::styled("dead", terminal.warning()),
        BlockOwner::Nobody if is_kept(block) => Cell::new("kept"),
        BlockOwner::Unknown => user(block.uid(), terminal),
        _ => Cell::styled("-", terminal.faint()),
    }
}

fn user(uid: u32, terminal: Terminal) -> Cell {
    if uid == nix::unistd::geteuid().as_raw() {
        return Cell::styled("-", terminal.faint());
    }
    let name = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| escaped(&user.name));
    Cell::styled(format!("user {}", name.unwrap_or_else(|| uid.to_string())), terminal.faint())
}

/// The same in a sentence of its own.
pub(super) fn owner_text(block: &BlockInfo) -> String {
    match block.owner() {
        BlockOwner::Process { pid: Some(pid), alive: true } => {
            format!("{} {pid}", name_of(pid)).trim_start().to_owned()
        }
        BlockOwner::Process { pid: None, alive: true } => "a process that is alive".to_owned(),
        BlockOwner::Process { pid: Some(pid), .. } => {
            format!("process {pid}, which is dead: 'ndshm prune' removes the block")
        }
        BlockOwner::Process { .. } => "a process that is dead: 'ndshm prune' removes the block".to_owned(),
        BlockOwner::Nobody if is_kept(block) => "nobody: it was kept, until 'ndshm rm'".to_owned(),
        BlockOwner::Unknown => "another user".to_owned(),
        _ => "nobody that is known".to_owned(),
    }
}

/// `solver 4711, python ×3`.
fn brief(processes: &[Process]) -> String {
    let mut by_name: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for process in processes {
        by_name.entry(&process.name).or_default().push(process.pid);
    }
    let groups = by_name.iter().map(|(name, pids)| match pids[..] {
        [pid] => format!("{name} {pid}"),
        _ => format!("{name} ×{}", pids.len()),
    });
    groups.collect::<Vec<_>>().join(", ")
}

/// A block in JSON.
pub(super) fn describe(block: &BlockInfo) -> Value {
    let (state, pid) = match block.owner() {
        BlockOwner::Process { pid, alive: true } => ("alive", pid),
        BlockOwner::Process { pid, .. } => ("dead", pid),
        BlockOwner::Nobody if is_kept(block) => ("kept", None),
        BlockOwner::Unknown => ("another user", None),
        _ => ("none", None),
    };
    let (lock, writer) = match block.state() {
        BlockState::Free => ("free", None),
        BlockState::Read => ("read", None),
        BlockState::Written { pid } => ("written", pid),
        BlockState::Poisoned { pid } => ("poisoned", Some(pid)),
        _ => ("unknown", None),
    };
    let mut value = json!({
        "name": block.name().map(|name| name.to_string_lossy()),
        "path": block.path().to_string_lossy(),
        "kind": kind_word(block),
        "size": block.size(),
        "resident": block.resident(),
        "uid": block.uid(),
        "mode": format!("{:04o}", block.mode()),
        "owner": { "state": state, "pid": pid },
        "state": lock,
        "writer": writer,
        "generation": block.generation(),
    });
    match block.kind() {
        BlockKind::Array(info) => {
            value["dtype"] = json!(info.dtype().descr());
            value["shape"] = json!(info.shape());
            value["fortran_order"] = json!(info.is_fortran());
        }
        BlockKind::List { len } => value["items"] = json!(len),
        BlockKind::Unsupported { problem } | BlockKind::Damaged { problem } => value["problem"] = json!(problem),
        _ => {}
    }
    value
}
