//! The command line tool, as its users meet it: transcripts, terminals, pipes, and blocks that mean harm.
//!
//! The transcripts beside this file are replayed; `TRYCMD=overwrite cargo test --features cli --test cli` writes them anew.
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

#[path = "../peer/mod.rs"]
mod peer;
#[path = "../reexec/mod.rs"]
mod reexec;

mod bench;
mod doctor;
mod hostile;
mod load;
mod pipes;
mod serve;
mod terminal;
mod transcripts;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The tool.
fn tool() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ndshm"));
    command.stdin(Stdio::null()).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command
}

/// Runs the tool to its end.
fn run(args: &[&str]) -> Ran {
    Ran::new(&tool().args(args).output().unwrap())
}

/// What a run of the tool came to.
#[derive(Debug)]
struct Ran {
    /// `None` where a signal ended it.
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the tool prints UTF-8");
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// All went well, and nothing was complained about.
    #[track_caller]
    fn stdout(self) -> String {
        assert_eq!((self.code, &*self.stderr), (Some(0), ""), "{}", self.stdout);
        self.stdout
    }

    /// It failed with one line on stderr, which is given back.
    #[track_caller]
    fn error(self) -> String {
        assert_eq!((self.code, self.stderr.lines().count()), (Some(1), 1), "{self:?}");
        assert!(self.stderr.starts_with("ndshm: ") && self.stderr.ends_with('\n'), "{self:?}");
        self.stderr
    }
}

/// Runs the test in a process with an empty `/dev/shm` of its own; true in that process.
fn alone(test: &str, megabytes: usize) -> bool {
    if reexec::role().is_some() {
        return true;
    }
    let ran = reexec::with_own_shm(&format!("size={megabytes}m"), test, "alone");
    assert!(ran.is_some() || std::env::var_os("CI").is_none(), "no mount namespaces: these tests cannot run");
    false
}

fn shm(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

/// A `.npy` file of version 1.0.
fn npy(dict: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{dict:117}\n");
    let len = u16::try_from(text.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\0", &len[..], text.as_bytes(), data].concat()
}
