//! The table.

use std::fmt;
use std::fs;
use std::time::Duration;

use crate::grid::{Grid, real, sphere_area_km2};
use crate::handover::InPlace;
use crate::options::Options;
use crate::survey::{Measure, Tally};

/// All that is printed.
pub(crate) struct Report<'a> {
    pub(crate) options: &'a Options,
    pub(crate) grid: Grid,
    pub(crate) total: Tally,
    pub(crate) tiles_with_land: usize,
    pub(crate) workers: usize,
    pub(crate) reading: Duration,
    pub(crate) surveying: Duration,
    pub(crate) in_place: InPlace,
    pub(crate) copied: Duration,
    pub(crate) mask_bytes: usize,
    pub(crate) array_bytes: usize,
    pub(crate) processes: usize,
    /// Bytes of all processes together.
    pub(crate) memory: Result<usize, String>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { land, east_west, north_south } = self.total;
        let coast = Measure { count: east_west.count + north_south.count, size: east_west.size + north_south.size };
        let percent = 100.0 * land.size / sphere_area_km2();
        let (rows, columns) = (self.grid.rows(), self.grid.columns());
        let (height, width, _) = self.grid.picture_shape();
        let mask = Bytes(self.mask_bytes);
        let workers = plural(self.workers, "worker");

        line(f, "mask", format_args!("{rows} x {columns} cells, {mask}, read in {}", Time(self.reading)))?;
        line(f, "survey", format_args!("{} with {workers}", Time(self.surveying)))?;
        writeln!(f)?;
        writeln!(f, "{:<26}{:>13}{:>15}", "", "count", "size")?;
        row(f, "land cells", land, "km²", format_args!("   {percent:.3} % of the sphere"))?;
        row(f, "coast, edges east-west", east_west, "km", format_args!(""))?;
        row(f, "coast, edges north-south", north_south, "km", format_args!(""))?;
        row(f, "coast, all edges", coast, "km", format_args!(""))?;
        let tiles = Grouped(self.tiles_with_land).to_string();
        writeln!(f, "{:<26}{tiles:>13}   of {}", "1° tiles with land", Grouped(180 * 360))?;
        writeln!(f)?;
        line(f, "map", format_args!("{}, {width} x {height} pixels", self.options.out.display()))?;
        line(f, "", "by the land fraction of 1° tiles, ocean goes from dark to light blue, land from sand to green")?;
        let InPlace { first, again } = self.in_place;
        line(
            f,
            "handing over",
            format_args!(
                "{mask} in place to {workers}: {} (again: {}); through a socket pair to 1 process: {}",
                Time(first),
                Time(again),
                Time(self.copied),
            ),
        )?;
        line(
            f,
            "",
            "in place: a call of the pool with the mask as its argument and nothing to do; socket: all bytes read",
        )?;
        match &self.memory {
            Ok(bytes) => line_end(
                f,
                "memory",
                format_args!(
                    "{} in {} processes together (PSS), {:.3} times the arrays ({})",
                    Bytes(*bytes),
                    self.processes,
                    real(*bytes) / real(self.array_bytes),
                    Bytes(self.array_bytes)
                ),
            ),
            Err(why) => line_end(f, "memory", format_args!("not known: {why}")),
        }
    }
}

fn line_end(f: &mut fmt::Formatter<'_>, name: &str, text: impl fmt::Display) -> fmt::Result {
    write!(f, "{name:<14}{text}")
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, text: impl fmt::Display) -> fmt::Result {
    line_end(f, name, text)?;
    writeln!(f)
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, measure: Measure, unit: &str, note: fmt::Arguments<'_>) -> fmt::Result {
    let (count, size) = (Grouped(measure.count).to_string(), Grouped(rounded(measure.size)).to_string());
    writeln!(f, "{name:<26}{count:>13}{size:>15} {unit}{note}")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes on the Earth, none below 0")]
fn rounded(size: f64) -> usize {
    size.round() as usize
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// 309,568,712
struct Grouped(usize);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// 933 MB
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = real(self.0) / 1e6;
        write!(f, "{megabytes:.*} MB", if megabytes < 10.0 { 2 } else { 0 })
    }
}

/// 1.42 s, 412 ms or 0.053 ms
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let milliseconds = 1e3 * seconds;
        match milliseconds {
            1000.0.. => write!(f, "{seconds:.2} s"),
            10.0.. => write!(f, "{milliseconds:.0} ms"),
            _ => write!(f, "{milliseconds:.3} ms"),
        }
    }
}

/// The memory of these processes in bytes, each page shared out among those that have it: the sum counts it once.
pub(crate) fn proportional_memory(processes: &[u32]) -> Result<usize, String> {
    processes.iter().map(|&id| proportional_set_size(id)).sum()
}

fn proportional_set_size(process: u32) -> Result<usize, String> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let kilobytes =
        text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kilobytes.map(|kilobytes: usize| kilobytes * 1024).ok_or_else(|| format!("{path} has no line \"Pss\""))
}
