//! What does an empty call take beside its limits, where each has its turn for a millisecond?
//!
//! The two processors of a virtual machine may be close to each other in one second and far apart in the next, and a
//! ping-pong takes five times as long then. What is measured one after the other, as `pool/call.rs` does it, is not measured
//! on the same machine then. Here all take turns, and what is printed is the median over all rounds of the ratio within one.
//!
//! Whose turn it is not is stopped, or asleep: each needs the other processor for itself.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `NDSHM_BENCH_ROUNDS` | how often each has its turn | 300 |

#[path = "common/mod.rs"]
mod common;
#[path = "peer/mod.rs"]
mod peer;
#[path = "pool/place.rs"]
mod place;
#[path = "pool/rival/mod.rs"]
#[allow(dead_code, reason = "not all rivals take turns")]
mod rival;

use std::fmt::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use ndarray::Ix1;
use ndshm::{Pool, Reserve, SharedArray};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::{Result, variable, was_peer};
use place::Place;
use rival::{Lines, PingPong, Rival, Waiting};

/// Calls in one turn, and before it, until both sides are warm.
const CALLS: u32 = 2000;
const WARM: u32 = 300;

/// After a turn: until a worker is asleep.
const PAUSE: Duration = Duration::from_micros(300);

fn main() -> Result<()> {
    if was_peer(rival::answer)? {
        return Ok(());
    }
    if !Place::TwoProcessors.exists()? {
        println!("there are too few processors");
        return Ok(());
    }
    let mut subjects = vec![
        Subject::rival("spin ping-pong", PingPong::start(Waiting::Spinning)?)?,
        Subject::rival("the same cache lines, nothing else", Lines::start()?)?,
        Subject::rival("the same cache lines and an array's locks", Lines::start_with_locks()?)?,
        Subject::pool("pool", 0, |pool, _| pool.for_each((), |(), _| ()))?,
    ];
    for (size, bytes) in [("1 MiB", 1 << 20), ("8 GiB", 8 << 30)] {
        subjects.push(Subject::pool(&format!("pool, reads {size}"), bytes, |pool, array| {
            pool.for_each((&*array,), |(_,), _| ())
        })?);
        subjects.push(Subject::pool(&format!("pool, writes {size}"), bytes, |pool, array| {
            let all = array.len();
            pool.for_each(array.chunks_mut().rows(all), |_, _| ())
        })?);
    }
    let _placed = Place::OneProcessor.put(std::process::id())?;
    // As criterion does: to see that it runs.
    let is_test = std::env::args().any(|argument| argument == "--test");
    for _ in 0..if is_test { 1 } else { variable("NDSHM_BENCH_ROUNDS", 300)? } {
        for subject in &mut subjects {
            subject.take_turn()?;
        }
    }
    show(&subjects);
    if is_test { Ok(()) } else { keep(&subjects) }
}

struct Subject {
    name: String,
    /// A process that spins without end and so has to be stopped.
    peer: Option<Pid>,
    call: Box<dyn FnMut() -> Result<()>>,
    /// Nanoseconds a call, of each turn.
    times: Vec<f64>,
}

impl Subject {
    fn rival(name: &str, mut rival: impl Rival + 'static) -> Result<Self> {
        let peer = Pid::from_raw(rival.pid().cast_signed());
        drop(Place::TwoProcessors.put(rival.pid())?);
        kill(peer, Signal::SIGSTOP)?;
        let call = move || {
            rival.round_trip();
            Ok(())
        };
        Ok(Self { name: name.to_owned(), peer: Some(peer), call: Box::new(call), times: Vec::new() })
    }

    /// A pool of one warm worker and an array that it is lent, whose elements nobody touches.
    fn pool(
        name: &str,
        bytes: usize,
        call: fn(&Pool, &mut SharedArray<u64, Ix1>) -> ndshm::Result<()>,
    ) -> Result<Self> {
        let mut array = SharedArray::options().reserve(Reserve::Lazily).zeros(bytes / size_of::<u64>())?;
        let pool = Pool::builder().workers(1).build()?;
        drop(Place::TwoProcessors.put_worker(&pool)?);
        let call = move || Ok(call(&pool, &mut array)?);
        Ok(Self { name: name.to_owned(), peer: None, call: Box::new(call), times: Vec::new() })
    }

    fn take_turn(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)?;
        for _ in 0..WARM {
            (self.call)()?;
        }
        let start = Instant::now();
        for _ in 0..CALLS {
            (self.call)()?;
        }
        self.times.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
        self.signal(Signal::SIGSTOP)?;
        sleep(PAUSE);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(self.peer.map_or(Ok(()), |peer| kill(peer, signal))?)
    }

    fn ratios_to(&self, limit: &Self) -> Vec<f64> {
        self.times.iter().zip(&limit.times).map(|(ours, theirs)| ours / theirs).collect()
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It is told to end by what comes after.
        let _ = self.signal(Signal::SIGCONT);
    }
}

/// A number that so many tenths of them are not above.
fn quantile(numbers: &[f64], tenths: usize) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) * tenths / 10).copied().unwrap_or(f64::NAN)
}

fn show(subjects: &[Subject]) {
    let [limit, ..] = subjects else { return };
    println!("{:42} {:>9} {:>9}   of a {}, in the same round", "", "median", "fastest", limit.name);
    for subject in subjects {
        let (median, fastest) = (quantile(&subject.times, 5), quantile(&subject.times, 0));
        let [low, middle, high] = [1, 5, 9].map(|tenths| quantile(&subject.ratios_to(limit), tenths));
        println!("{:42} {median:6.1} ns {fastest:6.1} ns   {middle:.2} ({low:.2} to {high:.2})", subject.name);
    }
}

/// Keeps what was measured where `results.py` looks for it.
fn keep(subjects: &[Subject]) -> Result<()> {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    let mut entries = String::new();
    for subject in subjects {
        let [median, fastest] = [5, 0].map(|tenths| quantile(&subject.times, tenths) * 1e-9);
        let comma = if entries.is_empty() { "" } else { ",\n  " };
        write!(entries, "{comma}{:?}: [{at}, {median:e}, {fastest:e}]", subject.name)?;
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target").into());
    std::fs::write(
        Path::new(&target).join("bench-turns-results.json"),
        format!("{{\n \"call in turns\": {{\n  {entries}\n }}\n}}\n"),
    )?;
    Ok(())
}
