//! The director: starts actors, strikes them, replaces the dead, and looks that nobody hangs.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::actor::Actor;
use super::processes::{self, Process};
use super::roles::CAST;
use super::schedule::{Blow, End, Strike, Victim};

/// Longer than anything here takes on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug)]
pub(crate) struct Zoo {
    actors: Vec<Actor>,
    /// Those that have ended, of whom something may still be heard.
    past: Vec<Actor>,
    /// Who is to be continued, or killed, and when.
    stopped: Vec<(Instant, Process, Signal)>,
    seed: u64,
    season: usize,
}

impl Zoo {
    pub(crate) fn new(seed: u64, season: usize) -> Self {
        let mut zoo = Self { actors: Vec::new(), past: Vec::new(), stopped: Vec::new(), seed, season };
        zoo.actors = (0..CAST.len()).map(|slot| zoo.cast(slot)).collect();
        zoo
    }

    fn cast(&self, slot: usize) -> Actor {
        Actor::start(&CAST[slot].replace("{}", &format!("chaos-{}-{}", std::process::id(), self.season)))
    }

    fn at(&self) -> String {
        format!("season {} of seed {}", self.season, self.seed)
    }

    /// Waits as long as the strike says, and does it.
    pub(crate) fn strike(&mut self, strike: &Strike) {
        let until = Instant::now() + strike.after;
        while Instant::now() < until {
            self.look_after();
            std::thread::sleep(Duration::from_millis(1).min(strike.after));
        }
        self.look_after();
        let actor = &mut self.actors[strike.slot];
        let Some(own) = actor.process() else { return };
        let victim = match strike.victim {
            Victim::Actor => own,
            Victim::Child(n) => {
                let children = processes::descendants(actor.pid());
                children.get(n).or(children.first()).copied().unwrap_or(own)
            }
        };
        let is_actor = victim.pid == own.pid;
        match strike.blow {
            Blow::Kill => {
                actor.doomed |= is_actor;
                processes::signal(victim, Signal::SIGKILL);
            }
            Blow::Stop(time) | Blow::KillStopped(time) => {
                let then = if strike.blow == Blow::Stop(time) { Signal::SIGCONT } else { Signal::SIGKILL };
                actor.doomed |= is_actor && then == Signal::SIGKILL;
                if processes::signal(victim, Signal::SIGSTOP) {
                    self.stopped.push((Instant::now() + time, victim, then));
                }
            }
        }
    }

    /// Continues and kills whose time has come, and puts others in place of the dead.
    fn look_after(&mut self) {
        let now = Instant::now();
        self.stopped.retain(|&(when, process, signal)| {
            let due = when <= now;
            if due {
                processes::signal(process, signal);
            }
            !due
        });
        for slot in 0..self.actors.len() {
            if let Some(status) = self.actors[slot].ended() {
                self.actors[slot].judge(status);
                let next = self.cast(slot);
                self.past.push(std::mem::replace(&mut self.actors[slot], next));
            }
        }
        let actors: Vec<u32> = self.actors.iter().map(Actor::pid).collect();
        processes::reap(std::process::id(), &actors);
    }

    /// Ends everybody in one way or another, and gives the names of what they have kept.
    pub(crate) fn end(mut self, how: &[End]) -> Vec<String> {
        for (_, process, signal) in std::mem::take(&mut self.stopped) {
            processes::signal(process, signal);
        }
        for (actor, end) in self.actors.iter_mut().zip(how) {
            match end {
                End::Peace => actor.ask_to_end(),
                End::Kill => {
                    actor.doomed = true;
                    if let Some(process) = actor.process() {
                        processes::signal(process, Signal::SIGKILL);
                    }
                }
            }
        }
        let start = Instant::now();
        let mut living: Vec<Actor> = std::mem::take(&mut self.actors);
        let own = std::process::id();
        loop {
            let mut left = Vec::new();
            for mut actor in living {
                match actor.ended() {
                    Some(status) => {
                        actor.judge(status);
                        self.past.push(actor);
                    }
                    None => left.push(actor),
                }
            }
            living = left;
            let pids: Vec<u32> = living.iter().map(Actor::pid).collect();
            processes::reap(own, &pids);
            let processes = processes::descendants(own);
            if living.is_empty() && processes.is_empty() {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{}: {living:?} and processes {processes:?} are left", self.at());
            std::thread::sleep(Duration::from_millis(1));
        }
        self.past.iter_mut().flat_map(Actor::kept).collect()
    }
}
