//! Who reads the output may close it early.

use std::process::Stdio;

use crate::{Ran, run, tool};

#[test]
fn a_closed_pipe_is_no_error() {
    for args in [&["ls"][..], &["ls", "--json"], &["--help"], &["doctor"], &["completions", "bash"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output =
            tool().args(args).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let ran = Ran::new(&output);
        assert_eq!((ran.code, &*ran.stderr), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = tool().arg("ls").stdout(full).output().unwrap();
    assert!(Ran::new(&output).error().contains("No space left"));
}

#[test]
fn completions_are_scripts_that_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).stdout();
        assert!(script.contains("ndshm") && script.contains("inspect") && script.contains("dry-run"), "{shell}");
    }
}
