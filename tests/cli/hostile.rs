//! What others have put into `/dev/shm` neither crashes the tool nor holds it up nor writes to the terminal.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ndshm::{BlockFile, SharedArray, SharedMemory};

use crate::{Ran, alone, npy, run, shm, tool};

const F8: &str = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000, 100), }";

#[test]
fn pipes_links_and_directories_are_shown_and_not_opened() {
    if !alone("hostile::pipes_links_and_directories_are_shown_and_not_opened", 16) {
        return;
    }
    nix::unistd::mkfifo(&shm("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(shm("directory")).unwrap();
    symlink("/etc/passwd", shm("link")).unwrap();
    let start = Instant::now();
    let listed = run(&["ls"]).stdout();
    for kind in ["fifo", "directory", "symbolic link"] {
        assert!(listed.contains(kind), "{listed}");
    }
    for name in ["fifo", "directory", "link"] {
        assert!(run(&["inspect", name]).error().contains("expected a regular file"));
        assert!(run(&["rm", name]).error().contains("no block"));
        assert!(fs::symlink_metadata(shm(name)).is_ok());
    }
    assert!(start.elapsed() < Duration::from_secs(10), "nothing waited for the other end of a pipe");
}

#[test]
fn names_and_contents_do_not_reach_the_terminal_as_they_are() {
    if !alone("hostile::names_and_contents_do_not_reach_the_terminal_as_they_are", 16) {
        return;
    }
    fs::write(shm("red\x1b[31m\u{202e}\n"), b"x\x1b]0;title\x07").unwrap();
    let list = ndshm::shareable_list!["\x1b[2J"].unwrap();
    let shown = [
        run(&["ls"]).stdout(),
        run(&["ls", "--json"]).stdout(),
        run(&["inspect", "red\x1b[31m\u{202e}\n"]).stdout(),
        run(&["inspect", list.shm().name().unwrap()]).stdout(),
        run(&["inspect", "missing\x1b\n"]).error(),
    ];
    for text in shown {
        assert!(!text.contains(['\x1b', '\x07', '\u{202e}']), "{text:?}");
    }
}

#[test]
fn damaged_blocks_are_told_of() {
    if !alone("hostile::damaged_blocks_are_told_of", 16) {
        return;
    }
    let huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999999999), }";
    let many = [&i64::MAX.to_le_bytes()[..], &[0; 8]].concat();
    let steps = [&1000_i64.to_le_bytes()[..], &vec![0xff; 40_000]].concat();
    let blocks = [
        ("short", npy(F8, b"too short")),
        ("huge", npy(huge, b"")),
        ("objects", npy("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", &[0; 16])),
        ("fields", npy("{'descr': [('x', '<f8')], 'fortran_order': False, 'shape': (2,), }", &[0; 16])),
        ("no-dict", npy("not a dict at all", b"")),
        ("cut", b"\x93NUMPY".to_vec()),
        ("longest", b"\x93NUMPY\x02\0\xff\xff\xff\xff".to_vec()),
        ("many", many),
        ("steps", steps),
        ("empty", Vec::new()),
    ];
    for (name, bytes) in &blocks {
        fs::write(shm(name), bytes).unwrap();
    }
    File::options().write(true).create_new(true).mode(0o600).open(shm("sparse")).unwrap().set_len(1 << 50).unwrap();
    assert_eq!(run(&["ls", "--named"]).stdout().lines().count(), 1 + blocks.len() + 1);
    for name in blocks.iter().map(|(name, _)| *name).chain(["sparse"]) {
        run(&["inspect", name]).stdout();
        run(&["save", name, "/dev/shm/saved.npy"]).error();
    }
    assert!(!shm("saved.npy").exists());
    assert!(run(&["inspect", "huge"]).stdout().contains("no memory can hold"));
    // Whole, and of use to Python.
    for (name, what) in [("objects", "found Python objects"), ("fields", "found elements that have fields")] {
        let seen = run(&["inspect", name]).stdout();
        assert!(seen.contains("kind       unsupported array") && seen.contains(what), "{seen}");
        assert!(run(&["ls", "--named", "--json", name]).stdout().contains("\"kind\": \"unsupported\""));
    }
}

#[test]
fn extreme_elements_have_statistics_and_pictures() {
    if !alone("hostile::extreme_elements_have_statistics_and_pictures", 64) {
        return;
    }
    let all = |value: f64| value.to_le_bytes().repeat(100_000);
    for (name, data) in [
        ("nan", all(f64::NAN)),
        ("infinite", all(f64::INFINITY)),
        ("same", all(-0.0)),
        ("wide", [f64::MAX.to_le_bytes(), f64::MIN.to_le_bytes()].concat().repeat(50_000)),
        ("tiny", [5e-324_f64.to_le_bytes(), 0_f64.to_le_bytes()].concat().repeat(50_000)),
    ] {
        fs::write(shm(name), npy(F8, &data)).unwrap();
        assert!(!run(&["inspect", name]).stdout().is_empty());
        assert!(!run(&["inspect", "--json", name]).stdout().is_empty());
        run(&["inspect", "--png", "/dev/shm/picture.png", name]).stdout();
        fs::remove_file(shm(name)).unwrap();
    }
    let types = [
        "|b1", "|i1", "|u1", ">i2", "<u2", "<i4", ">u4", "<i8", "<u8", "<f2", ">f4", "<c8", ">c16", "<M8[ns]", "|S8",
        "<f16",
    ];
    for descr in types {
        let dict = format!("{{'descr': '{descr}', 'fortran_order': True, 'shape': (3, 5), }}");
        fs::write(shm("type"), npy(&dict, &[0x3c; 16 * 15])).unwrap();
        let countable = !["<M8[ns]", "|S8", "<f16"].contains(&descr);
        assert_eq!(run(&["inspect", "type"]).stdout().contains("histogram"), countable, "{descr}");
        let picture = run(&["inspect", "--png", "/dev/shm/picture.png", "type"]);
        assert_eq!(picture.code, Some(i32::from(!countable)), "{descr}: {picture:?}");
    }
    fs::write(shm("none"), npy("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 3), }", b"")).unwrap();
    assert!(run(&["inspect", "none"]).stdout().contains("array of 0 elements"));
    assert!(run(&["inspect", "--png", "/dev/shm/picture.png", "none"]).error().contains("needs elements"));
}

#[test]
fn a_block_that_is_cut_and_grown_while_it_is_read_is_no_bus_error() {
    if !alone("hostile::a_block_that_is_cut_and_grown_while_it_is_read_is_no_bus_error", 64) {
        return;
    }
    let whole = npy(F8, &1.5_f64.to_le_bytes().repeat(100_000));
    fs::write(shm("cut"), &whole).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(shm("cut")).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.set_len(10_000).unwrap();
                file.set_len(whole.len() as u64).unwrap();
            }
        });
        for _ in 0..20 {
            for args in [
                &["inspect", "cut"][..],
                &["inspect", "--png", "/dev/shm/p.png", "cut"],
                &["save", "cut", "/dev/shm/s"],
                &["ls"],
            ] {
                let ran = run(args);
                assert!(matches!(ran.code, Some(0 | 1)), "{ran:?}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn blocks_that_come_and_go_while_they_are_listed_are_no_error() {
    if !alone("hostile::blocks_that_come_and_go_while_they_are_listed_are_no_error", 64) {
        return;
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let named: Vec<_> = (0..20).map(|_| SharedMemory::create(100).unwrap()).collect();
                let anonymous: Vec<_> = (0..20).map(|_| SharedMemory::anonymous(100).unwrap()).collect();
                drop((named, anonymous));
            }
        });
        for _ in 0..20 {
            run(&["ls"]).stdout();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_writer_is_waited_for_so_long_and_no_longer() {
    if !alone("hostile::a_writer_is_waited_for_so_long_and_no_longer", 16) {
        return;
    }
    let mut array = SharedArray::<f64, _>::options().name("busy").zeros(10).unwrap();
    let guard = array.write().unwrap();
    let me = std::process::id();
    for args in [&["inspect", "busy", "--timeout", "0.05"][..], &["save", "busy", "/dev/shm/x", "--timeout=0"]] {
        let error = run(args).error();
        assert!(error.contains("busy") && error.contains(&format!("written by process {me}")), "{error}");
    }
    drop(guard);
    let poison = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guard = array.write().unwrap();
        panic!("in the middle of a write");
    }));
    assert!(poison.is_err());
    assert!(run(&["ls"]).stdout().contains("<f8 (10,), poisoned"));
    let seen = run(&["inspect", "busy"]).stdout();
    assert!(seen.contains(&format!("poisoned: a write by process {me}")) && seen.contains("'ndshm rm'"), "{seen}");
    assert!(run(&["save", "busy", "/dev/shm/x"]).error().contains("--force"));
    run(&["save", "--force", "busy", "/dev/shm/x"]).stdout();
    assert!(BlockFile::open_named("x").unwrap().array().is_ok());
}

/// It waited for ten seconds without a word.
#[test]
fn who_waits_for_a_writer_is_told_so() {
    if !alone("hostile::who_waits_for_a_writer_is_told_so", 16) {
        return;
    }
    let mut array = SharedArray::<f64, _>::options().name("busy").zeros(10).unwrap();
    let guard = array.write().unwrap();
    let inspect = ["inspect", "busy", "--timeout", "60"];
    let mut waiting = tool().args(inspect).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    BufReader::new(waiting.stderr.as_mut().unwrap()).read_line(&mut told).unwrap();
    let me = std::process::id();
    assert_eq!(told, format!("ndshm: waiting for process {me}, which is writing /dev/shm/busy, for at most 60s\n"));
    drop(guard);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("array of 10 elements"), "{output:?}");
}

#[test]
fn what_others_made_and_have_mapped_is_removed_by_force_alone() {
    if !alone("hostile::what_others_made_and_have_mapped_is_removed_by_force_alone", 16) {
        return;
    }
    let me = std::process::id();
    for name in ["foreign", "left"] {
        fs::write(shm(name), [7; 100]).unwrap();
    }
    let mapped = SharedMemory::attach("foreign").unwrap();
    let error = run(&["rm", "foreign", "left"]).error();
    assert!(error.contains(&format!("foreign is mapped by process {me} (")) && error.contains("--force"), "{error}");
    assert!(shm("foreign").exists() && !shm("left").exists());
    run(&["rm", "--force", "foreign"]).stdout();
    assert!(!shm("foreign").exists());
    drop(mapped);

    // Kept until this very command, so it does not matter who looks at it.
    let mut kept = SharedArray::<u8, _>::options().name("kept").zeros(10).unwrap();
    kept.keep();
    run(&["rm", "kept"]).stdout();
    assert!(!shm("kept").exists());
}

#[test]
fn anonymous_arrays_are_found_through_their_process() {
    if !alone("hostile::anonymous_arrays_are_found_through_their_process", 16) {
        return;
    }
    let array = SharedArray::<u16, _>::from_elem((7, 11), 3).unwrap();
    let listed = run(&["ls"]).stdout();
    let line = listed.lines().find(|line| line.contains("<u2 (7, 11)")).expect("it is listed");
    let path = line.split(' ').next().unwrap();
    assert!(path.starts_with(&format!("/proc/{}/fd/", std::process::id())), "{line}");
    assert!(line.ends_with(&std::process::id().to_string()), "mapped by this process: {line}");
    assert!(run(&["inspect", path]).stdout().contains("mean       3\n"));
    assert_eq!(run(&["ls", "--named"]).stdout(), "no shared memory\n");
    drop(array);
    // This process keeps the memory of arrays for others, until it is told not to.
    ndshm::spare::release();
    assert!(!run(&["ls"]).stdout().contains("<u2 (7, 11)"));
}

#[test]
fn a_picture_of_a_long_line_takes_little_memory() {
    // Eight bytes for each element of a line: 16 GiB for an image of 2 GiB.
    if !alone("hostile::a_picture_of_a_long_line_takes_little_memory", 16) {
        return;
    }
    let columns = 32 << 20;
    let mut line = npy(&format!("{{'descr': '|u1', 'fortran_order': False, 'shape': (1, {columns}), }}"), &[9; 1000]);
    let head = line.len() - 1000;
    line.resize(head + 5000, 0);
    fs::write(shm("line"), &line).unwrap();
    File::options().write(true).open(shm("line")).unwrap().set_len((head + columns) as u64).unwrap();
    let tool = env!("CARGO_BIN_EXE_ndshm");
    let limited = format!("ulimit -v 250000; exec {tool} inspect --png /dev/shm/picture.png line");
    let ran = Ran::new(&std::process::Command::new("sh").args(["-c", &limited]).output().unwrap());
    assert!(ran.stdout().contains("1024 × 1 pixels"));
}
