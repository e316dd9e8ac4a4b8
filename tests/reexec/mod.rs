//! Runs one test of this very program again in a child process, in another role.
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]
#![allow(unsafe_code, reason = "what signals do")]

use std::process::{Command, Output};

use nix::sys::signal::{SigHandler, Signal, signal};

const ROLE: &str = "NDSHM_TEST_ROLE";

/// The role that this process was started for; `None` in the test itself.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// From here on this process and those that it starts mind the signals that ask to end. Where tests run under `nohup` or in
/// the background of a script these are ignored, which children inherit.
pub(crate) fn mind_signals() {
    for ends in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM] {
        // SAFETY: what a signal does by default runs no code of this process.
        unsafe { signal(ends, SigHandler::SigDfl) }.unwrap();
    }
}

/// The arguments that run only `test`, beginning with the program.
fn line(test: &str) -> Vec<String> {
    let program = std::env::current_exe().unwrap().into_os_string().into_string().unwrap();
    [program.as_str(), "--exact", test, "--nocapture", "--test-threads=1"].map(String::from).into()
}

/// Runs `test` again as `role`, and the shell script `before` ahead of it in the same process.
pub(crate) fn after(before: &str, test: &str, role: &str) -> Output {
    let script = format!("{before}\nexec \"$@\"");
    Command::new("sh").args(["-ec", &script, "sh"]).args(line(test)).env(ROLE, role).output().unwrap()
}

/// Runs `test` again as `role`, which must succeed; gives what it printed.
pub(crate) fn run(test: &str, role: &str) -> String {
    succeeded(&after("", test, role))
}

/// Runs it with a `/dev/shm` of its own, mounted with `options`; `None` where this user may not mount.
pub(crate) fn with_own_shm(options: &str, test: &str, role: &str) -> Option<String> {
    let mount = format!("mount -t tmpfs -o {options} tmpfs /dev/shm");
    // As an ordinary user, root of a user namespace of one's own may do it, where those are allowed.
    let unshare = ["-m", "-rm"].into_iter().find(|flags| {
        Command::new("unshare").args([flags, "sh", "-c", &mount]).output().is_ok_and(|o| o.status.success())
    });
    let Some(flags) = unshare else {
        println!("skipped: no permission to mount a /dev/shm of one's own");
        return None;
    };
    let script = format!("{mount}; exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args([flags, "sh", "-ec", &script, "sh"]).args(line(test)).env(ROLE, role);
    Some(succeeded(&command.output().unwrap()))
}

pub(crate) fn succeeded(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}:\n{stdout}\n{stderr}", output.status);
    assert!(stdout.contains("1 passed"), "the test did not run again:\n{stdout}");
    stdout
}

/// The names in `/dev/shm`, the ledgers of processes that own some left out.
pub(crate) fn shm_names() -> Vec<String> {
    let mut names = all_shm_names();
    if names.iter().any(|name| !name.starts_with(".ndshm.")) {
        names.retain(|name| !name.starts_with(".ndshm."));
    }
    names
}

/// All names in `/dev/shm`; those of other programs need not be text.
pub(crate) fn all_shm_names() -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
