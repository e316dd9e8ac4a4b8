//! What the integration tests share: a real Python, and processes that come and go.
#![allow(dead_code, unused_imports, reason = "every test file uses another part of it")]

pub(crate) mod process;
pub(crate) mod python;

pub(crate) use process::{BlocksLeft, in_small_shm, small_shm_command, unique_name, wait_until};
pub(crate) use python::{PythonProcess, python, run_python};

/// The result is an error of that kind, whose message has these words in it.
#[track_caller]
pub(crate) fn assert_kind<T>(result: ndshm::Result<T>, kind: ndshm::ErrorKind, words: &[&str]) {
    let Err(error) = result else { panic!("it succeeded, expected {kind:?}") };
    assert_eq!(error.kind(), kind, "{error}");
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}
