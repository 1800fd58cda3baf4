//! The system-call table of Linux 6.12, entries `common` and `64`, and what each entry takes.
//!
//! Argument counts and widths follow the kernel's `SYSCALL_DEFINEn`; a test compares them with the metadata that a 6.12
//! kernel carries for its own tracer. Entries that every supported kernel answers with ENOSYS have the arguments that
//! they once had, if anybody wrote them down.

mod first;
mod second;

use super::signature::{Kind, Layout, Signature};

/// Numbers up to here are known: those of 6.12, and `setxattrat` of 6.13.
pub(super) const END: usize = 464;

static TABLE: [Option<Signature>; END] = index(&[first::CALLS, second::CALLS]);

/// The signature of call `number`.
pub(super) fn find(number: u64) -> Option<&'static Signature> {
    TABLE.get(usize::try_from(number).ok()?)?.as_ref()
}

/// Sorts the lists by number, when compiled: a number that is too large does not compile, nor one that comes twice.
const fn index(lists: &[&[(usize, Signature)]]) -> [Option<Signature>; END] {
    let mut table = [None; END];
    let mut list = 0;
    while list < lists.len() {
        let mut at = 0;
        while at < lists[list].len() {
            let (number, signature) = lists[list][at];
            assert!(table[number].is_none(), "a number comes twice");
            table[number] = Some(signature);
            at += 1;
        }
        list += 1;
    }
    table
}

/// A pointer to what the kernel reads.
const fn at(layout: Layout) -> Kind {
    Kind::StructIn(layout)
}

/// A pointer to what the kernel stores.
const fn to(layout: Layout) -> Kind {
    Kind::StructOut(layout)
}

/// Writes entries: `NUMBER NAME(ARGUMENT: KIND, ...) -> RESULT;`, a plain number if no result is given.
macro_rules! calls {
    ($($number:literal $name:ident($($arg:ident: $kind:expr),*) $(-> $result:ident)?;)*) => {
        &[$((
            $number,
            Signature {
                name: stringify!($name),
                args: &[$(Argument { name: stringify!($arg), kind: $kind }),*],
                result: calls!(@result $($result)?),
            },
        ),)*]
    };
    (@result) => { ResultKind::Number };
    (@result $result:ident) => { ResultKind::$result };
}

use calls;
