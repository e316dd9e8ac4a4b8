//! Who is struck when: all of it follows from the seed.

use std::time::Duration;

use super::random::Random;

/// What happens to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    Kill,
    /// Stopped for that long.
    Stop(Duration),
    /// Killed after it has been stopped for that long.
    KillStopped(Duration),
}

/// To whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Actor,
    /// A server or a worker that it has started, or that one before it has left, if there is one.
    Child(usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike {
    pub(crate) after: Duration,
    /// Which of the actors.
    pub(crate) slot: usize,
    pub(crate) victim: Victim,
    pub(crate) blow: Blow,
}

/// How an actor's season ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Peace,
    Kill,
}

#[derive(Debug)]
pub(crate) struct Season {
    pub(crate) blows: Vec<Strike>,
    pub(crate) end: Vec<End>,
}

pub(crate) fn season(seed: u64, season: u64, blows: usize) -> Season {
    let mut random = Random::new(seed ^ (season << 40));
    let slots = super::roles::CAST.len();
    let strike = |random: &mut Random| Strike {
        // Mostly a while, sometimes at once: then it hits who has only begun.
        after: random.pick(&[0, 500, 2_000, 5_000, 10_000, 20_000, 40_000]).max(1) * Duration::from_micros(1),
        slot: usize::try_from(random.below(slots as u64)).unwrap(),
        victim: random.pick(&[Victim::Actor, Victim::Actor, Victim::Child(0), Victim::Child(1)]),
        blow: match random.below(5) {
            0 => Blow::Stop(Duration::from_millis(random.below(50))),
            1 => Blow::KillStopped(Duration::from_millis(random.below(50))),
            _ => Blow::Kill,
        },
    };
    Season {
        blows: (0..blows).map(|_| strike(&mut random)).collect(),
        end: (0..slots).map(|_| random.pick(&[End::Peace, End::Kill])).collect(),
    }
}
