//! What the actors do, round after round, and what they see to meanwhile.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ndarray::Ix1;
use ndshm::{Error, ErrorKind, Pool, SharedArray, SharedMemory, SharedMemoryManager};

use super::actor::{goes_on, say_kept};
use super::processes::Process;
use super::random::Random;

/// The cast of a season; `{}` is the name of its managers, which clients know.
pub(crate) const CAST: [&str; 8] =
    ["owner", "owner", "manager {}-a", "manager {}-b", "client {}-a", "client {}-b", "pool", "sweeper"];

pub(crate) fn play(role: &str) {
    let own = Process::read(std::process::id()).unwrap();
    let names = Names { prefix: format!("b-{}-{}", own.pid, own.started), next: 0 };
    let random = Random::new(u64::from(own.pid) ^ own.started);
    match role.split_once(' ') {
        Some(("manager", address)) => manage(address, names),
        Some(("client", address)) => visit(address, random),
        _ if role == "owner" => own_blocks(names, random),
        _ if role == "pool" => call(names),
        _ => sweep(),
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

fn number(name: &str) -> Option<u64> {
    fs::metadata(path(name)).map(|meta| meta.ino()).ok()
}

/// Names that say whose they are: nobody else, before or after, has the same process id and start time.
struct Names {
    prefix: String,
    next: u64,
}

impl Names {
    fn next(&mut self) -> String {
        self.next += 1;
        format!("{}-{}", self.prefix, self.next)
    }
}

/// A block that this process owns, and what is in it.
struct Held {
    memory: SharedMemory,
    number: u64,
    words: String,
}

impl Held {
    fn new(name: &str) -> Result<Self, Error> {
        let memory = SharedMemory::create_named(name, 5000)?;
        let number = number(name).unwrap_or_else(|| panic!("{name} was removed as soon as it was made"));
        let words = format!("{name} of process {}", std::process::id());
        memory.write_at(0, words.as_bytes()).unwrap();
        Ok(Self { memory, number, words })
    }

    fn name(&self) -> &str {
        self.memory.name().unwrap()
    }

    /// It lives, so it is there and is itself.
    fn check(&self) {
        let name = self.name();
        assert_eq!(number(name), Some(self.number), "{name} was removed or replaced");
        let found = SharedMemory::attach(name).unwrap_or_else(|error| panic!("{name} is gone: {error}"));
        let mut read = vec![0; self.words.len()];
        found.read_at(0, &mut read).unwrap();
        assert_eq!(read, self.words.as_bytes(), "{name} holds something else");
    }
}

/// Creates, keeps, unlinks and drops named blocks, some under names that others want as well.
fn own_blocks(mut names: Names, mut random: Random) {
    let mut held: Vec<Held> = Vec::new();
    while goes_on() {
        match random.below(8) {
            0..=2 if held.len() < 8 => held.push(Held::new(&names.next()).unwrap()),
            3 => match Held::new(&format!("shared-{}", random.below(2))) {
                Ok(block) => held.push(block),
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}"),
            },
            4 if random.below(20) == 0 => {
                let mut block = Held::new(&format!("kept-{}", names.next())).unwrap();
                block.memory.keep();
                say_kept(block.name());
            }
            5 | 6 if !held.is_empty() => {
                let mut block = held.swap_remove(usize::try_from(random.below(held.len() as u64)).unwrap());
                let name = block.name().to_owned();
                if random.below(2) == 0 {
                    block.memory.unlink().unwrap();
                }
                let number_before = block.number;
                drop(block);
                assert_ne!(number(&name), Some(number_before), "{name} was left");
            }
            _ => {}
        }
        held.iter().for_each(Held::check);
    }
}

/// Has it ended, because somebody has killed it?
fn is_gone(error: &Error) -> bool {
    error.kind() == ErrorKind::Closed
}

/// Starts managers, makes blocks through them, and ends them in every way.
fn manage(address: &str, mut names: Names) {
    let mut ends = 0;
    while goes_on() {
        let manager = match SharedMemoryManager::builder().name(address).start() {
            Ok(manager) => manager,
            Err(error) => {
                // The last one's server, whose owner was killed, has not ended yet; or this one was killed.
                let expected = [ErrorKind::AlreadyExists, ErrorKind::Closed, ErrorKind::WorkerDied];
                assert!(expected.contains(&error.kind()), "{:?}: {error}", error.kind());
                continue;
            }
        };
        let mut made = Vec::new();
        let gone = lead(&manager, &mut names, &mut made);
        ends += 1;
        if ends % 2 == 0 {
            let ended = manager.shutdown().unwrap_or_else(|error| panic!("{error}"));
            assert!(ended.problems().is_empty(), "{:?}", ended.problems());
            assert!(!gone || ended.server_was_gone(), "its server was gone, and shutdown says it was not");
        } else {
            drop(manager);
        }
        for name in made {
            assert!(number(&name).is_none(), "{name} was left by a manager that has ended");
        }
    }
}

/// Makes blocks through a manager and looks after them; true when its server was killed.
fn lead(manager: &SharedMemoryManager, names: &mut Names, made: &mut Vec<String>) -> bool {
    let mut blocks = Vec::new();
    for round in 0..30 {
        if !goes_on() {
            return false;
        }
        if round % 5 == 0 {
            let name = names.next();
            made.push(name.clone());
            let block = match manager.options().name(&name).shared_memory(3000) {
                Ok(block) => block,
                Err(error) if is_gone(&error) => return true,
                Err(error) => panic!("{:?}: {error}", error.kind()),
            };
            block.write_at(0, name.as_bytes()).unwrap();
            blocks.push((name, block));
        }
        for (name, block) in &blocks {
            let mut read = vec![0; name.len()];
            if let Ok(found) = SharedMemory::attach(name) {
                found.read_at(0, &mut read).unwrap();
            } else {
                // Only where its server is dead has anybody the right to have removed it.
                let error = manager.list().expect_err("a block of a manager that lives was removed");
                assert!(is_gone(&error), "{error}");
                block.read_at(0, &mut read).unwrap();
            }
            assert_eq!(read, name.as_bytes());
        }
        match manager.list() {
            // Clients' blocks are among them.
            Ok(listed) => {
                assert!(blocks.iter().all(|(name, _)| listed.iter().any(|block| block.label() == name)), "{listed:?}");
            }
            Err(error) if is_gone(&error) => return true,
            Err(error) => panic!("{:?}: {error}", error.kind()),
        }
    }
    false
}

/// Is served by whatever manager there is, as long as there is one.
fn visit(address: &str, mut random: Random) {
    let mut label = 0;
    while goes_on() {
        let manager = match SharedMemoryManager::connect(address) {
            Ok(manager) => manager,
            Err(error) => {
                let expected = [ErrorKind::NotFound, ErrorKind::Closed];
                assert!(expected.contains(&error.kind()), "{:?}: {error}", error.kind());
                continue;
            }
        };
        while goes_on() {
            label += 1;
            let label = format!("{}-{label}", std::process::id());
            match be_served(&manager, &label, &mut random) {
                Ok(()) => {}
                Err(error) if is_gone(&error) => break,
                Err(error) => panic!("{:?}: {error}", error.kind()),
            }
        }
    }
}

fn be_served(manager: &SharedMemoryManager, label: &str, random: &mut Random) -> Result<(), Error> {
    let named = random.below(2) == 0;
    if named {
        let block = manager.options().label(label).shared_memory(500)?;
        block.write_at(0, label.as_bytes()).unwrap();
        let mut read = vec![0; label.len()];
        manager.attach_memory(label)?.read_at(0, &mut read).unwrap();
        assert_eq!(read, label.as_bytes());
    } else {
        let fill = |mut view: ndarray::ArrayViewMut1<'_, u64>| -> Result<(), Error> {
            view.fill(7);
            Ok(())
        };
        drop(manager.options().label(label).fill_with(100, fill)?);
        // SAFETY: nobody writes to it any more.
        let array = unsafe { manager.attach_array::<u64, Ix1>(label) }?;
        assert!(array.read().unwrap().iter().all(|&item| item == 7));
    }
    assert!(manager.list()?.iter().any(|block| block.label() == label), "{label} is not listed");
    // What a killed client leaves is the manager's, and ends with it.
    if random.below(4) > 0 {
        manager.remove(label)?;
    }
    Ok(())
}

/// Calls a pool whose workers are killed, on an array with a name.
fn call(mut names: Names) {
    let name = names.next();
    let mut array = SharedArray::<u64, _>::options().name(&name).zeros(64).unwrap();
    let own = number(&name).expect("it was made");
    while goes_on() {
        let pool = match Pool::builder().workers(2).build() {
            Ok(pool) => pool,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
                continue;
            }
        };
        for round in 0..50 {
            if !goes_on() {
                break;
            }
            let calls = pool.call().retries(1);
            match calls.map((array.chunks_mut().rows(8), ndshm::Param(&round)), |(mut rows, round), _| rows.fill(round))
            {
                Ok(done) => {
                    assert_eq!(done.len(), 8);
                    assert!(array.read().unwrap().iter().all(|&item| item == round));
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
                    array.clear_poison().unwrap();
                }
            }
            assert_eq!(number(&name), Some(own), "{name} was removed");
        }
    }
}

/// Sweeps without end, and looks that what it has removed had nobody who lived.
fn sweep() {
    while goes_on() {
        let pruned = ndshm::prune().unwrap();
        assert!(pruned.problems().is_empty(), "{:?}", pruned.problems());
        for block in pruned.blocks() {
            let words: Vec<_> = block.name().trim_start_matches("kept-").split('-').collect();
            if let ["b", pid, started, ..] = words[..] {
                // A manager's blocks are its server's, which may be dead while the one that named them lives.
                if block.owner_pid().map(|owner| owner.to_string()).as_deref() == Some(pid) {
                    wait_for_death(block.name(), pid.parse().unwrap(), started.parse().unwrap());
                }
            }
        }
    }
}

/// A process lets go of its files a moment before it is seen to be dead.
fn wait_for_death(name: &str, pid: u32, started: u64) {
    let end = Instant::now() + Duration::from_secs(10);
    while Process::read(pid).is_some_and(|process| process.started == started && !process.is_dead()) {
        assert!(Instant::now() < end, "{name} was removed, and its owner {pid} lives");
        std::thread::sleep(Duration::from_millis(1));
    }
}
