//! `ndshm`: sees and handles what is in shared memory.
//!
//! | file | idea |
//! |---|---|
//! | `cli` | the command line, as clap reads it, and its help |
//! | `options` | what is asked for, checked |
//! | `commands` | one file a command |
//! | `terminal` | who decides about colours and progress bars |
//! | `table`, `text` | what people read |
//! | `processes` | who has which memory, by `/proc` |
//! | `elements`, `statistics`, `picture` | what is in an array |

mod cli;
mod commands;
mod elements;
mod options;
mod picture;
mod processes;
mod statistics;
mod table;
mod terminal;
mod text;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::terminal::Terminal;

/// Whether all that was asked for was done. What was not has been told of already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed,
}

fn main() -> ExitCode {
    // First of all: a manager's server is a copy of this program.
    ndshm::init();
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let terminal = Terminal::detect();
    match commands::run(cli, terminal) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("{}", with_causes(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Help and version are no errors; the others are one line that says where help is.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Fails only where nobody reads it.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        complain(format_args!("no command was given; see 'ndshm --help'"));
        return ExitCode::from(2);
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = text.split("\n\nUsage:").next().unwrap_or(text).split("\n\nFor more information").next().unwrap_or(text);
    let mut line = String::new();
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty()) {
        line += match part {
            _ if line.is_empty() => "",
            tip if tip.starts_with("tip:") => "; ",
            _ => " ",
        };
        line += part;
    }
    complain(format_args!("{line}; see 'ndshm {}--help'", subcommand()));
    ExitCode::from(2)
}

/// The command that was given, with a space, where it is one: nothing but help and version can stand before it.
fn subcommand() -> String {
    let given = std::env::args_os().nth(1);
    let command = cli::Cli::command();
    let found = given.and_then(|given| command.find_subcommand(&given));
    found.map(|found| format!("{} ", found.get_name())).unwrap_or_default()
}

/// One line on stderr, whatever is in the message.
pub(crate) fn complain(message: std::fmt::Arguments<'_>) {
    // There is nobody to tell where stderr is closed.
    let _ = writeln!(std::io::stderr(), "ndshm: {}", text::escaped(&message.to_string()));
}

/// The message and its causes, each once: some messages end with theirs already.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| match &*text {
        "" => cause,
        text if text.ends_with(&cause) => text.to_owned(),
        text => format!("{text}: {cause}"),
    })
}

/// Who reads the output may have seen enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
