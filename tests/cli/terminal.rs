//! Colours and progress are for terminals alone.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::pty::openpty;

use crate::{alone, npy, run, shm, tool};

/// Runs the tool with stdout and stderr on a pseudo-terminal, and gives what came there.
fn on_terminal(args: &[&str], no_color: bool) -> String {
    let pty = openpty(None, None).unwrap();
    let mut command = tool();
    command.args(args).env("TERM", "xterm");
    if no_color {
        command.env("NO_COLOR", "1");
    }
    let other: OwnedFd = pty.slave.try_clone().unwrap();
    let mut child = command.stdout(other).stderr(pty.slave).spawn().unwrap();
    // The command has copies of the terminal's other end, and reading ends when all are closed.
    drop(command);
    let mut screen = Vec::new();
    let mut piece = [0; 4096];
    let mut master = File::from(pty.master);
    // EIO: nobody has the terminal any more.
    while let Ok(read @ 1..) = master.read(&mut piece) {
        screen.extend_from_slice(&piece[..read]);
    }
    assert!(child.wait().unwrap().success());
    String::from_utf8(screen).unwrap()
}

#[test]
fn colours_are_for_terminals_and_no_color_is_heeded() {
    if !alone("terminal::colours_are_for_terminals_and_no_color_is_heeded", 16) {
        return;
    }
    std::fs::write(shm("damaged"), npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9,), }", b"")).unwrap();
    let coloured = on_terminal(&["ls"], false);
    assert!(coloured.contains("\x1b[1mNAME\x1b[0m"), "{coloured:?}");
    assert!(coloured.contains("\x1b[31m"), "{coloured:?}");
    assert!(!on_terminal(&["ls"], true).contains('\x1b'));
    assert!(!run(&["ls"]).stdout().contains('\x1b'));
    assert!(!run(&["doctor"]).stdout.contains('\x1b'));
}

#[test]
fn a_large_file_is_loaded_with_a_bar_on_a_terminal_alone() {
    if !alone("terminal::a_large_file_is_loaded_with_a_bar_on_a_terminal_alone", 256) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.npy");
    let len = 96 << 20;
    let header = npy(&format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({len},), }}"), b"");
    let mut file = File::create(&path).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(len + header.len() as u64).unwrap();
    let path = path.to_str().unwrap();

    let screen = on_terminal(&["load", path, "--name", "shown"], false);
    assert!(screen.contains("loading [") && screen.contains("96.00 MiB"), "{screen:?}");
    // Taken away again: what stays is the result.
    assert!(screen.trim_end().ends_with("shown: |u1 (100663296,), 96.0 MiB"), "{screen:?}");
    let told = run(&["load", path, "--name", "silent"]).stdout();
    assert_eq!(told, "silent: |u1 (100663296,), 96.0 MiB\n");
}
