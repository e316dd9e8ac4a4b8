//! What runs in a worker process.

use std::process;

use crate::sys::socket::Socket;

/// The whole life of a worker: `socket` leads to the parent.
pub(crate) fn worker_main(socket: Socket, _index: usize) -> ! {
    while let Ok(Some(_)) = socket.recv() {}
    drop(socket);
    process::exit(0)
}
