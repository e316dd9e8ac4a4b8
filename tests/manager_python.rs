//! Python attaches to a manager's blocks while it serves, and takes nothing with it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{BlocksLeft, PythonProcess, python, run_python, unique_name};
use ndshm::{SharedMemoryManager, Value};

ndshm::init_before_main!();

/// Attaches as Python 3.13 does with `track=False`, in older ones too: those register every block that they attach to with a
/// process that removes it when the Python process ends.
const ATTACH: &str = "
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory, ShareableList

def untracked(block):
    shm = getattr(block, 'shm', block)
    resource_tracker.unregister(shm._name, 'shared_memory')
    return block
";

#[test]
fn python_attaches_to_memory_and_lists_and_its_exit_removes_nothing() {
    if python().is_none() {
        return;
    }
    let manager = SharedMemoryManager::start().unwrap();
    let memory = manager.shared_memory(100).unwrap();
    let list = manager.shareable_list([Value::from(1), "two".into(), 3.5.into()]).unwrap();
    let names = [memory.name().unwrap(), list.shm().name().unwrap()];
    let left = BlocksLeft::watch(names);
    memory.write_at(0, b"from rust").unwrap();
    let script = format!(
        "{ATTACH}
memory = untracked(SharedMemory(name=sys.argv[1]))
values = untracked(ShareableList(name=sys.argv[2]))
print(bytes(memory.buf[:9]).decode(), list(values))
memory.buf[:11] = b'from python'
values[0] = 10
values.shm.close()
memory.close()
"
    );
    assert_eq!(run_python(&script, &names), "from rust [1, 'two', 3.5]\n");
    assert_eq!(left.left().len(), 2, "Python's exit removed a block");
    let mut bytes = [0; 11];
    memory.read_at(0, &mut bytes).unwrap();
    assert_eq!((&bytes, list.get(0).unwrap()), (b"from python", Value::Int(10)));
    assert_eq!(manager.list().unwrap().len(), 2);
    drop(manager);
    left.assert_gone();
}

#[test]
fn numpy_opens_a_named_array_and_its_exit_removes_nothing() {
    if python().is_none() {
        return;
    }
    let manager = SharedMemoryManager::start().unwrap();
    let name = unique_name("numpy");
    let left = BlocksLeft::watch([&name]);
    let mut field = manager.options().name(&name).array::<f32, _>((2, 3)).unwrap();
    field.write().unwrap()[[1, 2]] = 1.5;
    let script = "
import sys, numpy as np
field = np.load('/dev/shm/' + sys.argv[1], mmap_mode='r+')
print(field.shape, field.dtype, field[1, 2])
field[0, 0] = -1
";
    assert_eq!(run_python(script, &[&name]), "(2, 3) float32 1.5\n");
    assert_eq!(left.left().len(), 1, "Python's exit removed the array");
    assert_eq!(field.read().unwrap()[[0, 0]], -1.0);
    drop(manager);
    left.assert_gone();
}

#[test]
fn numpy_reaches_an_anonymous_array_through_the_process_that_has_it() {
    if python().is_none() {
        return;
    }
    let manager = SharedMemoryManager::start().unwrap();
    let mut field = manager.array::<i32, _>(4).unwrap();
    field.write().unwrap()[3] = 42;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&field.share_fd().unwrap());
    let path = format!("/proc/{}/fd/{fd}", std::process::id());
    let script = "import sys, numpy as np; print(np.load(sys.argv[1], mmap_mode='r'))";
    assert_eq!(run_python(script, &[&path]), "[ 0  0  0 42]\n");
    assert_eq!(manager.list().unwrap().len(), 1);
}

#[test]
fn a_python_that_is_attached_keeps_its_memory_when_the_manager_ends() {
    if python().is_none() {
        return;
    }
    let manager = SharedMemoryManager::start().unwrap();
    let memory = manager.shared_memory(10).unwrap();
    let name = memory.name().unwrap().to_owned();
    let left = BlocksLeft::watch([&name]);
    let mut python = PythonProcess::start();
    python.run(ATTACH);
    python.run(&format!("memory = untracked(SharedMemory(name={name:?}))"));
    manager.shutdown().unwrap();
    left.assert_gone();
    memory.write_at(0, b"x").unwrap();
    assert_eq!(python.run("bytes(memory.buf[:1])"), "b'x'");
    let again = python.try_run(&format!("SharedMemory(name={name:?})")).unwrap_err();
    assert!(again.contains("FileNotFoundError"), "{again}");
}

#[test]
fn a_python_that_removes_what_it_attached_to_stops_nothing_else() {
    if python().is_none() {
        return;
    }
    let manager = SharedMemoryManager::start().unwrap();
    let [lost, stays] = [(); 2].map(|()| manager.shared_memory(10).unwrap());
    let left = BlocksLeft::watch([lost.name().unwrap(), stays.name().unwrap()]);
    // As its resource tracker does at the end of a Python that attached without `track=False`.
    let script = format!("{ATTACH}\nblock = SharedMemory(name=sys.argv[1])\nblock.unlink()\nblock.close()");
    run_python(&script, &[lost.name().unwrap()]);
    assert_eq!(left.left(), [stays.name().unwrap()]);
    let blocks = manager.list().unwrap();
    assert_eq!(blocks.iter().map(ndshm::ManagedBlock::name).collect::<Vec<_>>(), [stays.name()]);
    manager.shared_memory(10).unwrap();
    assert!(manager.shutdown().unwrap().problems().is_empty());
    left.assert_gone();
}
