//! Where a part is measured: in this process, where KVM works, or where the clock counts instructions.

use std::time::{Duration, Instant};

use super::{Figures, Part};
use crate::e2e::repeat_if_lab_dies;
use crate::error::{Error, Result};
use crate::guest;
use crate::lab::{Lab, LabCommand};
use crate::place::{Place, inside_lab, place};
use crate::progress;

/// Parts take a minute or two.
const PART_LIMIT: Duration = Duration::from_secs(480);

/// What a measurement needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Nothing.
    Anywhere,
    /// A KVM that can run guests.
    Kvm,
    /// The lab with one CPU whose time-stamp counter counts instructions, so that a busy host does not matter.
    InstructionCount,
}

/// Measures a part in its setting.
pub(super) fn measure(benchmark: &str, part: &Part) -> Result<Figures> {
    if part.setting == Setting::Anywhere || inside_lab() {
        return (part.measure)();
    }
    guest::prepare()?;
    (part.prepare)()?;
    match (part.setting, place()?) {
        (Setting::InstructionCount, _) => counting(benchmark, part),
        (_, Place::Lab) => elsewhere(&Lab::connect_or_start()?, benchmark, part),
        (_, Place::Native) => (part.measure)(),
    }
}

/// Measures where instructions are counted. That machine as a whole hangs now and then, its emulator busy without end.
/// What it counts is the same every time, so a part may be measured again.
fn counting(benchmark: &str, part: &Part) -> Result<Figures> {
    repeat_if_lab_dies(&format!("the measurement {benchmark}/{}", part.name), || {
        let lab = Lab::start_icount()?;
        let started = Instant::now();
        elsewhere(&lab, benchmark, part).map_err(|error| match started.elapsed() {
            elapsed if elapsed < PART_LIMIT => error,
            _ => Error::LabDied { problem: error.to_string(), console: String::new() },
        })
    })
}

/// Runs this same program in the lab with the hidden option that measures one part.
fn elsewhere(lab: &Lab, benchmark: &str, part: &Part) -> Result<Figures> {
    let exe = std::env::current_exe().map_err(Error::file("find", "the running program"))?;
    let command = LabCommand::new(exe).args([benchmark, "--part", part.name]).timeout(PART_LIMIT);
    let output = command.output(lab)?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.success() {
        progress::pass_on(&output.stderr);
        return parse(&text).ok_or_else(|| Error::Guest {
            problem: format!("the measurement {}/{} printed no figures", benchmark, part.name),
            output: text.into_owned(),
        });
    }
    Err(Error::Guest {
        problem: format!("the measurement {}/{} failed in the lab ({:?})", benchmark, part.name, output.exit),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn parse(text: &str) -> Option<Figures> {
    text.lines()
        .map(|line| {
            let (key, value) = line.split_once('=')?;
            Some((key.to_string(), value.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_or_refused() {
        let figures = parse("a=1.5\nb=2\n").unwrap();
        assert_eq!((figures["a"], figures["b"]), (1.5, 2.0));
        assert!(parse("a=1\nnot a figure\n").is_none());
        assert!(parse("a=many\n").is_none());
    }
}
