//! What does it take to give an array to a warm worker process that reads every byte of it and answers?
//!
//! One group a size, in which a pipe and a socket pair are the limits that the shared array is held against: the same
//! bytes, from the same memory, to another process that adds them up. All three processes are warm: they have run before,
//! and the array's pages are in the worker's page table, as a rival's buffer is in its.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};
use ndarray::Ix1;
use ndshm::{Pool, SharedArray};
use nix::fcntl::{FcntlArg, fcntl};

/// The first argument of the process at the other end of a pipe or a socket.
const RECEIVE: &str = "--receive";
const PIPE: &str = "pipe";
const SOCKET: &str = "socket";

/// How much a rival reads at a time, at most: what stays in a processor's own cache. Divides every larger size.
const BUFFER: usize = 256 << 10;
/// The largest pipe that an ordinary user may have by default, in place of the usual 64 KiB.
const PIPE_CAPACITY: i32 = 1 << 20;

const SIZES: [(&str, usize); 6] = [
    ("4 KiB", 4 << 10),
    ("64 KiB", 64 << 10),
    ("1 MiB", 1 << 20),
    ("16 MiB", 16 << 20),
    ("64 MiB", 64 << 20),
    ("256 MiB", 256 << 20),
];

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    ndshm::init();
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(RECEIVE) {
        return receive(&arguments.collect::<Vec<_>>());
    }
    let mut criterion = Criterion::default()
        // Drawing takes longer than measuring.
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for (name, bytes) in SIZES {
        handoff(&mut criterion, name, bytes)?;
    }
    criterion.final_summary();
    Ok(())
}

fn handoff(criterion: &mut Criterion, name: &str, bytes: usize) -> Result<()> {
    let array = SharedArray::<u64, Ix1>::from_shape_fn(bytes / size_of::<u64>(), |i| i as u64)?;
    let mut group = criterion.benchmark_group(format!("handoff of {name}"));
    // The same number of runs in each sample: the large ones take long enough.
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(bytes as u64));

    let elements = array.read()?;
    let message = elements.as_slice().unwrap_or_default();
    let expected = sum(message);
    for (name, mut rival) in [("pipe", Rival::at_pipe(bytes)?), ("socket pair", Rival::at_socket(bytes)?)] {
        let mut hand_over = || rival.hand_over(message).expect("the other process answers");
        assert_eq!(hand_over(), expected);
        group.bench_function(name, |bencher| bencher.iter(|| assert_eq!(hand_over(), expected)));
        rival.finish()?;
    }
    drop(elements);

    let pool = Pool::builder().workers(1).build()?;
    let hand_over = || {
        let sums = pool.map((&array,), |(elements,), _| elements.as_slice().map_or(0, sum));
        sums.expect("the worker answers")
    };
    assert_eq!(hand_over(), [expected]);
    group.bench_function("shared array", |bencher| bencher.iter(|| assert_eq!(hand_over(), [expected])));
    group.finish();
    Ok(())
}

fn sum(elements: &[u64]) -> u64 {
    elements.iter().fold(0, |sum, &element| sum.wrapping_add(element))
}

/// A process that is sent arrays as bytes.
struct Rival {
    child: Child,
    to: Box<dyn Write>,
    from: Box<dyn Read>,
}

impl Rival {
    fn at_pipe(bytes: usize) -> Result<Self> {
        let (theirs, ours) = io::pipe()?;
        // Where the system allows less it stays as it is.
        let _ = fcntl(ours.as_fd(), FcntlArg::F_SETPIPE_SZ(PIPE_CAPACITY));
        let mut child = Self::command(PIPE, bytes).stdin(theirs).stdout(Stdio::piped()).spawn()?;
        let answers = child.stdout.take().ok_or("a child without the pipe that it was given")?;
        Ok(Self { child, to: Box::new(ours), from: Box::new(answers) })
    }

    fn at_socket(bytes: usize) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Self::command(SOCKET, bytes).stdin(OwnedFd::from(theirs)).spawn()?;
        Ok(Self { child, to: Box::new(ours.try_clone()?), from: Box::new(ours) })
    }

    /// The other process knows how many bytes a message has, so that these are all that it is sent.
    fn command(how: &str, bytes: usize) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.args([RECEIVE, how, &bytes.to_string()]);
        command
    }

    /// Sends `message` and returns what the other side made of it.
    fn hand_over(&mut self, message: &[u64]) -> io::Result<u64> {
        let bytes: &[u8] = bytemuck::cast_slice(message);
        self.to.write_all(bytes)?;
        let mut answer = [0; 8];
        self.from.read_exact(&mut answer)?;
        Ok(u64::from_ne_bytes(answer))
    }

    /// The other side ends when the stream does.
    fn finish(mut self) -> Result<()> {
        drop((self.to, self.from));
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the process at the other end: {status}").into()) }
    }
}

/// The other side: answers every message with the sum of its elements.
fn receive(arguments: &[String]) -> Result<()> {
    let [how, bytes] = arguments else { return Err(format!("{RECEIVE} is for the benchmark's own use").into()) };
    let bytes: usize = bytes.parse()?;
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = match how.as_str() {
        SOCKET => input.try_clone()?,
        _ => File::from(io::stdout().as_fd().try_clone_to_owned()?),
    };
    let mut buffer = vec![0_u64; bytes.min(BUFFER) / size_of::<u64>()];
    loop {
        let mut total = 0_u64;
        for _ in 0..bytes.div_ceil(BUFFER) {
            match input.read_exact(bytemuck::cast_slice_mut(&mut buffer)) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            total = total.wrapping_add(sum(&buffer));
        }
        output.write_all(&total.to_ne_bytes())?;
    }
}
