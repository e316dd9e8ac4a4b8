//! `ndshm bench`: what sharing saves on this machine, in under a minute.
//!
//! | file | idea |
//! |---|---|
//! | `conditions` | what spoils the numbers |
//! | `comparisons` | what is measured, against what |
//! | `rival`, `stream` | a process that is sent the data, by pipe or socket |
//! | `chart` | bars as SVG |
//!
//! The project's own benchmarks, in `benches/`, ask more and take longer.

mod chart;
mod comparisons;
mod conditions;
mod rival;
mod stream;

use std::fmt;
use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use self::chart::Chart;
use self::comparisons::{Comparison, Effort};
use self::conditions::{Condition, Steal};
use super::{Out, write_json};
use crate::Outcome;
use crate::cli::Bench;
use crate::table::{Align, Cell, Table};
use crate::terminal::Terminal;

pub(super) fn run(options: &Bench, terminal: Terminal, out: &mut Out) -> Result<Outcome> {
    if let Some(bytes) = options.receive {
        rival::receive(bytes)?;
        return Ok(Outcome::Done);
    }
    // Nobody waits for a chart that cannot be written.
    let mut chart = options.chart.as_deref().map(Chart::create).transpose()?;
    let mut conditions = conditions::before();
    if !options.json {
        write_conditions(&conditions, terminal, out)?;
        // Seen before the measuring begins, so that who can mend it need not wait.
        out.flush()?;
    }
    let steal = Steal::now();
    let effort = if options.quick { Effort::QUICK } else { Effort::FULL };
    let comparisons = comparisons::all(options.size << 20, effort, terminal)?;
    let after: Vec<_> = steal.since().into_iter().collect();
    if options.json {
        conditions.extend(after);
        write_json(out, &as_json(&conditions, &comparisons))?;
    } else {
        write_table(&comparisons, terminal, out)?;
        write_conditions(&after, terminal, out)?;
    }
    if let Some(chart) = &mut chart {
        chart.draw(&comparisons)?;
    }
    Ok(Outcome::Done)
}

fn write_conditions(conditions: &[Condition], terminal: Terminal, out: &mut Out) -> Result<()> {
    for Condition { topic, found, advice } in conditions {
        writeln!(out, "{} {topic}: {found}; {advice}", terminal.warning().apply_to("warning"))?;
    }
    if !conditions.is_empty() {
        writeln!(out)?;
    }
    Ok(())
}

fn write_table(comparisons: &[Comparison], terminal: Terminal, out: &mut Out) -> Result<()> {
    let (left, right) = (Align::Left, Align::Right);
    let mut table =
        Table::new([("WHAT", left), ("NDSHM", right), ("INSTEAD", left), ("TAKES", right), ("NDSHM IS", left)]);
    for Comparison { what, ours, rivals } in comparisons {
        let mut first = [what.clone(), Time(*ours).to_string()];
        for (name, theirs) in rivals {
            let [what, ours_shown] = std::mem::take(&mut first);
            let ratio = Ratio { ours: *ours, theirs: *theirs };
            let style = if ratio.is_ahead() { terminal.good() } else { terminal.warning() };
            let ratio = Cell::styled(ratio.to_string(), style);
            let theirs = Time(*theirs).to_string();
            table.push([what.into(), ours_shown.into(), Cell::new(*name), theirs.into(), ratio]);
        }
    }
    Ok(table.write(out, &terminal.strong())?)
}

fn as_json(conditions: &[Condition], comparisons: &[Comparison]) -> serde_json::Value {
    let conditions: Vec<_> = conditions
        .iter()
        .map(|condition| json!({ "topic": condition.topic, "found": condition.found, "advice": condition.advice }))
        .collect();
    let comparisons: Vec<_> = comparisons
        .iter()
        .map(|Comparison { what, ours, rivals }| {
            let rivals = rivals.iter().map(|(name, theirs)| json!({ "what": name, "seconds": theirs.as_secs_f64() }));
            json!({ "what": what, "seconds": ours.as_secs_f64(), "instead": rivals.collect::<Vec<_>>() })
        })
        .collect();
    json!({ "conditions": conditions, "comparisons": comparisons })
}

/// A duration in three digits: `1.94 ms`.
struct Time(Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let units = [(1.0, "s"), (1e3, "ms"), (1e6, "µs"), (1e9, "ns")];
        let (factor, unit) = units.into_iter().find(|(factor, _)| seconds * factor >= 0.9995).unwrap_or((1e9, "ns"));
        write!(f, "{} {unit}", three_digits(seconds * factor))
    }
}

/// How much faster or slower ours is.
#[derive(Clone, Copy)]
struct Ratio {
    ours: Duration,
    theirs: Duration,
}

impl Ratio {
    fn is_ahead(self) -> bool {
        self.ours <= self.theirs
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nothing takes no time at all, but a clock may say so.
        let ratio = self.theirs.as_secs_f64().max(1e-9) / self.ours.as_secs_f64().max(1e-9);
        let (ratio, word) = if self.is_ahead() { (ratio, "ahead") } else { (1.0 / ratio, "behind") };
        write!(f, "{}× {word}", three_digits(ratio))
    }
}

fn three_digits(number: f64) -> String {
    let digits = match number {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{number:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ratios_have_three_digits() {
        let time = |nanoseconds| Time(Duration::from_nanos(nanoseconds)).to_string();
        assert_eq!(time(0), "0.00 ns");
        assert_eq!(time(1_940_000), "1.94 ms");
        assert_eq!(time(999_700), "1.00 ms");
        assert_eq!(time(34_800_000), "34.8 ms");
        assert_eq!(time(2_500_000_000), "2.50 s");
        let ratio = |ours, theirs| {
            let (ours, theirs) = (Duration::from_micros(ours), Duration::from_micros(theirs));
            Ratio { ours, theirs }.to_string()
        };
        assert_eq!(ratio(10, 64), "6.40× ahead");
        assert_eq!(ratio(10, 10), "1.00× ahead");
        assert_eq!(ratio(25, 10), "2.50× behind");
        assert_eq!(ratio(1, 2500), "2500× ahead");
    }
}
