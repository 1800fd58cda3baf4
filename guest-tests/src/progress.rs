//! What the user sees while waiting: a spinner on a terminal, plain lines elsewhere. Everything goes to stderr.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Says one thing. Tests do not capture it: a lab that dies under a test that then passes must not go unseen.
pub fn note(text: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "lab: {text}");
}

/// Says what is not about the work but its result.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says what another process has said on its standard error.
pub fn pass_on(text: &[u8]) {
    let _ = std::io::stderr().write_all(text);
}

/// A wait with a beginning and an end.
#[derive(Debug)]
pub struct Wait {
    what: String,
    bar: Option<ProgressBar>,
    start: Instant,
}

impl Wait {
    /// Begins to wait for `what`.
    pub fn start(what: &str) -> Wait {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("lab: {msg} {elapsed} {spinner}") {
                bar.set_style(style);
            }
            bar.set_message(what.to_string());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            note(what);
        }
        Wait { what: what.to_string(), bar, start: Instant::now() }
    }

    /// Tells how far it is.
    pub fn step(&self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{} ({detail})", self.what));
        }
    }

    /// Ends with a word about the result.
    pub fn done(self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        note(&format!("{result} after {:.1} s", self.start.elapsed().as_secs_f64()));
    }
}
