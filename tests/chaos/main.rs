//! Owners of named blocks, managers, their clients, pools with workers and sweepers live together while random ones are
//! killed, stopped and continued: no living block is ever removed, no survivor hangs, and afterwards nothing is left.
//!
//! `NDSHM_CHAOS_ROUNDS` sets how many blows there are, and `NDSHM_CHAOS_SEED` repeats the schedule that a run has printed.
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]
#![expect(unsafe_code, reason = "init_before_main, and what orphans become")]

#[path = "../reexec/mod.rs"]
mod reexec;

mod actor;
mod processes;
mod random;
mod roles;
mod schedule;
mod zoo;

use std::time::{Duration, Instant};

use ndshm::SharedMemory;
use reexec::all_shm_names;
use zoo::Zoo;

ndshm::init_before_main!();

const TEST: &str = "whoever_is_killed_nothing_is_left_and_nothing_that_lives_is_taken";

/// So many blows come in one season; then all ends, and is looked over.
const SEASON: usize = 25;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{variable} is no number: {value}")))
}

#[test]
fn whoever_is_killed_nothing_is_left_and_nothing_that_lives_is_taken() {
    if actor::played() {
        return;
    }
    if reexec::role().is_none() {
        if let Some(shown) = reexec::with_own_shm("size=512m,mode=1777", TEST, "alone") {
            println!("{shown}");
        }
        return;
    }
    let rounds = usize::try_from(number("NDSHM_CHAOS_ROUNDS").unwrap_or(300)).unwrap();
    let seed = number("NDSHM_CHAOS_SEED").unwrap_or_else(random::seed);
    println!("NDSHM_CHAOS_SEED={seed} NDSHM_CHAOS_ROUNDS={rounds}");
    // Every wait below has an end. Should one be missing, the run still says with what seed it hung.
    let limit = Duration::from_secs(120) + Duration::from_millis(500) * u32::try_from(rounds).unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!("not over after {limit:?}");
        std::process::abort();
    });
    processes::adopt_orphans();
    let bystander = SharedMemory::create_named("bystander", 100).unwrap();
    bystander.write_at(0, b"nobody's business").unwrap();
    let own = all_shm_names();

    let start = Instant::now();
    let mut blows = 0;
    for season in 0..rounds.div_ceil(SEASON) {
        let blows_now = SEASON.min(rounds - season * SEASON);
        let plan = schedule::season(seed, season as u64, blows_now);
        let mut zoo = Zoo::new(seed, season);
        for blow in &plan.blows {
            zoo.strike(blow);
        }
        blows += blows_now;
        let kept = zoo.end(&plan.end);

        // The sweep that the design promises. Whoever has died is dead by now, so it leaves nothing over.
        let at = format!("season {season} of seed {seed}");
        let pruned = ndshm::prune().unwrap();
        assert!(pruned.problems().is_empty(), "{at}: {:?}", pruned.problems());
        let mut left = all_shm_names();
        for name in &kept {
            assert!(left.contains(name), "{at}: {name} was kept, and removed by somebody else");
        }
        for name in left.iter().filter(|name| name.starts_with("kept-")) {
            SharedMemory::unlink_name(name).unwrap();
        }
        left.retain(|name| !name.starts_with("kept-"));
        assert_eq!(left, own, "{at}: something was left");
        assert_eq!(processes::sockets("chaos-"), [""; 0], "{at}: a socket was left");
    }
    let mut read = [0; 17];
    SharedMemory::attach("bystander").unwrap().read_at(0, &mut read).unwrap();
    assert_eq!(&read, b"nobody's business");
    println!("{blows} blows in {:.1} s", start.elapsed().as_secs_f64());
}
