//! The other end of the socket: `sky-vmm monitor`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::protocol::Request;
use super::table;
use crate::exit::STATUS_ERROR;

/// Longer than a request waits for the guest, some others in front of it included.
const PATIENCE: Duration = Duration::from_secs(90);
/// The longest reply, in bytes: a report names every file that was seen.
const MAX_REPLY: u64 = 256 << 20;

/// Why there is no reply, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot connect to {}: {source}; it is the PATH of a running `sky-vmm run --control PATH`", path.display())]
    Connect {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke; most likely the guest has ended.
    #[error("no reply: {0}")]
    Io(#[from] io::Error),
    /// What came is no reply.
    #[error("the reply makes no sense: {0}")]
    Malformed(String),
    /// It was refused.
    #[error("{0}")]
    Refused(String),
}

/// Makes one request of the `sky-vmm` that listens at `path`. Gives what is behind `ok`.
///
/// # Errors
/// [`ClientError`].
pub fn ask(path: &Path, request: &Request) -> Result<Value, ClientError> {
    let connect = |source| ClientError::Connect { path: path.to_owned(), source };
    let stream = UnixStream::connect(path).map_err(connect)?;
    exchange(&stream, request)
}

pub(super) fn exchange(stream: &UnixStream, request: &Request) -> Result<Value, ClientError> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let malformed = |error: serde_json::Error| ClientError::Malformed(error.to_string());
    let line = serde_json::to_string(request).map_err(malformed)?;
    let mut writer = stream;
    writer.write_all(format!("{line}\n").as_bytes())?;
    let mut reply = Vec::new();
    BufReader::new(stream).take(MAX_REPLY).read_until(b'\n', &mut reply)?;
    if reply.is_empty() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let mut reply: Value = serde_json::from_slice(&reply).map_err(malformed)?;
    if let Some(error) = reply.get("error").and_then(Value::as_str) {
        return Err(ClientError::Refused(error.to_owned()));
    }
    let ok = reply.get_mut("ok").map(Value::take);
    ok.ok_or_else(|| ClientError::Malformed("neither ok nor error".to_owned()))
}

/// Makes one request and says how it went: tables for people, or with `json` what came, in one line. Gives the status
/// to end with.
#[must_use]
pub fn run(path: &Path, request: &Request, json: bool) -> u8 {
    let outcome = ask(path, request)
        .and_then(|value| if json { Ok(value.to_string()) } else { table::show(request, value) });
    match outcome {
        Ok(text) => {
            let mut out = io::stdout().lock();
            // A pager that was closed is no failure of the request.
            let _ = out.write_all(text.as_bytes());
            if !text.ends_with('\n') {
                let _ = out.write_all(b"\n");
            }
            0
        }
        Err(error) => {
            if json {
                eprintln!("{}", json!({ "error": error.to_string() }));
            } else {
                eprintln!("sky-vmm: {error}");
            }
            STATUS_ERROR
        }
    }
}
