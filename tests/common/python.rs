//! A CPython with NumPy, made once for all tests.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::process::wait_until;

/// How long a script or an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Changes when environments made earlier must be made anew.
const RECIPE: &str = "numpy 1\n";

/// The interpreter of the virtual environment `target/python`, which the first caller makes; `None` where there is no
/// `python3`, except in CI, where that is a failure.
pub(crate) fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| prepare(&target_dir().join("python")));
    if python.is_none() {
        assert!(std::env::var_os("CI").is_none(), "no python3: the tests with Python cannot run");
        println!("no python3: the tests with Python were skipped");
    }
    python.as_deref()
}

/// Runs a script, which finds `args` in `sys.argv[1:]`, and returns what it printed; panics with its stderr if it fails
/// or does not end in time.
#[track_caller]
pub(crate) fn run_python(code: &str, args: &[&str]) -> String {
    let output = output_within(TIMEOUT, command().arg("-c").arg(code).args(args));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the script ended with {}:\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("the script prints UTF-8")
}

/// A Python that lives on between the pieces of source it is given and keeps their variables; killed when dropped.
#[derive(Debug)]
pub(crate) struct PythonProcess {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<Answer>,
}

/// The `repr` of a value, or a traceback.
type Answer = Result<String, String>;

impl PythonProcess {
    pub(crate) fn start() -> Self {
        let mut command = command();
        command.arg("-c").arg(include_str!("evaluate.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python starts");
        let requests = child.stdin.take().expect("stdin is a pipe");
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let (sender, answers) = channel();
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            // Ends with the process: whoever waits for an answer then sees the channel closed.
            while let Some(answer) = read_answer(&mut stdout) {
                if sender.send(answer).is_err() {
                    break;
                }
            }
        });
        Self { child, requests, answers }
    }

    /// Runs statements, or evaluates an expression to its `repr`; panics with the traceback if that raises.
    #[track_caller]
    pub(crate) fn run(&mut self, source: &str) -> String {
        match self.try_run(source) {
            Ok(value) => value,
            Err(traceback) => panic!("python raised on {source:?}:\n{traceback}"),
        }
    }

    /// The same, with the traceback as the error.
    #[track_caller]
    pub(crate) fn try_run(&mut self, source: &str) -> Answer {
        self.begin(source);
        self.finish()
    }

    /// Evaluates an expression whose `repr` is a number.
    #[track_caller]
    pub(crate) fn number<T: FromStr>(&mut self, expression: &str) -> T {
        let value = self.run(expression);
        value.parse().unwrap_or_else(|_| panic!("{expression:?} is {value}, expected a number of that type"))
    }

    /// Hands over source without waiting for its answer, for what is to go on meanwhile; [`finish`](Self::finish)
    /// takes the answer.
    #[track_caller]
    pub(crate) fn begin(&mut self, source: &str) {
        let request = format!("{}\n{source}", source.len());
        self.requests.write_all(request.as_bytes()).expect("python is alive");
    }

    #[track_caller]
    pub(crate) fn finish(&mut self) -> Answer {
        match self.answers.recv_timeout(TIMEOUT) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => panic!("python did not answer within {TIMEOUT:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("python ended with {:?}", self.child.wait()),
        }
    }

    /// Whether the source that [`begin`](Self::begin) was given has not finished within that time.
    pub(crate) fn is_busy_after(&mut self, time: Duration) -> bool {
        match self.answers.recv_timeout(time) {
            Ok(answer) => panic!("python answered {answer:?}, expected none yet"),
            Err(error) => error == RecvTimeoutError::Timeout,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, as a crash would, and waits for its end.
    pub(crate) fn kill(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for PythonProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn read_answer(stdout: &mut BufReader<ChildStdout>) -> Option<Answer> {
    let mut line = String::new();
    stdout.read_line(&mut line).ok()?;
    let (status, len) = line.trim_end().split_once(' ')?;
    let mut text = vec![0; len.parse().ok()?];
    stdout.read_exact(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Some(if status == "ok" { Ok(text) } else { Err(text) })
}

/// Isolated from the variables and packages of whoever runs the tests.
fn command() -> Command {
    let python = python().expect("python3 is there: the test asks python() first");
    let mut command = Command::new(python);
    command.args(["-I", "-B", "-u"]);
    command
}

/// The output of a process that is killed when it takes longer.
#[track_caller]
fn output_within(timeout: Duration, command: &mut Command) -> Output {
    let start = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python starts");
    let stdout = read_in_background(child.stdout.take().expect("stdout is a pipe"));
    let stderr = read_in_background(child.stderr.take().expect("stderr is a pipe"));
    let mut status = None;
    let ended = wait_until(timeout, || {
        status = child.try_wait().expect("it is our child");
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    // A process that it left behind may still hold the pipes: wait for them, but not for ever.
    let left = timeout.saturating_sub(start.elapsed()).max(Duration::from_secs(1));
    let stdout = stdout.recv_timeout(left).unwrap_or_default();
    let stderr = stderr.recv_timeout(left).unwrap_or_default();
    let Some(status) = status else {
        panic!("the script did not end within {timeout:?}:\n{}", String::from_utf8_lossy(&stderr));
    };
    Output { status, stdout, stderr }
}

fn read_in_background(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        sender.send(bytes)
    });
    receiver
}

fn target_dir() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory")
}

/// Makes the environment unless a stamp says that it is whole. Other test processes wait meanwhile.
fn prepare(environment: &Path) -> Option<PathBuf> {
    let python = environment.join("bin/python");
    let stamp = environment.join("ready");
    let is_ready = || fs::read_to_string(&stamp).is_ok_and(|recipe| recipe == RECIPE) && python.exists();
    if is_ready() {
        return Some(python);
    }
    let lock = fs::File::create(environment.with_extension("lock")).expect("the target directory can be written");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("the file can be locked");
    if !is_ready() {
        match Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            made => check("python3 -m venv", made),
        }
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "10", "numpy"]);
        // What a package index refuses once it gives a while later; pip itself asks again only where a connection fails.
        let mut installed = pip.output();
        for pause in [2, 5, 10, 20] {
            if installed.as_ref().is_ok_and(|output| output.status.success()) {
                break;
            }
            thread::sleep(Duration::from_secs(pause));
            installed = pip.output();
        }
        check("pip install numpy", installed);
        fs::write(&stamp, RECIPE).expect("the environment can be written");
    }
    Some(python)
}

fn check(what: &str, ran: std::io::Result<Output>) {
    let output = ran.unwrap_or_else(|error| panic!("{what} did not start: {error}"));
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{what} failed with {}:\n{}", output.status, String::from_utf8_lossy(&text));
}
