//! Shows that the Python that the other tests talk to is there and has NumPy: where it is not, this fails first.

mod common;

use std::time::Duration;

use common::{PythonProcess, python, run_python};

#[test]
fn numpy_imports() {
    let Some(python) = python() else { return };
    let printed =
        run_python("import numpy, sys; print(numpy.arange(4).sum(), sys.prefix, *sys.argv[1:])", &["a", "b c"]);
    let environment = python.parent().and_then(|bin| bin.parent()).unwrap();
    assert_eq!(printed, format!("6 {} a b c\n", environment.display()));
}

#[test]
#[should_panic(expected = "ValueError: told to")]
fn a_script_that_fails_shows_its_traceback() {
    // Without Python there is nothing to show, and the panic stands for it.
    assert!(python().is_some(), "ValueError: told to");
    run_python("raise ValueError('told to')", &[]);
}

#[test]
fn a_long_lived_python_keeps_its_variables() {
    if python().is_none() {
        return;
    }
    let mut python = PythonProcess::start();
    assert_eq!(python.run("import numpy as np\na = np.arange(6).reshape(2, 3)\nprint('not an answer')"), "None");
    assert_eq!(python.run("a.shape"), "(2, 3)");
    assert_eq!(python.number::<i64>("int(a.sum())"), 15);
    assert_eq!(python.run("'é\\n'"), r"'é\n'");

    let traceback = python.try_run("a[9]").unwrap_err();
    assert!(traceback.contains("IndexError"), "{traceback}");
    assert_eq!(python.number::<u32>("__import__('os').getpid()"), python.pid());
}

#[test]
fn a_long_lived_python_works_while_the_test_goes_on() {
    if python().is_none() {
        return;
    }
    let mut python = PythonProcess::start();
    python.begin("import time; time.sleep(0.2)");
    assert!(python.is_busy_after(Duration::from_millis(20)));
    assert_eq!(python.finish().unwrap(), "None");
}

#[test]
fn a_long_lived_python_ends_with_its_handle() {
    if python().is_none() {
        return;
    }
    let python = PythonProcess::start();
    let proc = format!("/proc/{}", python.pid());
    assert!(std::fs::exists(&proc).unwrap());
    drop(python);
    assert!(!std::fs::exists(&proc).unwrap());
}
