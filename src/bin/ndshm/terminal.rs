//! Who decides about colours and progress bars: here, and nowhere else.
//!
//! Colours only where stdout is a terminal, progress only where stderr is one. `NO_COLOR` and a terminal that is `dumb`
//! are heeded.

use std::ffi::OsStr;
use std::io::IsTerminal;
use std::time::Duration;

use console::Style;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What the terminal is good for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    colours: bool,
    progress: bool,
}

/// Work that takes less long than that needs no bar.
const LARGE: u64 = 64 << 20;

impl Terminal {
    pub(crate) fn detect() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == OsStr::new("dumb"));
        Self {
            colours: std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
            progress: std::io::stderr().is_terminal() && !dumb,
        }
    }

    fn style(self, style: Style) -> Style {
        style.force_styling(self.colours)
    }

    /// Headings.
    pub(crate) fn strong(self) -> Style {
        self.style(Style::new().bold())
    }

    /// What is of little interest.
    pub(crate) fn faint(self) -> Style {
        self.style(Style::new().dim())
    }

    pub(crate) fn good(self) -> Style {
        self.style(Style::new().green())
    }

    pub(crate) fn warning(self) -> Style {
        self.style(Style::new().yellow())
    }

    pub(crate) fn bad(self) -> Style {
        self.style(Style::new().red().bold())
    }

    /// A bar for so many bytes, which says nothing where nobody watches or it is done at once.
    pub(crate) fn bar(self, what: &str, bytes: u64) -> ProgressBar {
        if bytes < LARGE {
            return ProgressBar::hidden();
        }
        self.progress_bar(what, bytes, "{msg} [{bar:32}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
    }

    /// A bar for so many steps, each of which takes a while.
    pub(crate) fn steps(self, what: &str, steps: u64) -> ProgressBar {
        self.progress_bar(what, steps, "{msg} [{bar:32}] {pos} of {len}")
    }

    fn progress_bar(self, what: &str, len: u64, template: &str) -> ProgressBar {
        if !self.progress {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}
