//! What is held against its limit so closely that both have to be measured at once, and nothing else: the benchmark of the
//! pool measures the same after all that it has. See `mod.rs`.

#[path = "../common/mod.rs"]
mod common;
#[path = "../peer/mod.rs"]
mod peer;
#[path = "../pool/place.rs"]
mod place;
#[path = "../pool/rival/mod.rs"]
#[allow(dead_code, reason = "not all rivals take turns")]
mod rival;
#[path = "mod.rs"]
mod turns;

use common::{Result, was_peer};

fn main() -> Result<()> {
    if was_peer(rival::answer)? { Ok(()) } else { turns::measure() }
}
