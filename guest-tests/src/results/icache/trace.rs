//! Block traces: what a program asked of a disk, and what each block of that disk holds.
//!
//! A file of text, one thing a line, in blocks of 4 KiB:
//!
//! ```text
//! sky-trace 1 BLOCKS         the disk's size
//! C FIRST COUNT CLASS        so many blocks from FIRST are of that class of the paper's table; of class 0 if never named
//! P NAME                     what follows belongs to this phase
//! R FIRST COUNT              a read
//! W FIRST COUNT              a write
//! ```
//!
//! Classes come before the first phase. Requests are in the order in which the disk was given them, without times.

use std::fmt::Write as _;
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
/// Longest request, in blocks: more than any kernel sends.
const LONGEST: u32 = 1 << 16;
/// Largest disk, in blocks.
const LARGEST: u32 = 1 << 24;

/// A read or write of whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) write: bool,
    pub(super) first: u32,
    pub(super) count: u32,
}

impl Request {
    pub(super) fn blocks(self) -> std::ops::Range<u32> {
        self.first..self.first + self.count
    }
}

/// One run of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) requests: Vec<Request>,
}

/// All that was recorded of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    /// Number of its class, for each block.
    pub(super) classes: Vec<u8>,
    pub(super) phases: Vec<Phase>,
}

impl Trace {
    /// Blocks of the disk.
    pub(super) fn blocks(&self) -> u32 {
        u32::try_from(self.classes.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn phase(&self, name: &str) -> Result<&Phase> {
        let found = self.phases.iter().find(|phase| phase.name == name);
        found.ok_or_else(|| Error::Missing(format!("the trace has no phase {name}")))
    }

    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
        Self::parse(&text).map_err(|problem| Error::Format { path: path.into(), problem })
    }

    pub(super) fn save(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.to_text()).map_err(Error::file("write", path))
    }

    fn to_text(&self) -> String {
        let mut text = format!("sky-trace 1 {}\n", self.classes.len());
        let mut first = 0;
        for run in self.classes.chunk_by(|one, next| one == next) {
            if run[0] != 0 {
                let _ = writeln!(text, "C {first} {} {}", run.len(), run[0]);
            }
            first += run.len();
        }
        for phase in &self.phases {
            let _ = writeln!(text, "P {}", phase.name);
            for request in &phase.requests {
                let letter = if request.write { 'W' } else { 'R' };
                let _ = writeln!(text, "{letter} {} {}", request.first, request.count);
            }
        }
        text
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut lines = (1..).zip(text.lines());
        let head: Option<u32> =
            lines.next().and_then(|(_, line)| line.strip_prefix("sky-trace 1 ")?.parse().ok());
        let blocks =
            head.filter(|blocks| *blocks <= LARGEST).ok_or("it does not begin as a trace of version 1")?;
        let mut trace = Self { classes: vec![0; blocks as usize], phases: Vec::new() };
        for (number, line) in lines {
            trace.line(line).ok_or_else(|| format!("line {number} is no line of a trace: {line}"))?;
        }
        Ok(trace)
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let range = |first: &str, count: &str, most: u32| {
            let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
            let end = first.checked_add(count)?;
            (count > 0 && count <= most && end <= self.blocks()).then_some((first, count))
        };
        match words[..] {
            ["C", first, count, class] if self.phases.is_empty() => {
                let (first, count) = range(first, count, u32::MAX)?;
                let class = class.parse().ok().filter(|class| *class <= 5)?;
                self.classes[first as usize..(first + count) as usize].fill(class);
            }
            ["P", name] => self.phases.push(Phase { name: name.into(), requests: Vec::new() }),
            [letter @ ("R" | "W"), first, count] => {
                let (first, count) = range(first, count, LONGEST)?;
                self.phases.last_mut()?.requests.push(Request { write: letter == "W", first, count });
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let request = |write, first, count| Request { write, first, count };
        let phase = |name: &str, requests| Phase { name: name.into(), requests };
        let trace = Trace {
            classes: [vec![5; 10], vec![0; 5], vec![4; 85]].concat(),
            phases: vec![
                phase("find", vec![request(false, 0, 10), request(true, 99, 1)]),
                phase("scan", vec![request(false, 20, 32)]),
            ],
        };
        let text = trace.to_text();
        assert!(
            text.starts_with("sky-trace 1 100\nC 0 10 5\nC 15 85 4\nP find\nR 0 10\nW 99 1\nP scan\n"),
            "{text}"
        );
        assert_eq!(Trace::parse(&text).as_ref(), Ok(&trace));
        assert_eq!(trace.phase("scan").unwrap().requests[0].blocks(), 20..52);
        assert!(trace.phase("tar").is_err());
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        assert!(Trace::parse("").is_err() && Trace::parse("sky-trace 2 10\n").is_err());
        assert!(Trace::parse("sky-trace 1 4294967295\n").is_err());
        for line in ["R 0 1", "C 9 2 5", "C 0 1 6", "C 0 0 1", "X", ""] {
            let error = Trace::parse(&format!("sky-trace 1 10\n{line}\n")).unwrap_err();
            assert!(error.starts_with("line 2 "), "{error}");
        }
        for line in ["R 4294967295 2", "R 10 1", "R 0 0", "W 0", "C 0 1 5", "P a b"] {
            assert!(Trace::parse(&format!("sky-trace 1 10\nP x\n{line}\n")).is_err(), "{line}");
        }
    }
}
