//! Several processes want the same lock all the time.
//!
//! Each has a processor of its own, as far as there are enough. A run is one lock by one of them: that many are shared out,
//! and the clock stands when the last has done its part. What they have counted must come to the number of runs.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::RwLock;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

use crate::Access;
use crate::common::processors::spread;
use crate::common::{Group, Result, group, measure};
use crate::locks::{Array, Description, Lock, WholeFile, open};
use crate::mutex::{Counter, Mutex};
use crate::peer::Process;

pub(crate) fn contended(criterion: &mut Criterion, access: Access, contenders: usize) -> Result<()> {
    let name = format!("{} lock, {contenders} contenders", access.name());
    let mut group = group(criterion, &name, Throughput::Elements(1));
    threads(&mut group, access, contenders)?;
    let crowd = |kind, lock: Box<dyn Lock>, address: &str| Crowd::start(kind, access, lock, address, contenders);
    processes(&mut group, "pthread mutex", access, || {
        let counter = Counter::create()?;
        let address = counter.path();
        crowd("mutex", Box::new(Mutex::new(counter)?), &address)
    })?;
    processes(&mut group, "flock", access, || {
        let counter = Counter::create()?;
        let address = counter.path();
        crowd("flock", Box::new(WholeFile::of(counter)?), &address)
    })?;
    processes(&mut group, "kernel's lock", access, || {
        let counter = Counter::create()?;
        let address = counter.path();
        crowd("description", Box::new(Description(counter)), &address)
    })?;
    processes(&mut group, "array", access, || {
        let name = format!("bench-{}", process::id());
        crowd("array", Box::new(Array::options().name(&name).zeros(1)?), &name)
    })?;
    group.finish();
    Ok(())
}

fn threads(group: &mut Group<'_>, access: Access, contenders: usize) -> Result<()> {
    measure(
        group,
        "std RwLock (threads)",
        || Ok(RwLock::new(0)),
        |bencher, lock| {
            let lock: &RwLock<u64> = lock;
            bencher.iter_custom(|iters| {
                let start = Instant::now();
                thread::scope(|scope| {
                    for (index, runs) in shares(iters, contenders).enumerate() {
                        scope.spawn(move || {
                            spread(index).expect("a thread may be where it is");
                            repeat(&mut &*lock, access, runs).expect("no thread panics");
                        });
                    }
                });
                start.elapsed()
            });
        },
    )
}

fn processes(group: &mut Group<'_>, name: &str, access: Access, start: impl FnOnce() -> Result<Crowd>) -> Result<()> {
    measure(group, name, start, |bencher, crowd| {
        bencher.iter_custom(|iters| {
            let before = crowd.counted();
            let took = crowd.run(iters);
            let expected = if access == Access::Write { iters } else { 0 };
            assert_eq!(crowd.counted() - before, expected, "the lock excludes");
            took
        });
    })
}

/// Runs for each contender, which come to `iters`.
fn shares(iters: u64, contenders: usize) -> impl Iterator<Item = u64> {
    let contenders = contenders as u64;
    (0..contenders).map(move |index| (iters + index) / contenders)
}

fn repeat(lock: &mut dyn Lock, access: Access, runs: u64) -> Result<()> {
    for _ in 0..runs {
        lock.once(access)?;
    }
    Ok(())
}

/// Processes that want the same lock.
struct Crowd {
    /// To see what they have counted.
    lock: Box<dyn Lock>,
    contenders: Vec<Contender>,
}

struct Contender {
    requests: UnixStream,
    answers: BufReader<UnixStream>,
    // Last: the process ends when the stream does.
    _process: Process,
}

impl Crowd {
    fn start(kind: &str, access: Access, lock: Box<dyn Lock>, address: &str, contenders: usize) -> Result<Self> {
        let start = |index: usize| {
            let (ours, theirs) = UnixStream::pair()?;
            let process = Process::start(kind, &[access.name(), address, &index.to_string()], |command| {
                command.stdin(OwnedFd::from(theirs));
            })?;
            Ok(Contender { requests: ours.try_clone()?, answers: BufReader::new(ours), _process: process })
        };
        let mut crowd = Self { lock, contenders: (0..contenders).map(start).collect::<Result<_>>()? };
        // So that all of them have the lock open.
        crowd.run(0);
        Ok(crowd)
    }

    fn counted(&mut self) -> u64 {
        self.lock.once(Access::Read).expect("the contenders are at rest")
    }

    fn run(&mut self, iters: u64) -> Duration {
        let shares = shares(iters, self.contenders.len());
        let start = Instant::now();
        for (contender, runs) in self.contenders.iter_mut().zip(shares) {
            writeln!(contender.requests, "{runs}").expect("the contender listens");
        }
        for contender in &mut self.contenders {
            let mut answer = String::new();
            contender.answers.read_line(&mut answer).expect("the contender answers");
            assert_eq!(answer, "done\n", "a contender failed");
        }
        start.elapsed()
    }
}

/// A contender, which is told how often to lock.
pub(crate) fn answer(kind: &str, arguments: &[&str]) -> Result<()> {
    let [access, address, index] = arguments else {
        return Err("a contender is told what to do, with what, and which of them it is".into());
    };
    spread(index.parse()?)?;
    let access = [Access::Read, Access::Write].into_iter().find(|one| one.name() == *access).ok_or("no such access")?;
    let mut lock = open(kind, address)?;
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut answers = stream.try_clone()?;
    for request in BufReader::new(stream).lines() {
        repeat(&mut *lock, access, request?.parse()?)?;
        writeln!(answers, "done")?;
    }
    Ok(())
}
