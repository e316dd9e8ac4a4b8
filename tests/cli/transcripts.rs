//! The transcripts, each in a `/dev/shm` of its own that is made ready first.

use ndarray::Array;
use ndshm::{SharedArray, SharedMemory, shareable_list};

use crate::peer::{self, Peer, hear, say};
use crate::{alone, npy, shm};

/// Replays `tests/cli/<name>.trycmd`.
fn replay(name: &str) {
    let cases = trycmd::TestCases::new();
    cases.default_bin_path(env!("CARGO_BIN_EXE_ndshm")).env("TERM", "dumb");
    cases.case(format!("tests/cli/{name}.trycmd")).run();
}

#[test]
fn help() {
    if alone("transcripts::help", 16) {
        replay("help");
    }
}

#[test]
fn ls_and_rm() {
    if !alone("transcripts::ls_and_rm", 64) {
        return;
    }
    let mut climate = SharedArray::<f32, _>::options().name("climate").zeros((12, 180, 360)).unwrap();
    climate.keep();
    let mut stations = shareable_list![1, 2.5, "abc", b"xyz"].unwrap();
    std::fs::rename(shm(stations.shm().name().unwrap()), shm("stations")).unwrap();
    stations.keep();
    // Owned by this process, which lives as long as the transcript.
    let _scratch = SharedMemory::create_named("scratch", 100_000).unwrap();
    std::fs::write(shm("odd\x1b[31mname"), b"anything").unwrap();
    std::fs::write(shm("half"), npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9,), }", b"short")).unwrap();
    std::fs::write(shm("sem.lock"), [0; 32]).unwrap();
    nix::unistd::mkfifo(&shm("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    drop(climate);
    replay("ls");
}

#[test]
fn files_and_blocks() {
    if !alone("transcripts::files_and_blocks", 64) {
        return;
    }
    // A bowl, with a hole in it.
    let depth = Array::from_shape_fn((16, 24), |(i, j)| {
        let (x, y) = ((j as f64 - 11.5) / 12.0, (i as f64 - 7.5) / 8.0);
        if i == 0 && j < 6 { f64::NAN } else { 100.0 * (x * x + y * y) }
    });
    let data: Vec<u8> = depth.iter().flat_map(|value| value.to_le_bytes()).collect();
    let dict = "{'descr': '<f8', 'fortran_order': False, 'shape': (16, 24), }";
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/transcripts");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("depth.npy"), npy(dict, &data)).unwrap();
    std::env::set_current_dir(env!("CARGO_MANIFEST_DIR")).unwrap();
    replay("files");
    let copy = std::fs::read(dir.join("copy.npy")).unwrap();
    assert_eq!(copy[4096..], data);
    let picture = std::fs::read(dir.join("depth.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn prune() {
    let test = "transcripts::prune";
    if let Some((_, names)) = peer::role() {
        let _blocks: Vec<_> = names.split(' ').map(|name| SharedMemory::create_named(name, 5000).unwrap()).collect();
        say("ready");
        hear();
        return;
    }
    if !alone(test, 16) {
        return;
    }
    let mut killed = Peer::start(test, "owner", "wind pressure");
    killed.expect("ready");
    killed.kill();
    replay("prune");
}

#[test]
fn errors() {
    if alone("transcripts::errors", 16) {
        std::fs::write(shm("memory"), [7; 100]).unwrap();
        replay("errors");
    }
}
