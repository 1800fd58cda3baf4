//! The rule of one class: conditions joined by `&` and `|`.
//!
//! Grammar and evaluation are those of OpenCAS (`modules/cas_cache/classifier.c`), corner cases included, because a
//! file that means something else here would be worse than a file that is refused.

use super::error::RuleError;
use super::facts::{Direction, Facts, components};
use crate::io_class::IoClass;

/// Longest text that a condition compares with, in bytes (`classifier_defs.h`).
pub(super) const MAX_VALUE: usize = 256;

/// Largest number of a core of OpenCAS.
const MAX_CORE_ID: u64 = 4095;

/// How a number is compared with the value of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Eq,
    Ne,
    Lt,
    Gt,
    Le,
    Ge,
}

/// Which number a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    IoClass,
    FileSize,
    FileOffset,
    Lba,
    Pid,
    RequestSize,
    WriteHint,
    CoreId,
    Hint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Done,
    Metadata,
    Direct,
    Compare(Number, Operator, u64),
    Directory(String),
    Extension(String),
    FileNamePrefix(String),
    ProcessName(String),
    Direction(Direction),
}

/// How a condition is joined with what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    And,
    Or,
}

/// What a rule says of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The block belongs to the class, unless a later class takes it.
    pub(super) matches: bool,
    /// No later class is asked.
    pub(super) done: bool,
}

/// Conditions in the order of the text. The first one is joined with "or" to nothing; no conditions never match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule(pub(super) Vec<(Join, Condition)>);

impl Rule {
    /// # Errors
    /// A condition, an operator or a value that does not exist. An operator after the last condition is let pass, as
    /// OpenCAS does.
    pub(super) fn parse(text: &str) -> Result<Self, RuleError> {
        let mut conditions = Vec::new();
        let mut join = Join::Or;
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(['&', '|']);
            let (condition, after) = match end {
                Some(end) => (&rest[..end], &rest[end + 1..]),
                None => (rest, ""),
            };
            conditions.push((join, Condition::parse(condition)?));
            join = if end.is_some_and(|end| rest[end..].starts_with('|')) { Join::Or } else { Join::And };
            rest = after;
        }
        Ok(Self(conditions))
    }

    /// What the rule says of a block that the rules before gave to class `so_far`.
    ///
    /// From left to right, `&` and `|` bind equally. An `&` after something false ends the rule, so `a&b|c` is false
    /// without `a`, whatever `c` says. OpenCAS calls mixed operators undefined; this is what it does with them.
    pub(super) fn evaluate(&self, facts: &Facts<'_>, so_far: u8) -> Verdict {
        let mut matches = false;
        for (join, condition) in &self.0 {
            match join {
                Join::And if !matches => break,
                Join::And => matches = condition.matches(facts, so_far),
                Join::Or => matches |= condition.matches(facts, so_far),
            }
            if *condition == Condition::Done {
                return Verdict { matches, done: true };
            }
        }
        Verdict { matches, done: false }
    }
}

impl Condition {
    fn parse(text: &str) -> Result<Self, RuleError> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        match name {
            "done" => bare("done", value, Self::Done),
            "metadata" => bare("metadata", value, Self::Metadata),
            "direct" => bare("direct", value, Self::Direct),
            "io_class" => compare("io_class", value, Number::IoClass),
            "file_size" => compare("file_size", value, Number::FileSize),
            "file_offset" => compare("file_offset", value, Number::FileOffset),
            "lba" => compare("lba", value, Number::Lba),
            "pid" => compare("pid", value, Number::Pid),
            "request_size" => compare("request_size", value, Number::RequestSize),
            "wlth" => compare("wlth", value, Number::WriteHint),
            "core_id" => compare("core_id", value, Number::CoreId),
            "hint" => compare("hint", value, Number::Hint),
            "directory" => {
                let path = self::value("directory", value)?;
                if !path.starts_with('/') || components(&path).any(|component| component == "..") {
                    return Err(RuleError::Directory(path));
                }
                Ok(Self::Directory(path))
            }
            "extension" => self::value("extension", value).map(Self::Extension),
            "file_name_prefix" => self::value("file_name_prefix", value).map(Self::FileNamePrefix),
            "process_name" => self::value("process_name", value).map(Self::ProcessName),
            "io_direction" => match self::value("io_direction", value)?.as_str() {
                "read" => Ok(Self::Direction(Direction::Read)),
                "write" => Ok(Self::Direction(Direction::Write)),
                other => Err(RuleError::Direction(other.to_owned())),
            },
            other => Err(RuleError::UnknownCondition(other.to_owned())),
        }
    }

    /// Whether the condition holds; never when what it asks for is unknown, with `ne` neither.
    fn matches(&self, facts: &Facts<'_>, so_far: u8) -> bool {
        match self {
            Self::Done => true,
            Self::Metadata => facts.class == IoClass::Metadata,
            Self::Direct => facts.direct == Some(true),
            Self::Compare(number, operator, value) => {
                number.of(facts, so_far).is_some_and(|number| operator.holds(number, *value))
            }
            Self::Directory(directory) => facts.is_in(directory),
            Self::Extension(extension) => {
                let parts = facts.file_name().and_then(|name| name.rsplit_once('.'));
                parts.is_some_and(|(_, last)| last == extension)
            }
            Self::FileNamePrefix(prefix) => facts.file_name().is_some_and(|name| name.starts_with(prefix)),
            Self::ProcessName(name) => facts.process_name == Some(name),
            Self::Direction(direction) => facts.direction == Some(*direction),
        }
    }
}

impl Number {
    fn of(self, facts: &Facts<'_>, so_far: u8) -> Option<u64> {
        match self {
            Self::IoClass => Some(so_far.into()),
            Self::FileSize => facts.file_size,
            Self::FileOffset => facts.file_offset,
            Self::Lba => facts.lba,
            Self::Pid => facts.pid.map(u64::from),
            Self::RequestSize => facts.request_size,
            Self::WriteHint => facts.write_hint.map(u64::from),
            Self::CoreId => facts.disk.map(u64::from),
            Self::Hint => facts.hint.map(u64::from),
        }
    }
}

impl Operator {
    fn parse(text: &str) -> Result<Self, RuleError> {
        match text {
            "eq" => Ok(Self::Eq),
            "ne" => Ok(Self::Ne),
            "lt" => Ok(Self::Lt),
            "gt" => Ok(Self::Gt),
            "le" => Ok(Self::Le),
            "ge" => Ok(Self::Ge),
            other => Err(RuleError::UnknownOperator(other.to_owned())),
        }
    }

    fn holds(self, left: u64, right: u64) -> bool {
        match self {
            Self::Eq => left == right,
            Self::Ne => left != right,
            Self::Lt => left < right,
            Self::Gt => left > right,
            Self::Le => left <= right,
            Self::Ge => left >= right,
        }
    }
}

fn bare(name: &'static str, value: Option<&str>, condition: Condition) -> Result<Condition, RuleError> {
    match value {
        None => Ok(condition),
        Some(_) => Err(RuleError::UnexpectedValue(name)),
    }
}

fn value(name: &'static str, value: Option<&str>) -> Result<String, RuleError> {
    let value = value.filter(|value| !value.is_empty()).ok_or(RuleError::MissingValue(name))?;
    if value.len() > MAX_VALUE {
        return Err(RuleError::LongValue(name));
    }
    Ok(value.to_owned())
}

/// A number alone means that one exactly.
fn compare(name: &'static str, text: Option<&str>, number: Number) -> Result<Condition, RuleError> {
    let text = value(name, text)?;
    let (operator, digits) = match text.split_once(':') {
        Some((operator, digits)) => (Operator::parse(operator)?, digits),
        None => (Operator::Eq, text.as_str()),
    };
    let value = digits.parse().map_err(|_| RuleError::Number(digits.to_owned()))?;
    if matches!(number, Number::CoreId) && value > MAX_CORE_ID {
        return Err(RuleError::CoreId(value));
    }
    Ok(Condition::Compare(number, operator, value))
}
