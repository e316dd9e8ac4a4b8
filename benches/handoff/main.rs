//! What does it take to give an array to a worker process that reads every byte of it and answers?
//!
//! One group a size and question. The limit is the reading alone, in this process; the rivals are what one would use without
//! this crate. The reader's kernel is the same for all, and all processes are warm: they have run before, and a rival's buffers
//! are in its page table, as the array's pages are in the worker's.
//!
//! | group | what is measured |
//! |---|---|
//! | `handoff of …` | an array that the worker has read before, over and over; and arrays that are made for one message |
//! | `handoff untouched of …` | the handing over alone: the reader takes everything and reads nothing of it |
//! | `first handoff of …` | an array that the worker has never seen, made while the clock stood still |
//!
//! The last two for the smallest and the first of the large sizes.
//!
//! | file | rival |
//! |---|---|
//! | `rival/stream.rs` | pipe, socket pair, TCP on the loopback device |
//! | `rival/pull.rs` | `process_vm_readv` |
//! | `rival/channel.rs` | `ipc-channel`, copying and with its shared memory |
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `NDSHM_BENCH_HANDOFF_MIB` | large sizes | `64,256` |

#[path = "../common/mod.rs"]
mod common;
#[path = "../peer/mod.rs"]
mod peer;
mod reading;
mod rival;
mod shared;

use std::time::Duration;

use criterion::{Bencher, Criterion, Throughput};
use ndshm::HugePages;

use common::{Group, Result, measure, size_name, timed, total, variable};
use reading::{Message, Reading};
use rival::{Channel, Pull, Rival, SharedMemoryChannel, Stream};
use shared::{Anew, Kept};

/// What is smaller has small pages anyhow.
const HUGE_PAGE: usize = 2 << 20;

fn main() -> Result<()> {
    let criterion = Criterion::default()
        .sample_size(20)
        .nresamples(10_000)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    common::run(criterion, rival::answer, |criterion| {
        let small = [4 << 10, 64 << 10, 1 << 20];
        let large = large_sizes()?;
        for &bytes in small.iter().chain(&large) {
            handoff(criterion, bytes)?;
        }
        for &bytes in small.iter().take(1).chain(large.iter().take(1)) {
            untouched(criterion, bytes)?;
            first(criterion, bytes)?;
        }
        Ok(())
    })
}

fn large_sizes() -> Result<Vec<usize>> {
    let mebibytes = variable("NDSHM_BENCH_HANDOFF_MIB", "64,256".to_owned())?;
    let size = |number: &str| match number.trim().parse::<usize>() {
        Ok(mebibytes) => Ok(mebibytes << 20),
        Err(_) => Err(format!("NDSHM_BENCH_HANDOFF_MIB: {number} is no number").into()),
    };
    mebibytes.split(',').map(size).collect()
}

fn group<'c>(criterion: &'c mut Criterion, what: &str, bytes: usize) -> Group<'c> {
    common::group(criterion, &format!("{what} of {}", size_name(bytes)), Throughput::Bytes(bytes as u64))
}

fn handoff(criterion: &mut Criterion, bytes: usize) -> Result<()> {
    let mut group = group(criterion, "handoff", bytes);
    let reading = Reading::All;
    measure(
        &mut group,
        "reading alone",
        || Ok(Message::new(bytes)),
        |bencher, message| {
            bencher.iter(|| assert_eq!(reading.of(message.elements()), message.answer(reading)));
        },
    )?;
    copying(&mut group, bytes, reading, again)?;
    again(&mut group, "ipc-channel, memory made anew", bytes, reading, &|_| SharedMemoryChannel::anew(reading))?;
    again(&mut group, "array made anew", bytes, reading, &|_| Anew::start(reading, None))?;
    if bytes >= HUGE_PAGE {
        again(&mut group, "array made anew, small pages", bytes, reading, &|_| {
            Anew::start(reading, Some(HugePages::Never))
        })?;
    }
    kept(&mut group, bytes, reading, again)?;
    group.finish();
    Ok(())
}

fn untouched(criterion: &mut Criterion, bytes: usize) -> Result<()> {
    let mut group = group(criterion, "handoff untouched", bytes);
    copying(&mut group, bytes, Reading::Nothing, again)?;
    kept(&mut group, bytes, Reading::Nothing, again)?;
    group.finish();
    Ok(())
}

fn first(criterion: &mut Criterion, bytes: usize) -> Result<()> {
    let mut group = group(criterion, "first handoff", bytes);
    copying(&mut group, bytes, Reading::All, once_each)?;
    kept(&mut group, bytes, Reading::All, once_each)?;
    group.finish();
    Ok(())
}

/// How a rival, made by what is given last, is measured.
type Measure = fn(&mut Group<'_>, &str, usize, Reading, &dyn Fn(&Message) -> Result<Box<dyn Rival>>) -> Result<()>;

/// Everything that copies.
fn copying(group: &mut Group<'_>, bytes: usize, reading: Reading, measure: Measure) -> Result<()> {
    measure(group, "pipe", bytes, reading, &|_| Stream::at_pipe(bytes, reading))?;
    measure(group, "pipe of 1 MiB", bytes, reading, &|_| Stream::at_large_pipe(bytes, reading))?;
    measure(group, "pipe, vmsplice", bytes, reading, &|_| Stream::at_spliced_pipe(bytes, reading))?;
    measure(group, "socket pair", bytes, reading, &|_| Stream::at_socket_pair(bytes, reading))?;
    measure(group, "TCP", bytes, reading, &|_| Stream::at_tcp(bytes, reading))?;
    measure(group, "process_vm_readv", bytes, reading, &|_| Pull::start(reading))?;
    measure(group, "ipc-channel", bytes, reading, &|_| Channel::start(reading))
}

/// Memory that is made before it is handed over.
fn kept(group: &mut Group<'_>, bytes: usize, reading: Reading, measure: Measure) -> Result<()> {
    measure(group, "ipc-channel, memory kept", bytes, reading, &|message| SharedMemoryChannel::kept(reading, message))?;
    measure(group, "array", bytes, reading, &|message| Kept::start(reading, None, message))?;
    if bytes >= HUGE_PAGE {
        measure(group, "array, small pages", bytes, reading, &|message| {
            Kept::start(reading, Some(HugePages::Never), message)
        })?;
    }
    Ok(())
}

/// The same message over and over.
fn again(
    group: &mut Group<'_>,
    name: &str,
    bytes: usize,
    reading: Reading,
    start: &dyn Fn(&Message) -> Result<Box<dyn Rival>>,
) -> Result<()> {
    started(group, name, bytes, start, |bencher, (rival, message)| {
        let expected = message.answer(reading);
        bencher.iter(|| assert_eq!(rival.hand_over(message).expect("the other process answers"), expected));
    })
}

/// A new message each time, which is made while the clock stands still.
fn once_each(
    group: &mut Group<'_>,
    name: &str,
    bytes: usize,
    reading: Reading,
    start: &dyn Fn(&Message) -> Result<Box<dyn Rival>>,
) -> Result<()> {
    started(group, name, bytes, start, |bencher, (rival, _)| {
        bencher.iter_custom(|iters| {
            total(iters, || {
                let message = Message::new(bytes);
                rival.prepare(&message).expect("there is room for it");
                let (took, answer) = timed(|| rival.hand_over(&message));
                assert_eq!(answer.expect("the other process answers"), message.answer(reading));
                took
            })
        });
    })
}

/// Measures a rival that has been at work once.
fn started(
    group: &mut Group<'_>,
    name: &str,
    bytes: usize,
    start: &dyn Fn(&Message) -> Result<Box<dyn Rival>>,
    run: impl FnMut(&mut Bencher<'_>, &mut (Box<dyn Rival>, Message)),
) -> Result<()> {
    let made = || {
        let message = Message::new(bytes);
        let mut rival = start(&message)?;
        rival.hand_over(&message)?;
        Ok((rival, message))
    };
    measure(group, name, made, run)
}
