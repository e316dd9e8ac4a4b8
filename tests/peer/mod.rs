//! A second process that runs the same test in another role and talks with the first one, line by line.
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// How long the other side may take to say something.
const TIMEOUT: Duration = Duration::from_secs(20);

const ROLE: &str = "NDSHM_TEST_PEER";

/// What is said goes over stderr, whose other lines the test harness and panics write.
const MARK: &str = "peer says: ";

/// The role, and what else it was told, in the process that was started; `None` in the test itself.
pub(crate) fn role() -> Option<(String, String)> {
    let role = std::env::var(ROLE).ok()?;
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    Some((role.to_owned(), argument.to_owned()))
}

/// Says a line to the test, from the other process: in one write, so that it stays whole beside what others write there,
/// and who is killed meanwhile has said all of it or nothing.
pub(crate) fn say(line: &str) {
    std::io::stderr().write_all(format!("{MARK}{line}\n").as_bytes()).unwrap();
}

/// Waits for a line of the test, in the other process, which ends when the test is gone.
pub(crate) fn hear() -> String {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap() == 0 {
        std::process::exit(0);
    }
    line.trim_end().to_owned()
}

/// The other process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<String>,
}

impl Peer {
    /// Runs `test`, the caller given by its path in the file, once more, where [`role`] gives `role` and `argument`.
    pub(crate) fn start(test: &str, role: &str, argument: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(ROLE, format!("{role} {argument}"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, said) = channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let line = match line.split_once(MARK) {
                    Some((_, said)) => said.to_owned(),
                    None => format!("(stderr) {line}"),
                };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, stdin, said }
    }

    /// Waits for the next line that it says.
    #[track_caller]
    pub(crate) fn next(&mut self) -> String {
        let mut printed = String::new();
        loop {
            match self.said.recv_timeout(TIMEOUT) {
                Ok(line) if line.starts_with("(stderr)") => printed = format!("{printed}{line}\n"),
                Ok(line) => return line,
                Err(error) => panic!("the other process said nothing ({error}); it printed:\n{printed}"),
            }
        }
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str) {
        assert_eq!(self.next(), line);
    }

    /// Does it say nothing for that long?
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.said.recv_timeout(time).is_err()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Asks for something and waits for the answer.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.next()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL, at once, and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(nix::libc::SIGKILL));
    }

    /// Kills it with SIGKILL and waits for nothing.
    pub(crate) fn signal_kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// All that it has said and not been heard for, once it has ended: lines of stderr and its own.
    pub(crate) fn all(&mut self) -> String {
        let _ = self.child.wait();
        self.said.iter().map(|line| line + "\n").collect()
    }

    /// Waits for it to end by itself, well.
    #[track_caller]
    pub(crate) fn succeeded(mut self) {
        drop(std::mem::replace(&mut self.said, channel().1));
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the other process ended with {status}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
