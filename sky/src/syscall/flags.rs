//! Flags and choices by name. Values are those of Linux's `include/uapi` for x86-64.
//!
//! Only what helps to understand a program's I/O is named; other bits are written in hexadecimal.

mod files;
mod others;

pub use files::*;
pub use others::*;

use std::fmt::Write;

use super::value::Value;

/// Some bits of a word and what they are called if they have one value.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The bits.
    pub mask: u64,
    /// What they are to be.
    pub value: u64,
    /// The name of that.
    pub name: &'static str,
}

/// Flags that go into one argument.
#[derive(Debug)]
pub struct FlagSet {
    /// What they are called together, for people.
    pub name: &'static str,
    /// Compared in this order: a flag that includes another comes before it.
    pub flags: &'static [Flag],
    /// The argument is a `long`: all 64 bits count.
    pub wide: bool,
}

impl FlagSet {
    /// The names of `value`'s bits joined by `|`; what has no name comes last, in hexadecimal.
    #[must_use]
    pub fn describe(&self, value: u64) -> String {
        let mut rest = if self.wide { value } else { value & 0xffff_ffff };
        let mut open = u64::MAX;
        let mut text = String::new();
        for flag in self.flags {
            if flag.mask & !open == 0 && rest & flag.mask == flag.value {
                if !text.is_empty() {
                    text.push('|');
                }
                text.push_str(flag.name);
                open &= !flag.mask;
                rest &= !flag.mask;
            }
        }
        if text.is_empty() && rest == 0 {
            return "0".to_owned();
        }
        if rest != 0 {
            let separator = if text.is_empty() { "" } else { "|" };
            // Writing to a string cannot fail.
            let _ = write!(text, "{separator}{rest:#x}");
        }
        text
    }

    /// The flag of this name.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<&'static Flag> {
        self.flags.iter().find(|flag| flag.name == name)
    }
}

/// An `int` that is one of several values.
#[derive(Debug)]
pub struct Choice {
    /// What they are called together, for people.
    pub name: &'static str,
    /// The values and their names.
    pub values: &'static [(i32, &'static str)],
}

impl Choice {
    /// The name of `value`.
    #[must_use]
    pub fn describe(&self, value: i32) -> Option<&'static str> {
        self.values.iter().find(|(known, _)| *known == value).map(|(_, name)| *name)
    }
}

/// Writes a [`FlagSet`]: `NAME = value`, or `NAME = value in mask` for a field of several bits.
macro_rules! flags {
    ($(#[$doc:meta])* $set:ident, wide = $wide:literal: $($name:ident = $value:literal $(in $mask:literal)?,)*) => {
        $(#[$doc])*
        pub static $set: FlagSet = FlagSet {
            name: stringify!($set),
            wide: $wide,
            flags: &[$(Flag { name: stringify!($name), value: $value, mask: flags!(@mask $value $($mask)?) },)*],
        };
    };
    (@mask $value:literal) => { $value };
    (@mask $value:literal $mask:literal) => { $mask };
}

/// Writes a [`Choice`]: `NAME = value`.
macro_rules! choice {
    ($(#[$doc:meta])* $set:ident: $($name:ident = $value:literal,)*) => {
        $(#[$doc])*
        pub static $set: Choice =
            Choice { name: stringify!($set), values: &[$(($value, stringify!($name)),)*] };
    };
}

use {choice, flags};

/// A signal by its name, `SIGRT_n` for real-time ones as strace counts them, from 32 on.
pub(super) fn signal(number: i32) -> Value {
    match number {
        32..=64 => Value::Flags(format!("SIGRT_{}", number - 32)),
        _ => SIGNAL.describe(number).map_or(Value::Signed(number.into()), Value::Name),
    }
}

/// Whether `open`'s flags make the kernel look at the mode (`build_open_how`, `fs/open.c`).
pub(super) fn creates(flags: u64) -> bool {
    const TMPFILE: u64 = 0o20_000_000;
    const CREATE: u64 = 0o100;
    flags & (CREATE | TMPFILE) != 0
}
