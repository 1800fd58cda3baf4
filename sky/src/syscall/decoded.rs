//! A decoded call, and its two written forms.

use std::borrow::Cow;
use std::fmt;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::guest::View;

use super::decode::{self, Limits};
use super::signature::ResultKind;
use super::{Outcome, RawCall, Value};

/// A call by name and arguments.
///
/// Written without its result: `openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC)`. With it: [`line`](Self::line).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The registers.
    pub call: RawCall,
    /// Its name; `syscall_0x200` for a number without one.
    pub name: Cow<'static, str>,
    /// Its arguments and their names. Those that count only with certain others (`open`'s mode) are left out if they
    /// do not. A call without signature has all six.
    pub args: Vec<(&'static str, Value)>,
    /// How it ended, if that is known by now.
    pub outcome: Option<Outcome>,
    pub(super) limits: Limits,
}

impl Decoded {
    /// Fills in how the call ended, and what the kernel stored for the program; `view` shows memory at that time.
    pub fn returned(&mut self, view: &View<'_>, outcome: Outcome) {
        decode::returned(self, view, outcome);
    }

    /// The argument of this name.
    #[must_use]
    pub fn arg(&self, name: &str) -> Option<&Value> {
        self.args.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The call with its result, as strace writes it.
    #[must_use]
    pub fn line(&self) -> Line<'_> {
        Line(self)
    }
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (index, (_, value)) in self.args.iter().enumerate() {
            write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}

/// A call and its result: `close(3) = 0`. A call that is still on its way says so instead. A hint stands behind it.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(&'a Decoded);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decoded = self.0;
        decoded.fmt(f)?;
        let kind = decoded.call.signature().map_or(ResultKind::Number, |signature| signature.result);
        match decoded.outcome {
            Some(outcome) => outcome.write(f, kind)?,
            None if decoded.call.returns() => f.write_str(" <unfinished ...>")?,
            None => f.write_str(" = ?")?,
        }
        match decoded.call.hint() {
            Some(hint) => write!(f, " /* hint {} */", hint.class),
            None => Ok(()),
        }
    }
}

/// `{"number", "name", "args": {NAME: VALUE}, "raw": ["0x3", ...]}`, with `"hint"` and `"result"` if there are any.
impl Serialize for Decoded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("number", &self.call.id())?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("args", &Arguments(&self.args))?;
        map.serialize_entry("raw", &self.call.args.map(|raw| format!("{raw:#x}")))?;
        if let Some(hint) = self.call.hint() {
            map.serialize_entry("hint", &hint)?;
        }
        if let Some(outcome) = self.outcome {
            map.serialize_entry("result", &outcome)?;
        }
        map.end()
    }
}

struct Arguments<'a>(&'a [(&'static str, Value)]);

impl Serialize for Arguments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
