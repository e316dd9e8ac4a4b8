//! What does an empty call of one warm worker take?
//!
//! The limits are two processes that pass one word of shared memory to and fro, asleep on a futex while it is the other's
//! turn, or spinning. Beside them stand what one would use without shared memory.
//!
//! Two more rows say what of a spinning call cannot be had for less: the cache lines that it moves, and, for a call that
//! writes an array, the locks that it takes. What is above them is instructions of the pool. Who spins looks every 25 ns or so,
//! which is what a pause takes, so that times as short as these come in steps: two runs of a ping-pong may differ by half.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use ndarray::Ix1;
use ndshm::{Pool, Reserve, SharedArray};

use crate::place::{Place, Placed};
use crate::rival::{Channel, Lines, PingPong, Rival, Stream, Waiting};
use crate::{Group, Result, group, measure};

/// What a caller does between two calls: longer than anybody spins, so that the worker is asleep.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Clone, Copy)]
enum Rhythm {
    /// One call after the other, which finds a worker that spins for a while still spinning.
    BackToBack,
    /// Calls of a program that does something else in between.
    Pauses,
}

pub(crate) fn calls(criterion: &mut Criterion) -> Result<()> {
    for (name, place, rhythm) in [
        ("call", Place::Anywhere, Rhythm::BackToBack),
        ("call on one processor", Place::OneProcessor, Rhythm::BackToBack),
        ("call on two processors", Place::TwoProcessors, Rhythm::BackToBack),
        ("call on two processors after a pause", Place::TwoProcessors, Rhythm::Pauses),
    ] {
        if !place.exists()? {
            println!("{name}: there are too few processors");
            continue;
        }
        let mut group = group(criterion, name, Throughput::Elements(1));
        limits(&mut group, place, rhythm)?;
        pools(&mut group, ("pool", None), place, rhythm)?;
        // What sleeps at once, as the ping-pong over a futex does.
        pools(&mut group, ("pool, spin(0)", Some(Duration::ZERO)), place, rhythm)?;
        group.finish();
    }
    Ok(())
}

fn limits(group: &mut Group<'_>, place: Place, rhythm: Rhythm) -> Result<()> {
    rival(group, "futex ping-pong", place, rhythm, || PingPong::start(Waiting::Asleep))?;
    // On one processor, where the scheduler may put both, each would spin until it is taken away; and it never pauses.
    if let (Place::TwoProcessors, Rhythm::BackToBack) = (place, rhythm) {
        rival(group, "spin ping-pong", place, rhythm, || PingPong::start(Waiting::Spinning))?;
        rival(group, "the same cache lines, nothing else", place, rhythm, Lines::start)?;
        rival(group, "the same cache lines and an array's locks", place, rhythm, Lines::start_with_locks)?;
    }
    rival(group, "pipe", place, rhythm, Stream::at_pipes)?;
    rival(group, "socket pair", place, rhythm, Stream::at_socket)?;
    rival(group, "ipc-channel", place, rhythm, Channel::start)
}

fn rival<R: Rival>(
    group: &mut Group<'_>,
    name: &str,
    place: Place,
    rhythm: Rhythm,
    start: impl FnOnce() -> Result<R>,
) -> Result<()> {
    let placed = || {
        let rival = start()?;
        let placed = place.put(rival.pid())?;
        Ok((rival, placed))
    };
    measure_calls(group, name, rhythm, placed, |(rival, _)| rival.round_trip())
}

fn pools(group: &mut Group<'_>, (name, spin): (&str, Option<Duration>), place: Place, rhythm: Rhythm) -> Result<()> {
    let empty = || Lent::new(0, spin, place);
    measure_calls(group, name, rhythm, empty, |Lent { pool, .. }| {
        pool.for_each((), |(), _| ()).expect("the worker answers");
    })?;
    for (size, bytes) in [("1 MiB", 1 << 20), ("8 GiB", 8 << 30)] {
        let made = || Lent::new(bytes, spin, place);
        measure_calls(group, &format!("{name}, reads {size}"), rhythm, made, |Lent { pool, array, .. }| {
            pool.for_each((&*array,), |(_,), _| ()).expect("the worker answers");
        })?;
        measure_calls(group, &format!("{name}, writes {size}"), rhythm, made, |Lent { pool, array, .. }| {
            let all = array.len();
            pool.for_each(array.chunks_mut().rows(all), |_, _| ()).expect("the worker answers");
        })?;
    }
    Ok(())
}

/// One warm worker and an array that it is lent. Nobody touches the elements: what is measured is the lending.
struct Lent {
    pool: Pool,
    array: SharedArray<u64, Ix1>,
    _placed: Placed,
}

impl Lent {
    fn new(bytes: usize, spin: Option<Duration>, place: Place) -> Result<Self> {
        let array = SharedArray::options().reserve(Reserve::Lazily).zeros(bytes / size_of::<u64>())?;
        let builder = Pool::builder().workers(1);
        let pool = spin.map_or(builder.clone(), |spin| builder.spin(spin)).build()?;
        let placed = place.put_worker(&pool)?;
        Ok(Self { pool, array, _placed: placed })
    }
}

fn measure_calls<S>(
    group: &mut Group<'_>,
    name: &str,
    rhythm: Rhythm,
    make: impl FnOnce() -> Result<S>,
    mut call: impl FnMut(&mut S),
) -> Result<()> {
    measure(group, name, make, |bencher, subject| match rhythm {
        Rhythm::BackToBack => bencher.iter(|| call(subject)),
        Rhythm::Pauses => bencher.iter_custom(|iters| between_pauses(iters, || call(subject))),
    })
}

/// The caller's processor is busy in the pauses, as it would be, and does not fall asleep.
fn between_pauses(iters: u64, mut run: impl FnMut()) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..iters {
        let pause = Instant::now();
        while pause.elapsed() < PAUSE {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        run();
        total += start.elapsed();
    }
    total
}
