//! Ways to hand data to another process.

mod channel;
mod pull;
mod stream;

pub(crate) use channel::{Channel, SharedMemoryChannel};
pub(crate) use pull::Pull;
pub(crate) use stream::Stream;

use crate::common::Result;
use crate::reading::{Message, Reading};

pub(crate) trait Rival {
    /// What may be done with a new message before the clock starts.
    fn prepare(&mut self, _message: &Message) -> Result<()> {
        Ok(())
    }

    /// Hands `message` over and returns the reader's answer.
    fn hand_over(&mut self, message: &Message) -> Result<u64>;
}

/// The other side's `main`.
pub(crate) fn answer(kind: &str, arguments: &[&str]) -> Result<()> {
    match (kind, arguments) {
        (stream::KIND, [bytes, reading]) => stream::answer(bytes.parse()?, Reading::named(reading)?),
        (pull::KIND, [reading]) => pull::answer(Reading::named(reading)?),
        (channel::KIND, [server, reading]) => channel::answer(server, Reading::named(reading)?),
        (channel::SHARED_KIND, [server, reading]) => channel::answer_shared(server, Reading::named(reading)?),
        _ => Err(format!("no peer is called {kind}").into()),
    }
}
