//! Bounded reading of a stopped guest's memory, page by page, taking what is there.

use crate::guest::{Gva, View};

use super::value::Value;

const PAGE: u64 = 4096;

/// The next piece of at most `left` bytes from `at` on, up to the end of its page; `None` if that page is absent.
fn piece(view: &View<'_>, at: Gva, left: usize) -> Option<Vec<u8>> {
    let rest = usize::try_from(PAGE - at.0 % PAGE).ok()?;
    let mut bytes = vec![0; rest.min(left)];
    view.read(at, &mut bytes).ok()?;
    Some(bytes)
}

/// `length` bytes, the first `limit` of them.
pub(super) fn bytes(view: &View<'_>, address: u64, length: u64, limit: usize) -> Value {
    if address == 0 {
        return Value::Address(0);
    }
    let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(limit);
    let mut bytes = Vec::new();
    while bytes.len() < wanted {
        match piece(view, Gva(address).offset(bytes.len() as u64), wanted - bytes.len()) {
            Some(more) => bytes.extend(more),
            None if bytes.is_empty() => return Value::Absent(address),
            None => break,
        }
    }
    let cut = length > bytes.len() as u64;
    Value::Bytes { bytes, cut }
}

/// A NUL-terminated string, without the NUL, the first `limit` bytes of it.
pub(super) fn string(view: &View<'_>, address: u64, limit: usize) -> Value {
    if address == 0 {
        return Value::Address(0);
    }
    let mut bytes = Vec::new();
    // One more than the limit: a string of exactly that length is whole.
    let wanted = limit.saturating_add(1);
    while bytes.len() < wanted {
        let Some(more) = piece(view, Gva(address).offset(bytes.len() as u64), wanted - bytes.len()) else {
            return Value::Absent(address);
        };
        if let Some(end) = more.iter().position(|&byte| byte == 0) {
            bytes.extend_from_slice(&more[..end]);
            return Value::Bytes { bytes, cut: false };
        }
        bytes.extend(more);
    }
    bytes.truncate(limit);
    Value::Bytes { bytes, cut: true }
}

/// `N` bytes, or `None` unless all of them are there.
pub(super) fn array<const N: usize>(view: &View<'_>, address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    view.read(Gva(address), &mut bytes).ok()?;
    Some(bytes)
}

/// A NULL-terminated array of strings, the first `count` of them, each up to `limit` bytes.
pub(super) fn strings(view: &View<'_>, address: u64, count: usize, limit: usize) -> Value {
    if address == 0 {
        return Value::Address(0);
    }
    let mut items = Vec::new();
    loop {
        let slot = Gva(address).offset(items.len() as u64 * 8);
        let Ok(pointer) = view.read_u64(slot) else {
            if items.is_empty() {
                return Value::Absent(address);
            }
            items.push(Value::Absent(slot.0));
            return Value::List { items, cut: true };
        };
        if pointer == 0 {
            return Value::List { items, cut: false };
        }
        if items.len() >= count {
            return Value::List { items, cut: true };
        }
        items.push(string(view, pointer, limit));
    }
}

/// What is shown of the buffers that an array of `struct iovec` names.
#[derive(Clone, Copy)]
pub(super) enum Buffers {
    /// Their addresses.
    Addresses,
    /// Their bytes, this many in all.
    Bytes(u64),
}

/// `count` elements of `struct iovec`, the first `most` of them, of each buffer the first `limit` bytes.
pub(super) fn iovecs(
    view: &View<'_>,
    address: u64,
    count: u64,
    buffers: Buffers,
    most: usize,
    limit: usize,
) -> Value {
    if address == 0 {
        return Value::Address(0);
    }
    let shown = usize::try_from(count).unwrap_or(usize::MAX).min(most);
    let mut left = match buffers {
        Buffers::Addresses => 0,
        Buffers::Bytes(all) => all,
    };
    let mut items = Vec::new();
    for index in 0..shown {
        let at = Gva(address).offset(index as u64 * 16);
        let words = view.read_u64(at).and_then(|base| Ok((base, view.read_u64(at.offset(8))?)));
        let Ok((base, length)) = words else {
            if items.is_empty() {
                return Value::Absent(address);
            }
            items.push(Value::Absent(at.0));
            return Value::List { items, cut: true };
        };
        let base = match buffers {
            Buffers::Addresses => Value::Address(base),
            Buffers::Bytes(_) => {
                let here = length.min(left);
                left -= here;
                bytes(view, base, here, limit)
            }
        };
        let members = vec![("iov_base", base), ("iov_len", Value::Unsigned(length))];
        items.push(Value::Struct { members, cut: false });
    }
    Value::List { items, cut: count > shown as u64 }
}
