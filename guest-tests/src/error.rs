//! The one error type of this crate: what was being done, to what, and what the system said.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a step of the lab, of a guest or of a build failed. The message alone should tell the user what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb: "read", "create".
        operation: &'static str,
        /// The file it was tried on.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("cannot run {program}: {source}")]
    Spawn {
        /// The program's name.
        program: String,
        /// What the system answered.
        source: io::Error,
    },
    /// A program ran and reported failure.
    #[error("{program} failed ({status}){}", indented(output))]
    Failed {
        /// The program with its arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// A program was killed because it did not end.
    #[error("{program} did not end within {limit:?}{}", indented(output))]
    TooSlow {
        /// The program with its arguments.
        program: String,
        /// How long it had.
        limit: std::time::Duration,
        /// The end of what it printed.
        output: String,
    },
    /// Something the machine lacks; the text says how to get it.
    #[error("{0}")]
    Missing(String),
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file in question.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The lab's machine did not answer or died, which says nothing about what ran in it.
    #[error("the lab {problem}{}", indented(console))]
    LabDied {
        /// What happened.
        problem: String,
        /// The last lines of its console.
        console: String,
    },
    /// A guest in the lab died of what may be the lab's fault.
    #[error("the lab {problem}")]
    GuestDied {
        /// What happened.
        problem: String,
    },
    /// The lab cannot do what was asked.
    #[error("the lab {problem}{}", indented(console))]
    Lab {
        /// What happened.
        problem: String,
        /// The last lines of its console.
        console: String,
    },
    /// A guest did not do what was expected of it.
    #[error("guest: {problem}{}", indented(output))]
    Guest {
        /// What happened.
        problem: String,
        /// The end of what it printed.
        output: String,
    },
}

impl Error {
    /// For `map_err` behind a file operation.
    pub fn file(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::File { operation, path, source }
    }

    /// A lab failure with nothing on the console to show.
    pub fn lab(problem: impl Into<String>) -> Error {
        Error::Lab { problem: problem.into(), console: String::new() }
    }
}

fn indented(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n  | {line}");
    }
    out
}

/// The last `count` lines of `text`, with what a terminal would not show removed.
pub fn last_lines(text: &[u8], count: usize) -> String {
    let text = String::from_utf8_lossy(text);
    let clean: String = text.chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control()).collect();
    let lines: Vec<&str> = clean.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_drop_control_characters_and_blanks() {
        assert_eq!(last_lines(b"one\n\n\x1b[0mtwo\r\nthree\n", 2), "[0mtwo\nthree");
        assert_eq!(last_lines(b"", 5), "");
    }

    #[test]
    fn a_failure_shows_its_output_indented() {
        let error = Error::Lab { problem: "died".into(), console: "a\nb".into() };
        assert_eq!(error.to_string(), "the lab died\n  | a\n  | b");
    }
}
