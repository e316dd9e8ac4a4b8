//! Programs that can start copies of themselves as workers, and those that cannot: a clear error, no jump to where no task
//! is, and `main` never runs twice.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![expect(unsafe_code, reason = "dlopen, and init_before_main")]

mod workers;

use std::ffi::{CStr, CString, c_void};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;

use ndshm::{ErrorKind, Pool, SharedArray};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use workers::assert_whole;

ndshm::init_before_main!();

/// One of the programs in `tests/fixtures`, which cargo builds as examples along with all tests.
fn fixture(file: &str) -> PathBuf {
    static BUILT: Once = Once::new();
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let path = profile.join("examples").join(file);
    let modified = |path: &Path| fs::metadata(path).and_then(|file| file.modified());
    BUILT.call_once(|| {
        // Where only this test was built, they are missing or old.
        if modified(&path).is_err() || modified(&path).unwrap() < modified(&test).unwrap() {
            build_fixtures(profile);
        }
    });
    path
}

fn build_fixtures(profile: &Path) {
    let name = match profile.file_name().and_then(|name| name.to_str()).unwrap() {
        "debug" => "dev",
        other => other,
    };
    let features: Vec<&str> =
        [(cfg!(feature = "rayon"), "rayon"), (cfg!(feature = "complex"), "complex"), (cfg!(feature = "half"), "half")]
            .into_iter()
            .filter_map(|(on, feature)| on.then_some(feature))
            .collect();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--profile", name, "--features", &features.join(",")]);
    for example in ["fixture_forgot_init", "fixture_init_in_main", "fixture_plugin"] {
        build.args(["--example", example]);
    }
    assert!(build.arg("--target-dir").arg(profile.parent().unwrap()).status().unwrap().success());
}

fn program(name: &str) -> Command {
    let mut command = Command::new(fixture(name));
    command.stdin(Stdio::null());
    command
}

/// What it printed, line by line; it must have ended well.
#[track_caller]
fn lines(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn init_early_in_main_is_all_that_a_program_needs() {
    let mut lines = lines(&mut program("fixture_init_in_main"));
    lines.sort();
    // Two workers come as far as init.
    assert_eq!(lines, ["after init", "before init", "before init", "before init", "sum: 4950"]);
}

#[test]
fn a_program_that_forgot_init_is_told_so_and_its_main_runs_once() {
    let lines = lines(&mut program("fixture_forgot_init"));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0], "main runs");
    assert!(lines[1].starts_with("NotInitialized: ndshm::init was not called in this program"), "{lines:?}");
    assert_eq!(lines[2], "serial: [2, 4]");
}

#[test]
fn workers_that_do_not_reach_init_are_an_error_that_says_how_they_ended() {
    for (way, ending) in
        [("strict", "exited with code 9"), ("panics", "exited with code 101"), ("elsewhere", "exited with code 0")]
    {
        let mut command = program("fixture_init_in_main");
        let lines = lines(command.env("FIXTURE", way).stderr(Stdio::null()));
        let last = lines.last().unwrap();
        assert!(last.starts_with("NotInitialized: a worker process ended before it reached ndshm::init"), "{lines:?}");
        assert!(last.contains(ending), "{way}: {last}");
        assert_eq!(lines.iter().filter(|line| *line == "after init").count(), 1, "{lines:?}");
    }
}

#[test]
fn a_program_started_through_the_loader_is_told_that_it_cannot_have_workers() {
    // The loader of this very process, as it is called on this machine.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut files = maps.lines().filter_map(|line| line.find('/').map(|start| &line[start..]));
    let Some(loader) =
        files.find(|file| Path::new(file).file_name().is_some_and(|f| f.as_encoded_bytes().starts_with(b"ld-")))
    else {
        println!("skipped: this program has no loader");
        return;
    };
    let lines = lines(Command::new(loader).arg(fixture("fixture_init_in_main")).stdin(Stdio::null()));
    assert_eq!(lines[..2], ["before init", "after init"]);
    assert!(lines[2].starts_with("Unsupported: cannot start copies of this program"), "{lines:?}");
    assert!(lines[2].contains("ld.so") && lines.len() == 3, "{lines:?}");
}

// The arguments by hand

#[track_caller]
fn assert_refused(output: &Output, why: &str) {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{stdout}\n{stderr}");
    assert!(stderr.starts_with("ndshm: ") && stderr.contains(why), "{stderr}");
    assert!(!stdout.contains("after init") && !stdout.contains("running"), "main went on:\n{stdout}");
}

#[test]
fn who_types_a_workers_or_servers_argument_gets_a_message_and_exit_code_2() {
    let own = std::env::current_exe().unwrap();
    for path in [fixture("fixture_init_in_main"), own] {
        let start = |argument: &str, stdin: Stdio| Command::new(&path).arg(argument).stdin(stdin).output().unwrap();
        let why = "its standard input is not the socket of who starts it";
        for argument in ["--ndshm-worker=0", "--ndshm-server"] {
            assert_refused(&start(argument, Stdio::null()), why);
            assert_refused(&start(argument, Stdio::piped()), why);
        }
        for not_a_number in ["--ndshm-worker=", "--ndshm-worker=x", "--ndshm-worker=-1"] {
            assert_refused(&start(not_a_number, Stdio::null()), "no number follows");
        }
        // Without a standard input at all.
        let script = "exec \"$0\" --ndshm-worker=0 <&-";
        assert_refused(&Command::new("sh").args(["-c", script]).arg(&path).output().unwrap(), "standard input");
    }
}

#[test]
fn a_worker_whose_parent_does_not_greet_it_ends() {
    let path = fixture("fixture_init_in_main");
    for greeting in [b"ndshm-hi and more".as_slice(), b"x", &[0; 64]] {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        send(ours.as_raw_fd(), greeting, MsgFlags::empty()).unwrap();
        let output = Command::new(&path).arg("--ndshm-worker=0").stdin(theirs).output().unwrap();
        assert_refused(&output, "another build of this program");
    }
    // A socket whose other end is closed: there is nobody to tell.
    let (ours, theirs): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    drop(ours);
    let output = Command::new(&path).arg("--ndshm-worker=0").stdin(theirs).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(2), 0), "{output:?}");
}

// Code that lies elsewhere

/// A name in the plugin, which stays loaded.
fn in_plugin(name: &CStr) -> *mut c_void {
    let path = fixture("libfixture_plugin.so");
    let path = CString::new(path.into_os_string().into_encoded_bytes()).unwrap();
    // SAFETY: the file is the plugin that was built along with this test; its constructors are those of Rust's library.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "{path:?} cannot be loaded");
    // SAFETY: an open handle and a name that ends with NUL.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    assert!(!address.is_null(), "{name:?} is not there");
    address
}

#[test]
fn a_task_that_lies_in_a_plugin_is_refused_before_any_worker_hears_of_it() {
    let task = in_plugin(c"NDSHM_FIXTURE_TASK");
    let pool = Pool::builder().workers(2).build().unwrap();
    let pids = pool.worker_pids();
    let mut array = SharedArray::<u32, _>::zeros(10).unwrap();
    // SAFETY: the plugin's static is a function pointer of the type that this call takes, built by the same compiler from
    // the same source.
    let error = pool.for_each(array.chunks_mut(), unsafe { std::ptr::read(task.cast()) }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("the task lies in a library or plugin"), "{error}");
    assert!(!array.is_poisoned() && array.read().unwrap().sum() == 0);
    assert_eq!(pool.worker_pids(), pids);
    assert_whole(&pool);
    // Here it can run.
    // SAFETY: as above.
    Pool::serial().for_each(array.chunks_mut(), unsafe { std::ptr::read(task.cast()) }).unwrap();
    assert_eq!(array.read().unwrap().sum(), 90);
}

#[test]
fn a_plugin_with_ndshm_in_it_has_no_workers_whether_it_calls_init_or_not() {
    let address = in_plugin(c"ndshm_fixture_pool");
    // SAFETY: the plugin's function has this type.
    let pool = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn(bool) -> i32>(address) };
    assert_eq!(pool(false), 1, "NotInitialized");
    assert_eq!(pool(true), 2, "Unsupported");
}

const LIBRARY: &str = "pub use ndshm;";
const PROGRAM: &str = "
use library::ndshm::{Each, Pool, init};
fn main() {
    println!(\"main runs\");
    init();
    match Pool::builder().workers(2).build() {
        Ok(_) => println!(\"a pool was built\"),
        Err(error) => println!(\"{:?}: {error}\", error.kind()),
    }
    println!(\"serial: {:?}\", Pool::serial().map(Each(&[1, 2]), |n: i32, _| 2 * n).unwrap());
}
";

/// The compiler that built this test, for a crate in `dir`.
fn rustc(dir: &Path, file: &str) -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--edition", "2024", "-C", "prefer-dynamic", "--out-dir"]).arg(dir).arg(dir.join(file));
    command
}

#[test]
fn a_program_that_has_ndshm_from_a_dynamic_library_is_told_that_it_cannot_have_workers() {
    let test = std::env::current_exe().unwrap();
    let deps = test.parent().unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("library.rs"), LIBRARY).unwrap();
    fs::write(dir.path().join("program.rs"), PROGRAM).unwrap();

    // The crate as cargo has built it for this test: the newest of the builds that fit this compiler.
    let mut builds: Vec<PathBuf> = fs::read_dir(deps).unwrap().map(|entry| entry.unwrap().path()).collect();
    builds.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libndshm-") && name.ends_with(".rlib")
    });
    builds.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).and_then(|meta| meta.modified()).unwrap()));
    let dependency = format!("dependency={}", deps.display());
    let built = builds.iter().any(|build| {
        let mut library = rustc(dir.path(), "library.rs");
        library.args(["--crate-type", "dylib", "-L", &dependency, "--extern"]);
        library.arg(format!("ndshm={}", build.display()));
        library.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    });
    assert!(built, "none of {builds:?} can be linked into a dynamic library");
    let mut compile = rustc(dir.path(), "program.rs");
    compile.args(["-L", &dependency, "--extern"]);
    compile.arg(format!("library={}", dir.path().join("liblibrary.so").display()));
    assert!(compile.status().unwrap().success());

    let sysroot = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--print", "target-libdir"])
        .output()
        .unwrap();
    let libraries = format!("{}:{}", dir.path().display(), String::from_utf8(sysroot.stdout).unwrap().trim());
    let lines = lines(Command::new(dir.path().join("program")).env("LD_LIBRARY_PATH", libraries));
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!((&*lines[0], &*lines[2]), ("main runs", "serial: [2, 4]"));
    assert!(lines[1].starts_with("Unsupported: ndshm lies in a library"), "{lines:?}");
}
