//! A list that a Rust and a Python process read and write together.
//!
//! ```text
//! cargo run --example shared_list              # then paste what it prints into another terminal
//! cargo run --example shared_list -- python    # or let it start the Python at the other end by itself
//! ```

use std::process::Command;
use std::time::{Duration, Instant};
use std::{error, thread};

use ndshm::{ShareableList, Value, shareable_list};

/// What stands where in the list: a contract of both sides.
const DONE: usize = 0;
const MESSAGE: usize = 1;
const NUMBER: usize = 2;
const PAYLOAD: usize = 3;

/// Until 3.14 at least, Python removes a list that it has attached to when it ends, unless it is told not to.
const SCRIPT: &str = r#"
import sys
from multiprocessing import resource_tracker, shared_memory

items = shared_memory.ShareableList(name=sys.argv[1])
resource_tracker.unregister(items.shm._name, "shared_memory")
print("Python found:", items)
items[1] = "hello from Python"
items[2] = items[2] * 2
items[3] = None
items[0] = True
"#;

fn main() -> Result<(), Box<dyn error::Error>> {
    // A slot is as wide as its first value: make room for the longest message that is to come.
    let list = shareable_list![false, "x".repeat(100), 21, b"bytes", 1.5]?;
    list.set(MESSAGE, "hello from Rust")?;
    let name = list.shm().name().unwrap_or_default();
    println!("Rust made:    {list}");

    if std::env::args().nth(1).as_deref() == Some("python") {
        let status = Command::new("python3").args(["-c", SCRIPT, name]).status()?;
        if !status.success() {
            return Err(format!("python3 ended with {status}").into());
        }
    } else {
        println!("\nIn another terminal, within a minute:\n\npython3 - {name} <<'EOF'{SCRIPT}EOF\n");
    }
    wait_for(&list, Duration::from_secs(60))?;

    println!("Rust found:   {list}");
    println!("the message:  {}", String::try_from(list.get(MESSAGE)?)?);
    println!("the number:   {}", i64::try_from(list.get(NUMBER)?)?);
    println!("the payload:  {}", list.get(PAYLOAD)?);
    // What does not fit is an error, and the item stays as it is.
    if let Err(error) = list.set(NUMBER, "too long for eight bytes") {
        println!("as expected:  {error}");
    }
    // The list, which this process made, is removed when it is dropped here.
    Ok(())
}

fn wait_for(list: &ShareableList, time: Duration) -> Result<(), Box<dyn error::Error>> {
    let start = Instant::now();
    while list.get(DONE)? != Value::Bool(true) {
        if start.elapsed() > time {
            return Err("nobody came".into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
