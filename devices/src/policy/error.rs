//! Why a policy file is refused.

/// A line of a policy file, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {kind}")]
pub struct PolicyError {
    /// Number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub kind: PolicyErrorKind,
}

/// What is wrong with a line of a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyErrorKind {
    /// Nobody writes such a file by hand, and whoever else does may not make us work for long.
    #[error("the file is longer than {} bytes", super::MAX_FILE_BYTES)]
    FileTooLong,
    /// The file has no header.
    #[error("the header is missing: {}", super::HEADER)]
    NoHeader,
    /// The header does not name this column.
    #[error("the header has no column {0:?}")]
    MissingColumn(&'static str),
    /// The header names a column that does not exist.
    #[error("unknown column {0:?}")]
    UnknownColumn(String),
    /// The header names a column twice.
    #[error("column {0:?} is there twice")]
    DuplicateColumn(&'static str),
    /// The file has a header and no class.
    #[error("no class follows")]
    NoClasses,
    /// The line has too few or too many fields.
    #[error("4 fields are needed, {0} are there")]
    Fields(usize),
    /// Quotation marks around a field are not closed, or inside of one.
    #[error("misplaced quotation mark")]
    Quote,
    /// The id is not one of a class.
    #[error("class id {0:?} is not a number from 0 to 32, or 33 for prefetch")]
    Id(String),
    /// An earlier line has the same id.
    #[error("class {0} is there twice")]
    DuplicateId(u8),
    /// The class has a fixed name, and the line another one.
    #[error("class {id} is always named {expected}")]
    FixedName {
        /// The class.
        id: u8,
        /// Its name.
        expected: &'static str,
    },
    /// The name is empty, too long, or not printable ASCII.
    #[error(
        "a class name is 1 to {} printable ASCII characters without comma and quotation mark",
        super::MAX_NAME
    )]
    Name,
    /// The priority is not one.
    #[error("eviction priority {0:?} is neither a number from 0 to 255 nor empty for pinned")]
    Priority(String),
    /// The allocation is not one.
    #[error("allocation {0:?} is not a number from 0.00 to 1.00 in at most 4 characters")]
    Allocation(String),
    /// The rule does not say something.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

/// What is wrong with a rule, that is, with the name of a class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The condition does not exist, or is empty as in `a&&b`.
    #[error("unknown condition {0:?}")]
    UnknownCondition(String),
    /// The condition takes no value.
    #[error("condition {0} takes no value")]
    UnexpectedValue(&'static str),
    /// The condition needs a value.
    #[error("condition {0} needs a value")]
    MissingValue(&'static str),
    /// The operator is none of eq, ne, lt, gt, le, ge.
    #[error("unknown operator {0:?}, expected eq, ne, lt, gt, le or ge")]
    UnknownOperator(String),
    /// The value is not a whole number that 64 bits can say.
    #[error("{0:?} is not a whole number of at most 64 bits")]
    Number(String),
    /// The value is longer than any name.
    #[error("the value of {0} is longer than {max} bytes", max = super::rule::MAX_VALUE)]
    LongValue(&'static str),
    /// The value of `directory` could never match.
    #[error("directory {0:?} is not an absolute path without \"..\"")]
    Directory(String),
    /// The value of `io_direction` is neither `read` nor `write`.
    #[error("direction {0:?} is neither read nor write")]
    Direction(String),
    /// The value of `core_id` is not the number of a disk.
    #[error("core_id {0} is larger than 4095")]
    CoreId(u64),
}
