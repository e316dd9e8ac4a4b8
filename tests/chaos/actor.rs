//! One process of the zoo, from inside and from outside.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::TEST;
use super::processes::Process;
use super::roles;

const ROLE: &str = "NDSHM_CHAOS_ACTOR";
const KEPT: &str = "kept: ";
/// An actor that does not come round for so long hangs.
const PATIENCE: Duration = Duration::from_secs(25);

static ENDS: AtomicBool = AtomicBool::new(false);
static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// In an actor: plays its role to the end; false in any other process.
pub(crate) fn played() -> bool {
    let Ok(role) = std::env::var(ROLE) else { return false };
    thread::spawn(|| {
        // A line, or the end of who has started this.
        let _ = std::io::stdin().read_line(&mut String::new());
        ENDS.store(true, Ordering::SeqCst);
    });
    let name = role.clone();
    thread::spawn(move || {
        loop {
            let before = ROUNDS.load(Ordering::SeqCst);
            thread::sleep(PATIENCE);
            if ROUNDS.load(Ordering::SeqCst) == before {
                eprintln!("{name} hangs in round {before}");
                std::process::abort();
            }
        }
    });
    roles::play(&role);
    true
}

/// Is the play to go on? Asked once a round.
pub(crate) fn goes_on() -> bool {
    ROUNDS.fetch_add(1, Ordering::SeqCst);
    thread::sleep(Duration::from_micros(300));
    !ENDS.load(Ordering::SeqCst)
}

/// Tells of a block that is to stay: in one write, so that whoever is killed meanwhile has said all of it or nothing.
pub(crate) fn say_kept(name: &str) {
    std::io::stderr().write_all(format!("{KEPT}{name}\n").as_bytes()).unwrap();
}

/// An actor as the director sees it.
#[derive(Debug)]
pub(crate) struct Actor {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    role: String,
    /// It was killed from here.
    pub(crate) doomed: bool,
}

impl Actor {
    pub(crate) fn start(role: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", TEST, "--nocapture", "--test-threads=1"]).env(ROLE, role).env("RUST_BACKTRACE", "0");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&said);
        let reader = Some(thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                hears.lock().unwrap().push(line);
            }
        }));
        Self { child, stdin, said, reader, role: role.to_owned(), doomed: false }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn process(&self) -> Option<Process> {
        Process::read(self.pid())
    }

    /// Asks it to end in peace.
    pub(crate) fn ask_to_end(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            // It may be gone already.
            let _ = stdin.write_all(b"end\n");
        }
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Looks that it was this side that has ended it, or that all went well, and gives what it has kept. Workers that
    /// outlive it hold what it spoke through, so nobody waits for the end of that before they are gone.
    #[track_caller]
    pub(crate) fn judge(&self, status: ExitStatus) {
        let said = self.said.lock().unwrap().join("\n");
        assert!(status.success() || self.doomed, "{} (process {}): {status}:\n{said}", self.role, self.pid());
        assert!(
            !said.contains("panicked") && !said.contains("hangs"),
            "{} (process {}):\n{said}",
            self.role,
            self.pid()
        );
    }

    /// What it has kept, once all that it has started is gone.
    pub(crate) fn kept(&mut self) -> Vec<String> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        let said = self.said.lock().unwrap();
        said.iter().filter_map(|line| line.strip_prefix(KEPT)).map(str::to_owned).collect()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
