//! Socket addresses: `struct sockaddr_un`, `sockaddr_in`, `sockaddr_in6`.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::guest::{Gva, View};

use super::flags;
use super::value::Value;

/// `sizeof(struct sockaddr_storage)`: the kernel takes no longer ones (`move_addr_to_kernel`, `net/socket.c`).
const MAX: usize = 128;

/// The address of `length` bytes at `address`.
pub(super) fn read(view: &View<'_>, address: u64, length: u64) -> Value {
    let mut buffer = [0; MAX];
    let size = usize::try_from(length).unwrap_or(MAX).min(MAX);
    // Without a family there is nothing to say.
    if address == 0 || size < 2 {
        return Value::Address(address);
    }
    let bytes = &mut buffer[..size];
    if view.read(Gva(address), bytes).is_err() {
        return Value::Absent(address);
    }
    let [low, high, body @ ..] = &*bytes else {
        return Value::Address(address);
    };
    let family = u16::from_le_bytes([*low, *high]);
    let name = flags::DOMAIN.describe(family.into()).map_or(Value::Unsigned(family.into()), Value::Name);
    let mut members = vec![("sa_family", name)];
    let cut = match (family, body) {
        (1, _) => {
            members.push(("sun_path", path(body)));
            false
        }
        (2, [p0, p1, a, b, c, d, ..]) => {
            members.push(("sin_port", port([*p0, *p1])));
            let text = format!("inet_addr(\"{}\")", Ipv4Addr::new(*a, *b, *c, *d));
            members.push(("sin_addr", Value::Flags(text)));
            false
        }
        // The flow's label lies between port and address, the scope behind.
        (10, [p0, p1, _, _, _, _, rest @ ..]) if rest.len() >= 16 => {
            members.push(("sin6_port", port([*p0, *p1])));
            let address = rest.first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |chunk| (*chunk).into());
            members.push(("sin6_addr", Value::bytes(address.to_string())));
            true
        }
        _ => !body.is_empty(),
    };
    Value::Struct { members, cut }
}

fn port(bytes: [u8; 2]) -> Value {
    Value::Flags(format!("htons({})", u16::from_be_bytes(bytes)))
}

/// A name in the file system ends at its NUL. One that begins with NUL is abstract and takes the whole length, which
/// strace marks by `@`.
fn path(body: &[u8]) -> Value {
    match body {
        [0, name @ ..] if !name.is_empty() => Value::Flags(format!("@{}", Value::bytes(name))),
        _ => Value::bytes(body.split(|&byte| byte == 0).next().unwrap_or_default()),
    }
}
