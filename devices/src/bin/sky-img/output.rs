//! What goes to standard output and standard error.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: as JSON, or the text for people.
    pub(crate) fn print(self, result: &impl Serialize, text: impl FnOnce() -> String) {
        let line = if self.json { format!("{:#}", json!(result)) } else { text() };
        if !line.is_empty() {
            // A reader that went away, such as `head`, is no failure of ours.
            let _ = writeln!(io::stdout().lock(), "{}", line.trim_end());
        }
    }

    /// Says why nothing came of it, and gives the exit status: `status` unless the failure has its own.
    pub(crate) fn failed(self, failure: &Failure, status: u8) -> ExitCode {
        let status = failure.status().unwrap_or(status);
        let message = failure.to_string();
        if self.json {
            eprintln!("{}", json!({ "error": message, "advice": failure.advice(), "status": status }));
        } else {
            eprintln!("sky-img: {message}");
            if let Some(advice) = failure.advice() {
                eprintln!("sky-img: {advice}");
            }
        }
        ExitCode::from(status)
    }
}
