//! What the integration tests share: a real Python, and processes that come and go.
#![allow(dead_code, unused_imports, reason = "every test file uses another part of it")]

pub(crate) mod process;
pub(crate) mod python;

pub(crate) use process::{BlocksLeft, in_small_shm, small_shm_command, unique_name, wait_until};
pub(crate) use python::{PythonProcess, python, run_python};
