//! What does an empty call take beside its limits, where both sides spin?

use std::time::Duration;

use ndarray::Ix1;
use ndshm::{Pool, Reserve, SharedArray};

use super::subject::{Group, Subject, Turns};
use crate::common::{Result, variable};
use crate::place::{Place, Placed};
use crate::rival::{Lines, PingPong, Rival, Waiting};

/// None where there are too few processors.
pub(crate) fn calls() -> Result<Option<Group>> {
    if !Place::TwoProcessors.exists()? {
        println!("there are too few processors for calls between two");
        return Ok(None);
    }
    // A millisecond, most of the time.
    let rounds = variable("NDSHM_BENCH_ROUNDS", 300)?;
    let turns = Turns { calls: 2000, warm: 300, rounds, time: Duration::MAX };
    Ok(Some(Group::new("call in turns".to_owned(), turns, subjects)))
}

fn subjects() -> Result<(Vec<Subject>, Placed)> {
    let mut subjects = vec![
        rival("spin ping-pong", PingPong::start(Waiting::Spinning)?)?,
        rival("the same cache lines, nothing else", Lines::start()?)?,
        rival("the same cache lines and an array's locks", Lines::start_with_locks()?)?,
        pool("pool", 0, |pool, _| pool.for_each((), |(), _| ()))?,
    ];
    for (size, bytes) in [("1 MiB", 1 << 20), ("8 GiB", 8 << 30)] {
        subjects
            .push(pool(&format!("pool, reads {size}"), bytes, |pool, array| pool.for_each((&*array,), |(_,), _| ()))?);
        subjects.push(pool(&format!("pool, writes {size}"), bytes, |pool, array| {
            let all = array.len();
            pool.for_each(array.chunks_mut().rows(all), |_, _| ())
        })?);
    }
    Ok((subjects, Place::OneProcessor.put(std::process::id())?))
}

fn rival(name: &str, mut rival: impl Rival + 'static) -> Result<Subject> {
    let pid = rival.pid();
    drop(Place::TwoProcessors.put(pid)?);
    let round_trip = move || {
        rival.round_trip();
        Ok(())
    };
    Subject::new(name, round_trip).beside(pid)
}

/// A pool of one warm worker and an array that it is lent, whose elements nobody touches.
fn pool(name: &str, bytes: usize, call: fn(&Pool, &mut SharedArray<u64, Ix1>) -> ndshm::Result<()>) -> Result<Subject> {
    let mut array = SharedArray::options().reserve(Reserve::Lazily).zeros(bytes / size_of::<u64>())?;
    let pool = Pool::builder().workers(1).build()?;
    drop(Place::TwoProcessors.put_worker(&pool)?);
    Ok(Subject::new(name, move || Ok(call(&pool, &mut array)?)))
}
