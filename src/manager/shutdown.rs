//! How a manager ended.

use crate::error::{Error, Result};
use crate::memory::{Pruned, PrunedBlock};

/// How a manager ended: in order, or without its server, whose work the process that had started it then did.
#[derive(Debug)]
#[non_exhaustive]
pub struct Shutdown {
    gone: Option<String>,
    removed: Vec<PrunedBlock>,
    problems: Vec<Error>,
}

impl Shutdown {
    pub(super) fn in_order(problems: Vec<Error>) -> Self {
        Self { gone: None, removed: Vec::new(), problems }
    }

    pub(super) fn without_server(how: String, pruned: Pruned) -> Self {
        let (removed, problems) = pruned.into_parts();
        Self { gone: Some(how), removed, problems }
    }

    /// Was the server gone before it could clean up? Then this process did.
    pub fn server_was_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// How the server ended where it [was gone](Self::server_was_gone), such as `was killed by signal 9 (SIGKILL)`.
    pub fn server_fate(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    /// The named blocks that this process removed in the server's place. Those that somebody else, such as another
    /// program's sweep, has removed before are not among them.
    pub fn removed(&self) -> &[PrunedBlock] {
        &self.removed
    }

    /// Names that could not be removed: others hold their blocks locked, say. The next program that creates a named block
    /// or calls [`prune`](crate::prune) tries again.
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }

    /// `self`, or the first of the problems.
    ///
    /// # Errors
    ///
    /// The first of [`problems`](Self::problems), where there are any.
    pub fn ok(mut self) -> Result<Self> {
        if self.problems.is_empty() { Ok(self) } else { Err(self.problems.swap_remove(0)) }
    }
}
