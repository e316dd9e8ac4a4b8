//! The command line, as clap reads it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::options::{file, mebibytes, mode, png, seconds};

/// Sees and handles typed arrays, lists and other blocks in shared memory.
#[derive(Debug, Parser)]
#[command(name = "ndshm", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  ndshm ls                               what is there, and who has it
  ndshm load era5.npy --name climate     a file becomes a block that any program attaches to
  ndshm inspect climate                  shape, state, statistics and a histogram
  ndshm save climate copy.npy            and back into a file
  ndshm rm climate                       when nobody needs it any more
  ndshm serve --name climate             a manager, which owns blocks for other programs
  ndshm doctor                           is this machine set up for it?
  ndshm bench                            and what does sharing save on it?

In Python a block is np.load(\"/dev/shm/climate\", mmap_mode=\"r+\"), in Rust
unsafe { SharedArray::<f64, Ix3>::attach(\"climate\")? }.

Exit status: 0 if all went well, 1 if something failed, 2 for a wrong command line.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Ls(Ls),
    Inspect(Inspect),
    Load(Load),
    Save(Save),
    Rm(Rm),
    Prune(Prune),
    Serve(Serve),
    Doctor(Doctor),
    Bench(Bench),
    Completions(Completions),
}

/// List the blocks in /dev/shm, and anonymous ones of this crate in other processes
#[derive(Args, Debug)]
#[command(visible_alias = "list", after_help = LS_HELP)]
pub(crate) struct Ls {
    /// Only blocks whose name contains one of these; all by default
    #[arg(value_name = "TEXT")]
    pub(crate) patterns: Vec<String>,
    /// For scripts: a JSON array of objects
    #[arg(long)]
    pub(crate) json: bool,
    /// Only what has a name in /dev/shm: do not look for anonymous memory
    #[arg(long)]
    pub(crate) named: bool,
}

const LS_HELP: &str = "\
KIND is NumPy's element type with the shape, 'list of N' for a ShareableList, 'memory' for
a block of any other content, or what else lies there. RESIDENT is how much of it is in memory.
OWNER is the process that removes the name: 'dead' where that was killed (see 'ndshm prune'),
'kept' where a program left it on purpose, '-' where another program made the block.
MAPPED BY counts the processes of which this user may know; other users' stay hidden.

Anonymous memory has a path in place of a name, which 'ndshm inspect' takes too.

Exit status: 1 where nothing has a name with TEXT in it, except with --json.

Examples:
  ndshm ls
  ndshm ls climate wind
  ndshm ls --json | jq -r '.[] | select(.owner.state == \"dead\") | .name'";

/// Show what is in a block: header, lock, statistics and a histogram
///
/// Statistics are exact and are taken under the block's lock, in two passes over the elements; nothing is
/// mapped or kept in memory. Of complex elements the absolute values are counted.
#[derive(Args, Debug)]
#[command(after_help = INSPECT_HELP)]
pub(crate) struct Inspect {
    /// A name in /dev/shm, or a path (with a '/' in it): a .npy file, or /proc/PID/fd/N
    #[arg(value_name = "BLOCK", value_hint = ValueHint::FilePath)]
    pub(crate) block: OsString,
    /// Also draw an array of two axes to this file, with at most 1024 pixels a side
    #[arg(
        long,
        value_name = "FILE.png",
        value_hint = ValueHint::FilePath,
        value_parser = PathBufValueParser::new().try_map(png)
    )]
    pub(crate) png: Option<PathBuf>,
    /// For scripts: a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// How long to wait where another program is just writing the block
    #[arg(long, value_parser = seconds, value_name = "SECONDS", default_value = "10")]
    pub(crate) timeout: Duration,
}

const INSPECT_HELP: &str = "\
Elements are read at one moment: a writer is waited for, up to --timeout, and writers wait meanwhile. What stands above
them was looked at before the wait.
Programs that write without the lock, NumPy among them, are not held back.

Examples:
  ndshm inspect climate
  ndshm inspect --png depth.png depth
  ndshm inspect --json climate | jq .statistics.mean
  ndshm inspect /proc/4711/fd/5";

/// Load a .npy file into a named block, which stays until it is removed
///
/// The block appears under its name when it is whole. Any program of this user attaches to it then, as often
/// as it likes and without reading the file again: the array stays in memory between runs of a program, until
/// 'ndshm rm' or the machine's next start.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ndshm load era5.npy --name climate\n  ndshm load --mode 640 era5.npy")]
pub(crate) struct Load {
    /// The file: any element type of a fixed size, C or Fortran order
    #[arg(
        value_name = "FILE.npy",
        value_hint = ValueHint::FilePath,
        value_parser = PathBufValueParser::new().try_map(file)
    )]
    pub(crate) file: PathBuf,
    /// Its name in /dev/shm; by default the file's, without .npy
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// Who may attach, as for chmod; by default this user alone
    #[arg(short, long, value_parser = mode, value_name = "OCTAL")]
    pub(crate) mode: Option<u32>,
    /// How long to wait where another program is just writing the file
    #[arg(long, value_parser = seconds, value_name = "SECONDS", default_value = "10")]
    pub(crate) timeout: Duration,
}

/// Save an array in a block to a .npy file
///
/// It is copied under the block's lock, so that no write of another program of this crate is seen half done. The file
/// appears, or replaces what is there, when it is whole.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ndshm save climate climate.npy\n  ndshm save /proc/4711/fd/5 anonymous.npy")]
pub(crate) struct Save {
    /// A name in /dev/shm, or a path (with a '/' in it) such as 'ndshm ls' shows
    #[arg(value_name = "BLOCK", value_hint = ValueHint::FilePath)]
    pub(crate) block: OsString,
    /// Where to
    #[arg(
        value_name = "FILE.npy",
        value_hint = ValueHint::FilePath,
        value_parser = PathBufValueParser::new().try_map(file)
    )]
    pub(crate) file: PathBuf,
    /// Save an array that a program which died or panicked has left half written
    #[arg(short, long)]
    pub(crate) force: bool,
    /// How long to wait where another program is just writing the array
    #[arg(long, value_parser = seconds, value_name = "SECONDS", default_value = "10")]
    pub(crate) timeout: Duration,
}

/// Remove blocks by name
///
/// Programs that have a block attached keep it; the memory is free when the last of them is gone. What a running program
/// owns is left to that program, unless forced; and so is what another program made, Python's say, and somebody has mapped.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ndshm rm climate\n  ndshm rm --force climate wind /dev/shm/psm_1f2e3d4c")]
pub(crate) struct Rm {
    /// Names in /dev/shm
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<OsString>,
    /// Also what a running program owns or has mapped; and names that are not there are no error
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// Remove the blocks that killed programs have left behind
///
/// Only what a program of this crate made and could not remove because it was killed, and only
/// this user's. Blocks that are in use, were kept, or belong to other programs stay. Programs do the
/// same by themselves when they create their first named block.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  ndshm prune --dry-run\n  ndshm prune")]
pub(crate) struct Prune {
    /// Tell what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// For scripts: a JSON array of objects
    #[arg(long)]
    pub(crate) json: bool,
}

/// Run a manager: it owns blocks for the programs that connect to it, until it ends
///
/// Prints the address that programs of this user connect to, and serves until Ctrl-C, SIGTERM, or until a
/// client shuts it down; then all blocks that it owns are removed. Where even the server is killed, the next program's sweep
/// does it.
#[derive(Args, Debug)]
#[command(after_help = SERVE_HELP)]
pub(crate) struct Serve {
    /// A name to connect to, in place of a random address: letters, digits, '.', '_' and '-'
    #[arg(short, long, visible_alias = "address", conflicts_with = "stop")]
    pub(crate) name: Option<String>,
    /// Serve in the background: print the address and return
    #[arg(short, long, conflicts_with = "stop")]
    pub(crate) detach: bool,
    /// End the manager of that name or address
    #[arg(long, value_name = "NAME")]
    pub(crate) stop: Option<String>,
}

const SERVE_HELP: &str = "\
Examples:
  ndshm serve --name climate             until Ctrl-C
  ndshm serve --name climate --detach    and, when it is no longer needed:
  ndshm serve --stop climate

In Rust a program connects with SharedMemoryManager::connect(\"climate\").";

/// Look whether this machine is set up for shared memory, and say what could be changed
///
/// Sizes and fill of /dev/shm, memory and control groups; what the kernel can do, tried where that is possible; huge
/// pages; limits on descriptors; what happens at logout. Nothing is changed.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 1 where something does not work at all.\n\nExamples:\n  ndshm doctor\n  ndshm doctor --json | jq '.[] | select(.level == \"problem\")'"
)]
pub(crate) struct Doctor {
    /// For scripts: a JSON array of objects
    #[arg(long)]
    pub(crate) json: bool,
}

/// Measure what sharing saves on this machine, in under a minute
///
/// Says first what spoils the numbers, as far as it can be seen, then hands arrays to worker processes, makes them and computes
/// on them, beside what one would use instead. Each time is the median of several runs.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ndshm bench\n  ndshm bench --size 512 --chart bench.svg\n  ndshm bench --quick --json"
)]
pub(crate) struct Bench {
    /// Size of the large arrays
    #[arg(long, value_name = "MIB", default_value = "64", value_parser = mebibytes)]
    pub(crate) size: usize,
    /// Fewer runs: a first look in a few seconds
    #[arg(long)]
    pub(crate) quick: bool,
    /// Also draw the times as bars, as SVG; replaces what is there
    #[arg(long, value_name = "FILE.svg", value_hint = ValueHint::FilePath)]
    pub(crate) chart: Option<PathBuf>,
    /// For scripts: a JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// What the process is told that data is sent to
    #[arg(long, hide = true, value_name = "BYTES")]
    pub(crate) receive: Option<usize>,
}

/// Print a script that completes this tool's command line in a shell
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  ndshm completions bash > ~/.local/share/bash-completion/completions/ndshm\n  ndshm completions fish > ~/.config/fish/completions/ndshm.fish"
)]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

impl Completions {
    /// The script.
    pub(crate) fn script(&self) -> Vec<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "ndshm", &mut script);
        script
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
