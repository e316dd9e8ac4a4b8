//! Worker processes and the tasks that they run.

pub(crate) mod start;
pub(crate) mod worker;
