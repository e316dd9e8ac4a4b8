//! A manager that the tool runs serves other programs, and cleans up when it is told to end.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use ndshm::{ErrorKind, SharedMemory, SharedMemoryManager};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Ran, reexec, run, tool};

fn name(label: &str) -> String {
    format!("cli-test-{label}-{}", std::process::id())
}

/// A server, and its address. Killed when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(name: &str) -> Self {
        let mut child = tool().args(["serve", "--name", name]).stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, address: address.trim_end().to_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn signals_end_a_manager_in_order_and_its_blocks_with_it() {
    reexec::mind_signals();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let name = name(signal.as_str());
        let mut server = Server::start(&name);
        let client = SharedMemoryManager::connect(&server.address).unwrap();
        assert_eq!(client.server_pid(), server.child.id());
        let memory = SharedMemoryManager::connect(&name).unwrap().shared_memory(100).unwrap();
        let block = memory.name().unwrap().to_owned();
        let listed = run(&["ls", "--named", &block]).stdout();
        assert!(listed.contains(&format!("ndshm {}", server.child.id())), "its owner is the server: {listed}");
        assert!(run(&["rm", &block]).error().contains("is owned by process "));

        kill(Pid::from_raw(server.child.id().cast_signed()), signal).unwrap();
        assert!(server.child.wait().unwrap().success());
        assert_eq!(SharedMemory::attach(&block).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[test]
fn a_manager_in_the_background_stays_until_it_is_stopped() {
    let name = name("detached");
    let address = run(&["serve", "--detach", "--name", &name]).stdout();
    let client = SharedMemoryManager::connect(address.trim_end()).unwrap();
    let memory = client.shared_memory(100).unwrap();
    let block = memory.name().unwrap().to_owned();
    drop((client, memory));
    assert!(SharedMemory::attach(&block).is_ok());
    assert!(run(&["serve", "--name", &name]).error().contains("already"));
    assert_eq!(run(&["serve", "--stop", &name]).stdout(), "stopped, with 1 block\n");
    assert_eq!(SharedMemory::attach(&block).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(run(&["serve", "--stop", &name]).error().contains(&name));
}

#[test]
fn a_manager_in_the_background_whose_address_cannot_be_told_does_not_stay() {
    // It ran on, known to nobody.
    let name = name("untold");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = tool().args(["serve", "--detach", "--name", &name]).stdout(full).output().unwrap();
    assert!(Ran::new(&output).error().contains("No space left"));
    assert_eq!(SharedMemoryManager::connect(&name).unwrap_err().kind(), ErrorKind::NotFound);
}
