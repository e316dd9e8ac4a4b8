//! Processes that answer as fast as they can.

mod channel;
mod lines;
mod page;
mod ping_pong;
mod stream;

#[allow(unused_imports, reason = "not every benchmark has all rivals")]
pub(crate) use channel::Channel;
pub(crate) use lines::Lines;
pub(crate) use ping_pong::{PingPong, Waiting};
#[allow(unused_imports, reason = "not every benchmark has all rivals")]
pub(crate) use stream::Stream;

use crate::Result;

pub(crate) trait Rival {
    /// The id of the other process.
    fn pid(&self) -> u32;

    /// Says something to the other process and waits for its answer.
    fn round_trip(&mut self);
}

/// The other side's `main`.
pub(crate) fn answer(kind: &str, arguments: &[&str]) -> Result<()> {
    match (kind, arguments) {
        (ping_pong::KIND, [waiting]) => ping_pong::answer(waiting),
        (lines::KIND, []) => lines::answer(),
        (stream::KIND, []) => stream::answer(),
        (channel::KIND, [server]) => channel::answer(server),
        _ => Err(format!("no peer is called {kind}").into()),
    }
}
