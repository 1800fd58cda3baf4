//! From registers and memory to [`Decoded`].

use std::borrow::Cow;

use crate::guest::View;

use super::flags::{self, creates};
use super::memory::{self, Buffers};
use super::signature::{Argument, Kind, Layout};
use super::value::Value;
use super::{Decoded, Outcome, RawCall, layout, sockaddr};

/// How much of a call is read and kept. Whatever the guest says, no more than this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a path.
    pub path: usize,
    /// Bytes of another string.
    pub string: usize,
    /// Bytes of a buffer, or of each buffer of an array.
    pub buffer: usize,
    /// Elements of an array of `struct iovec`.
    pub iovecs: usize,
    /// Elements of `argv` and `envp`.
    pub strings: usize,
}

/// Paths and arrays of buffers as long as the kernel takes them (`PATH_MAX`, `UIO_MAXIOV`), buffers as strace cuts them.
impl Default for Limits {
    fn default() -> Self {
        Self { path: 4096, string: 256, buffer: 32, iovecs: 1024, strings: 32 }
    }
}

/// When the guest was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the kernel saw the call: only what the program passes can be read.
    Entered,
    /// After it. What the program passed is read, too; it may have changed meanwhile.
    Returned(Outcome),
}

/// Decodes `call` of the process whose memory `view` shows.
#[must_use]
pub fn decode(call: &RawCall, view: &View<'_>, moment: Moment, limits: Limits) -> Decoded {
    let outcome = match moment {
        Moment::Entered => None,
        Moment::Returned(outcome) => Some(outcome),
    };
    let reader = Reader { call, view, limits, outcome };
    let (name, args) = match call.signature() {
        Some(signature) => {
            let args = signature.args.iter().enumerate();
            let args = args
                .filter_map(|(index, argument)| Some((argument.name, reader.argument(index, argument.kind)?)))
                .collect();
            (Cow::Borrowed(signature.name), args)
        }
        None => {
            let name = call.name().map_or_else(|| format!("syscall_{:#x}", call.id()).into(), Cow::Borrowed);
            let names = ["arg0", "arg1", "arg2", "arg3", "arg4", "arg5"];
            (name, names.into_iter().zip(call.args.map(Value::Hex)).collect())
        }
    };
    Decoded { call: *call, name, args, outcome, limits }
}

/// Fills in what the kernel has stored.
pub(super) fn returned(decoded: &mut Decoded, view: &View<'_>, outcome: Outcome) {
    decoded.outcome = Some(outcome);
    let Some(signature) = decoded.call.signature() else { return };
    let call = decoded.call;
    let reader = Reader { call: &call, view, limits: decoded.limits, outcome: Some(outcome) };
    for (index, &Argument { name, kind }) in signature.args.iter().enumerate() {
        if !kind.is_out() {
            continue;
        }
        let slot = decoded.args.iter_mut().find(|(known, _)| *known == name);
        if let (Some((_, slot)), Some(value)) = (slot, reader.argument(index, kind)) {
            *slot = value;
        }
    }
}

struct Reader<'a> {
    call: &'a RawCall,
    view: &'a View<'a>,
    limits: Limits,
    outcome: Option<Outcome>,
}

impl Reader<'_> {
    /// The value of an argument; `None` if this call has none there.
    fn argument(&self, index: usize, kind: Kind) -> Option<Value> {
        let raw = *self.call.args.get(index)?;
        let low = low(raw);
        Some(match kind {
            Kind::Fd | Kind::Int | Kind::Pid | Kind::Uid => Value::Signed(low.cast_signed().into()),
            Kind::DirFd if low.cast_signed() == libc::AT_FDCWD => Value::Name("AT_FDCWD"),
            Kind::DirFd => Value::Signed(low.cast_signed().into()),
            Kind::UInt => Value::Unsigned(low.into()),
            Kind::Long | Kind::Offset => Value::Signed(raw.cast_signed()),
            Kind::ULong | Kind::Size => Value::Unsigned(raw),
            Kind::Mode => Value::Mode(low & 0xffff),
            Kind::FileMode => layout::file_mode(low & 0xffff),
            Kind::CreateMode { flags } if creates(self.raw(flags)) => Value::Mode(low & 0xffff),
            Kind::CreateMode { .. } => return None,
            Kind::Device => layout::device(low),
            Kind::Signal => flags::signal(low.cast_signed()),
            Kind::Hex => Value::Hex(low.into()),
            Kind::HexLong => Value::Hex(raw),
            Kind::Address => Value::Address(raw),
            Kind::Path => memory::string(self.view, raw, self.limits.path),
            Kind::Str => memory::string(self.view, raw, self.limits.string),
            Kind::Strings => memory::strings(self.view, raw, self.limits.strings, self.limits.string),
            Kind::BytesIn { length } => {
                memory::bytes(self.view, raw, self.quantity(length), self.limits.buffer)
            }
            Kind::IovecIn { count } => self.iovecs(raw, count, Buffers::Bytes(u64::MAX)),
            Kind::Iovec { count } => self.iovecs(raw, count, Buffers::Addresses),
            Kind::StructIn(layout) => layout::read(self.view, layout, raw),
            Kind::SockaddrIn { length } => sockaddr::read(self.view, raw, self.quantity(length)),
            Kind::FcntlArgument { command } => return self.fcntl(low_int(self.raw(command)), raw),
            Kind::Flags(set) => Value::Flags(set.describe(raw)),
            Kind::Enum(choice) => {
                choice.describe(low.cast_signed()).map_or(Value::Hex(low.into()), Value::Name)
            }
            Kind::PathOut { .. }
            | Kind::BytesOut { .. }
            | Kind::IovecOut { .. }
            | Kind::StructOut(_)
            | Kind::SockaddrOut { .. } => self.output(raw, kind),
        })
    }

    /// What the kernel stored at `address`, once it has and if it did.
    fn output(&self, address: u64, kind: Kind) -> Value {
        let value = self.outcome.and_then(Outcome::value);
        // The array itself is the program's: it can be shown before the bytes are there.
        if let (Kind::IovecOut { count }, None) = (kind, value) {
            return self.iovecs(address, count, Buffers::Addresses);
        }
        let Some(result) = value.and_then(|value| u64::try_from(value).ok()) else {
            return Value::Address(address);
        };
        match kind {
            // Some results are how much there would be: of a datagram that was cut, of an attribute with size 0.
            Kind::BytesOut { length } => {
                let count = result.min(self.quantity(length));
                memory::bytes(self.view, address, count, self.limits.buffer)
            }
            Kind::PathOut { .. } => memory::string(self.view, address, self.limits.path),
            Kind::IovecOut { count } => self.iovecs(address, count, Buffers::Bytes(result)),
            // No process, no status.
            Kind::StructOut(Layout::WaitStatus) if result == 0 => Value::Address(address),
            Kind::StructOut(layout) => layout::read(self.view, layout, address),
            Kind::SockaddrOut { length } => {
                let size = memory::array(self.view, self.raw(length)).map_or(0, i32::from_le_bytes);
                sockaddr::read(self.view, address, u64::try_from(size).unwrap_or(0))
            }
            _ => Value::Address(address),
        }
    }

    fn iovecs(&self, address: u64, count: usize, buffers: Buffers) -> Value {
        let limits = self.limits;
        memory::iovecs(self.view, address, self.quantity(count), buffers, limits.iovecs, limits.buffer)
    }

    /// The argument of an `fcntl` command.
    fn fcntl(&self, command: i32, raw: u64) -> Option<Value> {
        const F_GETSIG: i32 = 11;
        Some(match command {
            F_GETSIG | libc::F_GETFD | libc::F_GETFL | libc::F_GETOWN | libc::F_GETLEASE => return None,
            libc::F_GETPIPE_SZ | libc::F_GET_SEALS => return None,
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC | libc::F_SETOWN | libc::F_SETPIPE_SZ => {
                Value::Signed(low_int(raw).into())
            }
            libc::F_SETFD => Value::Flags(flags::FD_FLAGS.describe(raw)),
            libc::F_SETFL => Value::Flags(flags::OPEN.describe(raw)),
            _ => Value::Hex(raw),
        })
    }

    /// Argument `index` as the registers hold it.
    fn raw(&self, index: usize) -> u64 {
        self.call.args.get(index).copied().unwrap_or(0)
    }

    /// Argument `index` as a number of things. Of negative ones there are none.
    fn quantity(&self, index: usize) -> u64 {
        let raw = self.raw(index);
        let kind = self.call.signature().and_then(|signature| signature.args.get(index));
        match kind.map(|argument| argument.kind) {
            Some(Kind::Int) => u64::try_from(low_int(raw)).unwrap_or(0),
            Some(Kind::UInt) => low(raw).into(),
            _ => raw,
        }
    }
}

/// The half of a register that the kernel takes an `int` from.
#[expect(clippy::cast_possible_truncation, reason = "the kernel looks at the low half, too")]
fn low(raw: u64) -> u32 {
    raw as u32
}

fn low_int(raw: u64) -> i32 {
    low(raw).cast_signed()
}
