//! `ndshm doctor`: is this machine set up for shared memory, and what could be changed?
//!
//! | file | looks at |
//! |---|---|
//! | `room` | `/dev/shm`, memory, control groups, what dead programs left |
//! | `kernel` | what this kernel can do, by trying where that is possible |
//! | `pages` | huge pages |
//! | `limits` | descriptors, mappings, file sizes |
//! | `login` | what happens when the user logs out |

mod kernel;
mod limits;
mod login;
mod pages;
mod room;

use std::io::Write;

use anyhow::Result;
use serde_json::json;

use super::{Out, write_json};
use crate::Outcome;
use crate::cli::Doctor;
use crate::terminal::Terminal;
use crate::text::{escaped, plural};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Good,
    /// Good to know; something is slower or less than it could be.
    Note,
    /// Something may fail.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) topic: &'static str,
    pub(super) level: Level,
    /// What is.
    pub(super) found: String,
    /// What it means, where it is not simply good.
    pub(super) meaning: &'static str,
    /// How to change it.
    pub(super) advice: String,
}

impl Finding {
    fn good(topic: &'static str, found: impl Into<String>) -> Self {
        Self { topic, level: Level::Good, found: found.into(), meaning: "", advice: String::new() }
    }

    fn new(
        topic: &'static str,
        level: Level,
        found: impl Into<String>,
        meaning: &'static str,
        advice: impl Into<String>,
    ) -> Self {
        Self { topic, level, found: found.into(), meaning, advice: advice.into() }
    }
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

pub(super) fn run(doctor: &Doctor, terminal: Terminal, out: &mut Out) -> Result<Outcome> {
    let findings: Vec<Finding> =
        [room::look(), kernel::look(), pages::look(), limits::look(), login::look()].into_iter().flatten().collect();
    if doctor.json {
        let findings = findings.iter().map(|finding| {
            json!({
                "topic": finding.topic,
                "level": finding.level.word(),
                "found": finding.found,
                "meaning": finding.meaning,
                "advice": finding.advice,
            })
        });
        write_json(out, &findings.collect())?;
    } else {
        for finding in &findings {
            write(finding, terminal, out)?;
        }
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
        writeln!(out, "\n{}, {}", plural(problems, "problem"), plural(warnings, "warning"))?;
    }
    let broken = findings.iter().any(|finding| finding.level == Level::Problem);
    Ok(if broken { Outcome::Failed } else { Outcome::Done })
}

fn write(finding: &Finding, terminal: Terminal, out: &mut Out) -> Result<()> {
    let style = match finding.level {
        Level::Good => terminal.good(),
        Level::Note => terminal.faint(),
        Level::Warning => terminal.warning(),
        Level::Problem => terminal.bad(),
    };
    let word = style.apply_to(format!("{:<7}", finding.level.word()));
    let topic = terminal.strong().apply_to(format!("{:<18}", finding.topic));
    writeln!(out, "{word} {topic} {}", escaped(&finding.found))?;
    let indent = " ".repeat(7 + 1 + 18 + 1);
    for (lead, text) in [("", finding.meaning), ("to change it: ", &finding.advice)] {
        if !text.is_empty() {
            writeln!(out, "{indent}{}", terminal.faint().apply_to(escaped(&format!("{lead}{text}"))))?;
        }
    }
    Ok(())
}

/// A file's text without the line end; `None` where it can't be read.
fn read(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim_end().to_owned())
}

/// The option that is chosen: `always [madvise] never`.
fn chosen(text: &str) -> &str {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or(text, |(chosen, _)| chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_one_stands_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("2"), "2");
    }

    #[test]
    fn whatever_the_machine_every_finding_that_is_not_good_says_what_it_means() {
        let findings = [room::look(), kernel::look(), pages::look(), limits::look(), login::look()].concat();
        assert!(findings.len() >= 8);
        for finding in findings {
            assert!(!finding.found.is_empty() && finding.topic.len() <= 18, "{finding:?}");
            assert_eq!(finding.level == Level::Good, finding.meaning.is_empty(), "{finding:?}");
            if finding.level >= Level::Warning {
                assert!(!finding.advice.is_empty(), "{finding:?}");
            }
        }
    }
}
