//! A file that was loaded is there for programs that come later; one that was not loaded whole is not there at all.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use ndarray::Ix2;
use ndshm::{SharedArray, SharedMemory};
use nix::sys::statvfs::statvfs;

use crate::peer::{self, Peer, hear, say};
use crate::{alone, npy, run, shm, tool};

#[test]
#[allow(unsafe_code, reason = "attaching is")]
fn a_second_program_attaches_to_what_was_loaded() {
    let test = "load::a_second_program_attaches_to_what_was_loaded";
    if let Some((_, name)) = peer::role() {
        let mut fastest = Duration::MAX;
        for _ in 0..20 {
            let start = Instant::now();
            // SAFETY: nobody writes it.
            let array = unsafe { SharedArray::<f32, Ix2>::attach(&name).unwrap() };
            fastest = fastest.min(start.elapsed());
            assert_eq!(array.read().unwrap()[[999, 999]], 2.5);
        }
        println!("attached in {fastest:?}");
        assert!(fastest < Duration::from_millis(1), "{fastest:?}");
        say("attached");
        hear();
        return;
    }
    if !alone(test, 64) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("field.npy");
    let data: Vec<u8> = std::iter::repeat_n(2.5_f32.to_le_bytes(), 1_000_000).flatten().collect();
    fs::write(&path, npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000, 1000), }", &data)).unwrap();
    assert_eq!(
        run(&["load", path.to_str().unwrap(), "-n", "field", "-m", "640"]).stdout(),
        "field: <f4 (1000, 1000), 3.81 MiB\n"
    );
    // A program that makes a block, and so sweeps, leaves it alone.
    drop(SharedMemory::create(10).unwrap());
    Peer::start(test, "reader", "field").expect("attached");
    assert!(run(&["ls"]).stdout().lines().any(|line| line.starts_with("field ") && line.contains("kept")));
    run(&["rm", "field"]).stdout();
    assert!(!shm("field").exists());
}

#[test]
fn a_load_that_is_killed_leaves_nothing_or_all_of_it() {
    if !alone("load::a_load_that_is_killed_leaves_nothing_or_all_of_it", 256) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.npy");
    let len: u64 = 128 << 20;
    let header = npy(&format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({len},), }}"), b"");
    let mut file = File::create(&path).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(len + header.len() as u64).unwrap();
    let mut midway = 0;
    for _ in 0..10 {
        let mut child = tool().arg("load").arg(&path).stdout(std::process::Stdio::null()).spawn().unwrap();
        // Some of it has been written by now, or all.
        while child.try_wait().unwrap().is_none() {
            let stat = statvfs("/dev/shm").unwrap();
            if (stat.blocks() - stat.blocks_free()) * stat.fragment_size() > 8 << 20 {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        match fs::metadata(shm("large")) {
            Ok(metadata) => assert_eq!(metadata.len(), len + 4096 + 64),
            Err(_) => midway += 1,
        }
        let _ = fs::remove_file(shm("large"));
        ndshm::prune().unwrap();
        assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 0);
    }
    assert!(midway > 0, "none was killed midway");
}

#[test]
fn a_save_that_is_killed_leaves_nothing_or_all_of_it() {
    if !alone("load::a_save_that_is_killed_leaves_nothing_or_all_of_it", 256) {
        return;
    }
    let len = 96 << 20;
    let _array = SharedArray::<u8, _>::options().name("large").zeros(len).unwrap();
    // On the same file system, where it can be seen how far it is.
    let dir = shm("saved");
    fs::create_dir(&dir).unwrap();
    let used = || {
        let stat = statvfs("/dev/shm").unwrap();
        (stat.blocks() - stat.blocks_free()) * stat.fragment_size()
    };
    let before = used();
    let mut midway = 0;
    for _ in 0..10 {
        let file = dir.join("copy.npy");
        let mut child = tool().args(["save", "large"]).arg(&file).stdout(std::process::Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && used() < before + (8 << 20) {}
        child.kill().unwrap();
        child.wait().unwrap();
        match fs::metadata(&file) {
            Ok(metadata) => assert_eq!(metadata.len(), len as u64 + 4096),
            Err(_) => midway += 1,
        }
        let _ = fs::remove_file(&file);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }
    assert!(midway > 0, "none was killed midway");
}

#[test]
fn what_does_not_fit_is_said_before_anything_is_taken() {
    if !alone("load::what_does_not_fit_is_said_before_anything_is_taken", 8) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.npy");
    let data = vec![0; 9 << 20];
    fs::write(&path, npy("{'descr': '|u1', 'fortran_order': False, 'shape': (9437184,), }", &data)).unwrap();
    let error = run(&["load", path.to_str().unwrap()]).error();
    assert!(error.contains("no room for 9") && error.contains("--shm-size"), "{error}");
    assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 0);
}
