//! `ndshm inspect`: what is in a block.

use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use ndshm::{ArrayInfo, BlockFile, BlockInfo, BlockKind, BlockState, ErrorKind, ShareableList, SharedMemory, Value};
use serde_json::json;

use super::ls::{describe, owner_text};
use super::{Out, write_json};
use crate::Outcome;
use crate::cli::Inspect;
use crate::elements::Numeric;
use crate::options::Place;
use crate::picture::Picture;
use crate::processes::Processes;
use crate::statistics::{Statistics, significant};
use crate::terminal::Terminal;
use crate::text::{self, Bytes, escaped, plural};

/// Items of a list and bytes of memory that are shown.
const SHOWN: usize = 20;
const SHOWN_BYTES: usize = 64;
/// A list is copied to be read, so that nobody can pull it from under the look: not one of any size.
const LARGEST_LIST: u64 = 1 << 30;

pub(crate) fn run(inspect: &Inspect, terminal: Terminal, out: &mut Out) -> Result<Outcome> {
    let place = Place::parse(&inspect.block);
    let file = place.open()?;
    let info = file.info()?;
    let content = match info.kind() {
        BlockKind::Array(array) => Content::of_array(&file, array, inspect, terminal)?,
        _ if inspect.png.is_some() => bail!("{} is no array, of which there could be a picture", place.shown()),
        BlockKind::List { .. } => Content::of_list(&file, &info, inspect)?,
        _ => Content::of_bytes(&file, &info)?,
    };
    if inspect.json {
        let mut value = describe(&info);
        let processes = Processes::look();
        value["mapped_by"] =
            processes.mapping(info.id()).iter().map(|p| json!({ "pid": p.pid, "name": p.name })).collect();
        content.add_to(&mut value);
        write_json(out, &value)?;
    } else {
        let sheet = Sheet { terminal };
        sheet.block(out, &place, &info)?;
        content.write(out, &sheet)?;
    }
    Ok(Outcome::Done)
}

/// What was found in the block.
enum Content {
    Array {
        statistics: Option<Statistics>,
        /// Why there are none, or where the picture is.
        note: Option<(&'static str, String)>,
    },
    List {
        items: Vec<Result<Value, String>>,
        len: usize,
    },
    Bytes {
        first: Vec<u8>,
    },
}

impl Content {
    fn of_array(file: &BlockFile, array: &ArrayInfo, inspect: &Inspect, terminal: Terminal) -> Result<Self> {
        let Some(numeric) = Numeric::of(array) else {
            let note = format!("no statistics for elements of type '{}'", array.dtype());
            ensure!(inspect.png.is_none(), "there is no picture of elements of type '{}'", array.dtype());
            return Ok(Self::Array { statistics: None, note: Some(("note", note)) });
        };
        let _locked = lock(file, inspect)?;
        let passes = if inspect.png.is_some() { 3 } else { 2 };
        let bar = terminal.bar("reading", passes * array.nbytes() as u64);
        let progress = |count: usize| bar.inc((count * array.dtype().item_size()) as u64);
        let picture = inspect.png.as_ref().map(|_| Picture::of(file, array, numeric, progress)).transpose()?;
        let statistics = Some(Statistics::of(file, array, numeric, progress)?);
        bar.finish_and_clear();
        let note = match (&inspect.png, picture) {
            (Some(path), Some(picture)) => {
                picture.write_png(path)?;
                let (width, height) = (picture.width(), picture.height());
                Some(("picture", format!("{}, {width} × {height} pixels", text::name(path.as_os_str()))))
            }
            _ => None,
        };
        Ok(Self::Array { statistics, note })
    }

    fn of_list(file: &BlockFile, info: &BlockInfo, inspect: &Inspect) -> Result<Self> {
        ensure!(info.size() <= LARGEST_LIST, "this list has {}, too many to be shown", Bytes(info.size()));
        let copy = {
            let _locked = lock(file, inspect)?;
            let mut bytes = vec![0; usize::try_from(info.size())?];
            let read = file.read_at(0, &mut bytes)?;
            ensure!(read == bytes.len(), "the block was cut short while it was read");
            let copy = SharedMemory::anonymous(read)?;
            copy.write_at(0, &bytes)?;
            copy
        };
        let list = ShareableList::from_memory(copy).context("it looked like a list")?;
        let shown = if inspect.json { list.len() } else { SHOWN };
        let items = list.iter().take(shown).map(|item| item.map_err(|error| error.to_string())).collect();
        Ok(Self::List { items, len: list.len() })
    }

    fn of_bytes(file: &BlockFile, info: &BlockInfo) -> Result<Self> {
        let mut first = vec![0; SHOWN_BYTES.min(usize::try_from(info.size()).unwrap_or(SHOWN_BYTES))];
        let read = file.read_at(0, &mut first)?;
        first.truncate(read);
        Ok(Self::Bytes { first })
    }

    fn add_to(&self, value: &mut serde_json::Value) {
        match self {
            Self::Array { statistics, note } => {
                value["statistics"] = statistics.as_ref().map_or(serde_json::Value::Null, Statistics::json);
                if let Some((name, note)) = note {
                    value[*name] = json!(note);
                }
            }
            Self::List { items, .. } => {
                value["values"] =
                    items.iter().map(|item| item.as_ref().map_or(serde_json::Value::Null, in_json)).collect();
            }
            Self::Bytes { .. } => {}
        }
    }

    fn write(&self, out: &mut Out, sheet: &Sheet) -> Result<()> {
        match self {
            Self::Array { statistics, note } => {
                if let Some(statistics) = statistics {
                    sheet.statistics(out, statistics)?;
                }
                if let Some((name, note)) = note {
                    sheet.line(out, name, note)?;
                }
            }
            Self::List { items, len } => {
                for (index, item) in items.iter().enumerate() {
                    let shown = match item {
                        Ok(item) => escaped(&shortened(&item.to_string())),
                        Err(why) => sheet.terminal.bad().apply_to(escaped(why)).to_string(),
                    };
                    sheet.line(out, &format!("[{index}]"), &shown)?;
                }
                if *len > items.len() {
                    sheet.line(out, "…", &format!("{} more; --json has them", plural(len - items.len(), "item")))?;
                }
            }
            Self::Bytes { first } => {
                for (row, bytes) in first.chunks(16).enumerate() {
                    let text: String = bytes
                        .iter()
                        .map(|&byte| if (b' '..=b'~').contains(&byte) { char::from(byte) } else { '.' })
                        .collect();
                    sheet.line(
                        out,
                        if row == 0 { "begins" } else { "" },
                        &format!("{:<48}{text}", hex(bytes).join(" ")),
                    )?;
                }
            }
        }
        Ok(())
    }
}

/// What is not half written, or an error that says who is at it.
fn lock<'a>(file: &'a BlockFile, inspect: &Inspect) -> Result<Option<ndshm::BlockLock<'a>>> {
    match super::read_lock(file, inspect.timeout) {
        Ok(locked) => Ok(Some(locked)),
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(error).context("cannot read it now; wait longer with --timeout")
        }
        Err(error) => Err(error.into()),
    }
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 100;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn hex(bytes: &[u8]) -> Vec<String> {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn in_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Int(value) => json!(value),
        Value::Float(value) if value.is_finite() => json!(value),
        Value::Float(value) => json!(value.to_string()),
        Value::Bool(value) => json!(value),
        Value::Str(value) => json!(value),
        Value::Bytes(value) => json!({ "bytes": hex(value).concat() }),
        Value::None => serde_json::Value::Null,
    }
}

/// Lines of a name and what it stands for.
struct Sheet {
    terminal: Terminal,
}

impl Sheet {
    fn line(&self, out: &mut Out, name: &str, text: &str) -> Result<()> {
        let padding = 11_usize.saturating_sub(name.chars().count()).max(1);
        writeln!(out, "{}{:padding$}{}", self.terminal.strong().apply_to(name), "", text.trim_end())?;
        Ok(())
    }

    fn block(&self, out: &mut Out, place: &Place, info: &BlockInfo) -> Result<()> {
        let kind = match info.kind() {
            BlockKind::Array(array) => {
                let order = if array.is_fortran() { "Fortran" } else { "C" };
                let count = plural(array.len(), "element");
                format!("array of {count}, {} {}, {order} order", array.dtype(), text::shape(array.shape()))
            }
            BlockKind::List { len } => format!("list of {}", plural(*len, "item")),
            BlockKind::Unsupported { .. } => "unsupported array".to_owned(),
            BlockKind::Damaged { .. } => "damaged array".to_owned(),
            _ => "memory".to_owned(),
        };
        self.line(out, "block", &place.shown())?;
        self.line(out, "kind", &kind)?;
        match info.kind() {
            BlockKind::Unsupported { problem } => self.line(out, "problem", &escaped(problem))?,
            BlockKind::Damaged { problem } => {
                self.line(out, "problem", &self.terminal.bad().apply_to(escaped(problem)).to_string())?;
            }
            _ => {}
        }
        let (size, resident) = (Bytes(info.size()), Bytes(info.resident()));
        self.line(out, "size", &format!("{size} ({} bytes), {resident} of it resident", info.size()))?;
        let access = format!("mode {:04o}, user {}", info.mode(), info.uid());
        self.line(out, "access", &access)?;
        if info.name().is_some() {
            self.line(out, "owner", &owner_text(info))?;
        }
        let processes = Processes::look();
        let mapping = processes.mapping(info.id());
        let mapped: Vec<String> = mapping.iter().map(|p| format!("{} {}", p.name, p.pid)).collect();
        self.line(
            out,
            "mapped by",
            if mapped.is_empty() { "nobody that is seen".to_owned() } else { mapped.join(", ") }.as_str(),
        )?;
        self.line(out, "state", &self.state(info))
    }

    fn state(&self, info: &BlockInfo) -> String {
        let writes =
            info.generation().map(|count| format!(", written {}", plural_u64(count, "time"))).unwrap_or_default();
        let state = match info.state() {
            BlockState::Free => "not locked".to_owned(),
            BlockState::Read => "locked by readers".to_owned(),
            BlockState::Written { pid: Some(pid) } => format!("locked by a writer, process {pid}"),
            BlockState::Written { pid: None } => "locked by a writer".to_owned(),
            BlockState::Poisoned { pid } => {
                let remove = if info.name().is_some() { ", 'ndshm rm' removes the block" } else { "" };
                let text = format!(
                    "poisoned: a write by process {pid} did not finish; clear_poison() in a program accepts what is \
                     there{remove}"
                );
                self.terminal.bad().apply_to(text).to_string()
            }
            _ => "unknown".to_owned(),
        };
        format!("{state}{writes}")
    }

    fn statistics(&self, out: &mut Out, statistics: &Statistics) -> Result<()> {
        if statistics.of_absolute_values {
            self.line(out, "of", "the absolute values")?;
        }
        if let Some((min, max)) = statistics.range {
            self.line(out, "min", &min.to_string())?;
            self.line(out, "max", &max.to_string())?;
        }
        if let Some(mean) = statistics.mean {
            self.line(out, "mean", &significant(mean))?;
        }
        if statistics.nan > 0 {
            let share = 100.0 * statistics.nan as f64 / statistics.count as f64;
            self.line(out, "NaN", &format!("{} of {} ({}%)", statistics.nan, statistics.count, significant(share)))?;
        }
        if statistics.infinite > 0 {
            self.line(out, "infinite", &format!("{} of {}", statistics.infinite, statistics.count))?;
        }
        if !statistics.histogram.is_empty() {
            self.line(out, "histogram", &format!("│{}│", statistics.sparkline()))?;
        }
        Ok(())
    }
}

fn plural_u64(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
