//! A progress bar, from the callback that tells how far a call is.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::chunk::Progress;
use super::scope::Scope;
use crate::sys::fork::{Epoch, epoch};

/// A bar on standard error; nothing where that is no terminal. What stands there when it is dropped stays there.
pub(super) struct Bar {
    bar: ProgressBar,
    home: Epoch,
}

impl Bar {
    pub(super) fn start(label: String, scope: Scope<'_>) -> Self {
        let len: usize = scope.rows().iter().map(ExactSizeIterator::len).sum();
        let bar = ProgressBar::new(len as u64).with_finish(ProgressFinish::Abandon).with_prefix(label);
        let unit = scope.unit.plural();
        let template = format!(
            "{{prefix}} {{bar:32}} {{percent:>3}} % ({{human_pos}}/{{human_len}} {unit}{{msg}}, {{elapsed}}, {{eta}} left)"
        );
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.tick();
        Self { bar, home: epoch() }
    }

    pub(super) fn show(&self, progress: Progress) {
        match progress.workers_lost {
            0 => {}
            1 => self.bar.set_message(", 1 worker lost"),
            lost => self.bar.set_message(format!(", {lost} workers lost")),
        }
        self.bar.set_position(progress.rows_done as u64);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // The terminal of a forked child is its parent's, and so is what stands on it.
        if self.home == epoch() {
            self.bar.abandon();
        }
    }
}
