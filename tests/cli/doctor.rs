//! What the doctor says of a small, a full and a healthy `/dev/shm`, and what its exit status is.

use crate::{alone, run, shm};

#[test]
fn a_container_s_64_megabytes_are_a_warning_with_what_to_do() {
    if alone("doctor::a_container_s_64_megabytes_are_a_warning_with_what_to_do", 64) {
        let ran = run(&["doctor"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let line = ran.stdout.lines().position(|line| line.starts_with("warning /dev/shm ")).expect("it is small");
        assert!(ran.stdout.lines().nth(line + 2).unwrap().contains("--shm-size"), "{}", ran.stdout);
    }
}

#[test]
fn a_full_dev_shm_is_a_problem() {
    if alone("doctor::a_full_dev_shm_is_a_problem", 1) {
        std::fs::write(shm("large"), vec![1; 1 << 20]).unwrap();
        let ran = run(&["doctor", "--json"]);
        assert_eq!((ran.code, &*ran.stderr), (Some(1), ""), "{}", ran.stdout);
        assert!(ran.stdout.contains("\"level\": \"problem\""));
    }
}
