//! Those that take turns.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::Result;
use crate::place::Placed;

/// After a turn: until a worker is asleep.
const PAUSE: Duration = Duration::from_micros(300);

/// What one turn consists of, and how many there are.
#[derive(Clone, Copy)]
pub(crate) struct Turns {
    /// Calls in one turn, and before it, until both sides are warm.
    pub(crate) calls: u32,
    pub(crate) warm: u32,
    /// At most so many rounds; no more begin after the time, but for the first five.
    pub(crate) rounds: u32,
    pub(crate) time: Duration,
}

/// Subjects that take turns; the first one is the limit of all. Made only when they are measured.
pub(crate) struct Group {
    name: String,
    turns: Turns,
    make: Box<dyn FnOnce() -> Result<(Vec<Subject>, Placed)>>,
}

/// Seconds a call, of each turn.
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) times: Vec<(String, Vec<f64>)>,
}

impl Group {
    /// What is made has this thread where the subjects have to be called from.
    pub(crate) fn new(
        name: String,
        turns: Turns,
        make: impl FnOnce() -> Result<(Vec<Subject>, Placed)> + 'static,
    ) -> Self {
        Self { name, turns, make: Box::new(make) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Measures all of them, and prints what came of it; one round for a test.
    pub(crate) fn measure(self, is_test: bool) -> Result<Measured> {
        let Self { name, turns, make } = self;
        let (mut subjects, _placed) = make()?;
        let start = Instant::now();
        for round in 0..if is_test { 1 } else { turns.rounds } {
            if round >= 5 && start.elapsed() > turns.time {
                break;
            }
            for subject in &mut subjects {
                subject.take_turn(turns)?;
            }
        }
        let times = subjects.into_iter().map(|mut subject| (subject.name.clone(), std::mem::take(&mut subject.times)));
        let measured = Measured { name, times: times.collect() };
        measured.show();
        Ok(measured)
    }
}

impl Measured {
    fn show(&self) {
        let [(limit, limits), ..] = &self.times[..] else { return };
        println!("\n{}, {} rounds", self.name, limits.len());
        println!("{:42} {:>9} {:>9}   of {limit}, in the same round", "", "median", "fastest");
        for (name, times) in &self.times {
            let ratios: Vec<_> = times.iter().zip(limits).map(|(ours, theirs)| ours / theirs).collect();
            let [median, fastest] = [5, 0].map(|tenths| shown(quantile(times, tenths)));
            let [low, middle, high] = [1, 5, 9].map(|tenths| quantile(&ratios, tenths));
            println!("{name:42} {median:>9} {fastest:>9}   {middle:.2} ({low:.2} to {high:.2})");
        }
    }
}

fn shown(seconds: f64) -> String {
    if seconds < 1e-6 { format!("{:.1} ns", seconds * 1e9) } else { format!("{:.2} ms", seconds * 1e3) }
}

pub(crate) struct Subject {
    name: String,
    /// A process that spins without end and so has to be stopped.
    peer: Option<Pid>,
    call: Box<dyn FnMut() -> Result<()>>,
    /// Seconds a call, of each turn.
    times: Vec<f64>,
}

impl Subject {
    pub(crate) fn new(name: &str, call: impl FnMut() -> Result<()> + 'static) -> Self {
        Self { name: name.to_owned(), peer: None, call: Box::new(call), times: Vec::new() }
    }

    /// With a process that spins without end.
    pub(crate) fn beside(mut self, peer: u32) -> Result<Self> {
        self.peer = Some(Pid::from_raw(peer.cast_signed()));
        self.signal(Signal::SIGSTOP)?;
        Ok(self)
    }

    fn take_turn(&mut self, turns: Turns) -> Result<()> {
        self.signal(Signal::SIGCONT)?;
        for _ in 0..turns.warm {
            (self.call)()?;
        }
        let start = Instant::now();
        for _ in 0..turns.calls {
            (self.call)()?;
        }
        self.times.push(start.elapsed().as_secs_f64() / f64::from(turns.calls));
        self.signal(Signal::SIGSTOP)?;
        sleep(PAUSE);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(self.peer.map_or(Ok(()), |peer| kill(peer, signal))?)
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It is told to end by what comes after.
        let _ = self.signal(Signal::SIGCONT);
    }
}

/// A number that so many tenths of them are not above.
pub(crate) fn quantile(numbers: &[f64], tenths: usize) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) * tenths / 10).copied().unwrap_or(f64::NAN)
}
