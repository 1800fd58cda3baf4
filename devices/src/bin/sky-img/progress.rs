//! How far long work is: a bar on a terminal, lines where somebody asks for them.

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const TEMPLATE: &str =
    "{msg} [{bar:32}] {percent:>3}%  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}";

/// Lines of a whole run, where there is no terminal.
const LINES: u64 = 20;

pub(crate) struct Progress {
    bar: ProgressBar,
    lines: Option<Lines>,
}

struct Lines {
    what: String,
    total: u64,
    /// Held while a line is written: of two threads, the one that is further must not be the first to tell.
    so_far: Mutex<SoFar>,
}

#[derive(Default)]
struct SoFar {
    done: u64,
    told: u64,
}

impl Progress {
    /// Progress of `total` bytes, shown on a terminal, or in lines if `forced`.
    pub(crate) fn new(what: &str, total: u64, forced: bool) -> Self {
        let terminal = stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total), target)
            .with_style(style.progress_chars("#> "))
            .with_message(what.to_owned());
        let lines =
            (forced && !terminal).then(|| Lines { what: what.to_owned(), total, so_far: Mutex::default() });
        Self { bar, lines }
    }

    /// `bytes` more are done.
    pub(crate) fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        let Some(lines) = &self.lines else { return };
        let mut so_far = lines.so_far.lock().unwrap_or_else(PoisonError::into_inner);
        so_far.done = so_far.done.saturating_add(bytes);
        let step = u128::from(so_far.done) * u128::from(LINES) / u128::from(lines.total.max(1));
        let step = u64::try_from(step).unwrap_or(LINES);
        if so_far.told < step {
            so_far.told = step;
            eprintln!("{}: {}%", lines.what, step * 100 / LINES);
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
