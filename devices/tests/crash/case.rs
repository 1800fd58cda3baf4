//! A failure's name: everything that is needed to see it again.

use std::fmt;
use std::str::FromStr;

use sky_devices::block::simulated::{Choice, Fault, FaultKind, FaultOn, Random};

/// A crash: after how many changes of the medium, and what is left of those that were not durable.
pub(super) type Crash = (usize, Choice);

/// What operations that fail are called.
const ON: [(FaultOn, &str); 6] = [
    (FaultOn::AnyChange, "any"),
    (FaultOn::Read, "read"),
    (FaultOn::Write, "write"),
    (FaultOn::Sync, "sync"),
    (FaultOn::Punch, "punch"),
    (FaultOn::Grow, "grow"),
];

/// A workload on a subject, an error of the medium in it, and crashes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) subject: String,
    pub(super) seed: u64,
    pub(super) fault: Option<Fault>,
    pub(super) crashes: Vec<Crash>,
}

impl Case {
    pub(super) fn new(subject: &str, seed: u64) -> Self {
        Self { subject: subject.to_owned(), seed, fault: None, crashes: Vec::new() }
    }

    /// The case with one more crash.
    pub(super) fn then(&self, crash: Crash) -> Self {
        let mut case = self.clone();
        case.crashes.push(crash);
        case
    }

    /// Numbers that belong to this case alone (FNV-1a of its name).
    pub(super) fn random(&self) -> Random {
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Random::new(self.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, hash))
    }
}

/// `subject/seed/fault/position/choice/position/choice`, with `-` for no fault, else `operation:after:kind:times:part`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.subject, self.seed)?;
        match self.fault {
            None => f.write_str("-")?,
            Some(Fault { on, after, kind, lasting, partial }) => {
                let kind = if kind == FaultKind::NoSpace { "nospace" } else { "io" };
                let times = if lasting { "lasting" } else { "once" };
                let part = if partial { "partial" } else { "nothing" };
                let on = ON.iter().find(|(known, _)| *known == on).map_or("any", |(_, name)| name);
                write!(f, "{on}:{after}:{kind}:{times}:{part}")?;
            }
        }
        self.crashes.iter().try_for_each(|(position, choice)| write!(f, "/{position}/{choice}"))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split('/').collect();
        let [subject, seed, fault, crashes @ ..] = &words[..] else {
            return Err(format!("{text}: no case"));
        };
        let number = |word: &str| word.parse::<u64>().map_err(|error| format!("{word}: {error}"));
        let fault = match fault.split(':').collect::<Vec<_>>()[..] {
            ["-"] => None,
            [on, after, kind, times, part] => Some(Fault {
                on: ON.iter().find(|(_, name)| *name == on).ok_or_else(|| format!("{on}: no operation"))?.0,
                after: number(after)?,
                kind: if kind == "nospace" { FaultKind::NoSpace } else { FaultKind::Io },
                lasting: times == "lasting",
                partial: part == "partial",
            }),
            _ => return Err(format!("{text}: no fault")),
        };
        let crashes = crashes.chunks(2).map(|crash| match crash {
            [position, choice] => {
                let choice = choice.parse().map_err(|error| format!("{choice}: {error}"))?;
                Ok((number(position)? as usize, choice))
            }
            _ => Err(format!("{text}: a crash is a position and a choice")),
        });
        let crashes = crashes.collect::<Result<_, String>>()?;
        Ok(Self { subject: (*subject).to_owned(), seed: number(seed)?, fault, crashes })
    }
}

#[test]
fn a_case_is_said_and_read() {
    for text in [
        "raw/7/-",
        "toy/18446744073709551615/grow:12:nospace:lasting:partial/3/all",
        "selfie/1/any:0:io:once:nothing/41/torn:2:99/17/nothing",
    ] {
        assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
    }
    assert!("raw/7/-/3".parse::<Case>().is_err() && "raw/7".parse::<Case>().is_err());
}
