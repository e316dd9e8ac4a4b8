//! What a second process pays that attaches to a block which is there already: for the mapping, and for its first pass.
//!
//! The second process keeps the clock itself, so that asking it is no part of what is measured. What it has mapped it
//! takes down again between two runs.
#![expect(unsafe_code, reason = "attaching, where the other side keeps still")]

use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process;
use std::time::Duration;

use criterion::Criterion;
use ndshm::ArrayOptions;

use crate::common::{Result, measure, timed, total};
use crate::peer::Process;
use crate::plain::{Memfd, Reserved};
use crate::{Array, Block, Group, VALUE, small_pages, unique_name};

const KIND: &str = "second";

#[derive(Clone, Copy)]
pub(crate) enum Pass {
    Read,
    Write,
}

/// How a block is made by the first process and mapped by the second one.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    /// What the second process is told.
    how: &'static str,
    small: bool,
}

const WAYS: [Way; 5] = [
    Way { name: "memfd", how: "memfd", small: true },
    Way { name: "memfd, populated", how: "memfd-populated", small: true },
    Way { name: "array", how: "array", small: false },
    Way { name: "array, small pages", how: "array", small: true },
    Way { name: "array, small pages, populated", how: "array-populated", small: true },
];

pub(crate) fn attach(criterion: &mut Criterion, block: Block) -> Result<()> {
    let mut group = block.group(criterion, "attach to");
    for way in WAYS {
        in_second(&mut group, block, way.name, way, |second, run| {
            let took = second.attach(run);
            second.ask("detach");
            took
        })?;
    }
    group.finish();
    Ok(())
}

/// Attaching and the first pass together, whichever of them it is that maps the pages; the limit is a pass over pages
/// that are mapped.
pub(crate) fn first_pass(criterion: &mut Criterion, block: Block, pass: Pass) -> Result<()> {
    let (what, request) = match pass {
        Pass::Read => ("attach to and read", "read"),
        Pass::Write => ("attach to and write", "write"),
    };
    let mut group = block.group(criterion, what);
    in_second(&mut group, block, "again", WAYS[0], |second, run| {
        if !second.attached {
            second.attach(run);
            second.ask(request);
        }
        second.ask(request)
    })?;
    for mut way in WAYS {
        if let (Pass::Read, "array-populated") = (pass, way.how) {
            way.how = "array-populated-read-only";
        }
        in_second(&mut group, block, way.name, way, |second, run| {
            let took = second.attach(run) + second.ask(request);
            second.ask("detach");
            took
        })?;
    }
    group.finish();
    Ok(())
}

fn in_second(
    group: &mut Group<'_>,
    block: Block,
    name: &str,
    way: Way,
    run: impl Fn(&mut Second, &str) -> Duration,
) -> Result<()> {
    let made = || Ok((Made::new(block, way)?, Second::start()?));
    measure(group, name, made, |bencher, (made, second)| {
        bencher.iter_custom(|iters| total(iters, || run(second, &made.request)));
    })
}

/// A block full of values, and how the second process is told to map it.
struct Made {
    _owner: Owner,
    request: String,
}

#[expect(dead_code, reason = "kept until the second process is done")]
enum Owner {
    Memfd(Memfd),
    Array(Box<Array>),
}

impl Made {
    fn new(block: Block, Way { how, small, .. }: Way) -> Result<Self> {
        if how.starts_with("memfd") {
            let mut memory = Memfd::create(block.bytes, Reserved::Nothing)?;
            memory.elements_mut().fill(VALUE);
            let request = format!("{how} /proc/{}/fd/{}", process::id(), memory.file().as_raw_fd());
            return Ok(Self { _owner: Owner::Memfd(memory), request });
        }
        let name = unique_name();
        let options = if small { small_pages() } else { Array::options() };
        let array = options.name(&name).from_elem(block.len(), VALUE)?;
        Ok(Self { _owner: Owner::Array(Box::new(array)), request: format!("{how} {name}") })
    }
}

/// The second process, seen from the first.
struct Second {
    attached: bool,
    requests: UnixStream,
    answers: BufReader<UnixStream>,
    // Last: the process ends when the stream does.
    _process: Process,
}

impl Second {
    fn start() -> Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let process = Process::start(KIND, &[], |command| {
            command.stdin(OwnedFd::from(theirs));
        })?;
        Ok(Self { attached: false, requests: ours.try_clone()?, answers: BufReader::new(ours), _process: process })
    }

    fn attach(&mut self, request: &str) -> Duration {
        let took = self.ask(request);
        self.attached = true;
        took
    }

    /// How long it took the second process to do that.
    fn ask(&mut self, request: &str) -> Duration {
        writeln!(self.requests, "{request}").expect("the second process listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the second process answers");
        let nanoseconds = answer.trim_end().parse().expect("the second process did what it was asked to");
        Duration::from_nanos(nanoseconds)
    }
}

/// The second process.
pub(crate) fn answer(kind: &str, arguments: &[&str]) -> Result<()> {
    if (kind, arguments) != (KIND, &[]) {
        return Err(format!("no peer is called {kind}").into());
    }
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut answers = stream.try_clone()?;
    let mut attached: Option<Attached> = None;
    for request in BufReader::new(stream).lines() {
        let took = match (request?.split(' ').collect::<Vec<_>>().as_slice(), &mut attached) {
            (["detach"], attached) => timed(|| attached.take()).0,
            (["read"], Some(attached)) => timed(|| black_box(attached.sum())).0,
            (["write"], Some(attached)) => timed(|| attached.fill()).0,
            (request, attached) => {
                let (time, made) = timed(|| Attached::new(request));
                *attached = Some(made?);
                time
            }
        };
        writeln!(answers, "{}", took.as_nanos())?;
    }
    Ok(())
}

/// A block that the second process has mapped.
enum Attached {
    Memfd(Memfd),
    Array(Box<Array>),
}

impl Attached {
    fn new(request: &[&str]) -> Result<Self> {
        let populated = || -> ArrayOptions<_, _> { Array::options().populate(true) };
        match request {
            ["memfd", path] => Ok(Attached::Memfd(Memfd::open(Path::new(path), false)?)),
            ["memfd-populated", path] => Ok(Attached::Memfd(Memfd::open(Path::new(path), true)?)),
            // SAFETY: the first process does not touch the block while it waits for an answer.
            ["array", name] => Ok(Attached::array(unsafe { Array::attach(name)? })),
            // SAFETY: as above.
            ["array-populated", name] => Ok(Attached::array(unsafe { populated().attach(name)? })),
            ["array-populated-read-only", name] => {
                // SAFETY: as above.
                Ok(Attached::array(unsafe { populated().attach_read_only(name)? }))
            }
            _ => Err(format!("nothing is done at the request {request:?}").into()),
        }
    }

    fn array(array: Array) -> Self {
        Self::Array(Box::new(array))
    }

    fn sum(&self) -> u64 {
        let sum = |elements: &[u64]| elements.iter().fold(0, |sum: u64, &element| sum.wrapping_add(element));
        match self {
            Attached::Memfd(memory) => sum(memory.elements()),
            Attached::Array(array) => sum(array.read().expect("nobody else has it").as_slice().unwrap_or_default()),
        }
    }

    fn fill(&mut self) {
        match self {
            Attached::Memfd(memory) => memory.elements_mut().fill(VALUE),
            Attached::Array(array) => {
                array.write().expect("nobody else has it").fill(VALUE);
            }
        }
    }
}
