//! Structures at the offsets that libc gives their members.

use std::mem::offset_of;

use libc::*;

use super::guest::{CWD, Guest, int};

/// Bytes of a structure with some members set.
fn structure(size: usize, members: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (offset, member) in members {
        bytes[*offset..offset + member.len()].copy_from_slice(member);
    }
    bytes
}

#[test]
fn internet_addresses() {
    let guest = Guest::new();
    let address: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
    let bytes = structure(
        size_of::<sockaddr_in6>(),
        &[
            (0, &10u16.to_le_bytes()),
            (offset_of!(sockaddr_in6, sin6_port), &443u16.to_be_bytes()),
            (offset_of!(sockaddr_in6, sin6_flowinfo), &[0xee; 4]),
            (offset_of!(sockaddr_in6, sin6_addr), &address.octets()),
        ],
    );
    assert_eq!(
        guest.line(SYS_bind, &[3, guest.bytes(&bytes), 28], 0),
        "bind(3, {sa_family=AF_INET6, sin6_port=htons(443), sin6_addr=\"2001:db8::7\", ...}, 28) = 0"
    );
    let at = guest.bytes(b"\x01\0\0hidden");
    assert_eq!(
        guest.line(SYS_bind, &[3, at, 9], 0),
        "bind(3, {sa_family=AF_UNIX, sun_path=@\"hidden\"}, 9) = 0"
    );
    // Nothing is read of a negative length, nor of one that has no room for a family.
    assert_eq!(
        guest.line(SYS_bind, &[3, at, int(-1)], -22).split(" = ").next(),
        Some(&*format!("bind(3, {at:#x}, -1)"))
    );
}

#[test]
fn clone_and_open_arguments() {
    let guest = Guest::new();
    let bytes = structure(
        64,
        &[
            (offset_of!(clone_args, flags), &u64::from(CLONE_VM.cast_unsigned()).to_le_bytes()),
            (offset_of!(clone_args, exit_signal), &17u64.to_le_bytes()),
            (offset_of!(clone_args, stack), &0x7000u64.to_le_bytes()),
            (offset_of!(clone_args, stack_size), &0x9000u64.to_le_bytes()),
        ],
    );
    assert_eq!(
        guest.line(SYS_clone3, &[guest.bytes(&bytes), 88], 5),
        "clone3({flags=CLONE_VM, exit_signal=SIGCHLD, stack=0x7000, stack_size=0x9000, ...}, 88) = 5"
    );
    let how = |flags: i32| {
        structure(
            size_of::<open_how>(),
            &[
                (offset_of!(open_how, flags), &int(flags).to_le_bytes()),
                (offset_of!(open_how, mode), &0o640u64.to_le_bytes()),
                (offset_of!(open_how, resolve), &RESOLVE_BENEATH.to_le_bytes()),
            ],
        )
    };
    let open = |flags| guest.line(SYS_openat2, &[CWD, guest.string("f"), guest.bytes(&how(flags)), 24], 3);
    assert_eq!(
        open(O_RDWR | O_CREAT),
        r#"openat2(AT_FDCWD, "f", {flags=O_RDWR|O_CREAT, mode=0640, resolve=RESOLVE_BENEATH}, 24) = 3"#
    );
    assert_eq!(
        open(O_PATH),
        r#"openat2(AT_FDCWD, "f", {flags=O_RDONLY|O_PATH, resolve=RESOLVE_BENEATH}, 24) = 3"#
    );
}

#[test]
fn wait_statuses_are_what_the_macros_say() {
    let guest = Guest::new();
    for status in (0..=0xffff).chain([i32::MIN, -1]) {
        let at = guest.bytes(&[]);
        guest.write(at, &status.to_le_bytes());
        let line = guest.line(SYS_wait4, &[1, at, 0, 0], 1);
        assert_eq!(line.contains("WIFEXITED"), WIFEXITED(status), "{status:#x}");
        assert_eq!(line.contains("WIFSTOPPED"), WIFSTOPPED(status), "{status:#x}");
        assert_eq!(line.contains("WIFCONTINUED"), WIFCONTINUED(status), "{status:#x}");
        assert_eq!(line.contains("WIFSIGNALED"), WIFSIGNALED(status), "{status:#x}");
        let core = WIFSIGNALED(status) && WCOREDUMP(status);
        assert_eq!(line.contains("WCOREDUMP"), core, "{status:#x}");
        if WIFEXITED(status) {
            assert!(line.contains(&format!("== {}}}", WEXITSTATUS(status))), "{line}");
        }
    }
}

/// Some calls return how much there would have been.
#[test]
fn no_more_is_shown_than_there_was_room_for() {
    let guest = Guest::new();
    let buffer = guest.bytes(b"only four were stored");
    let (path, name) = (guest.string("f"), guest.string("user.a"));
    let line = guest.line(SYS_getxattr, &[path, name, buffer, 0], 9);
    assert_eq!(line, r#"getxattr("f", "user.a", "", 0) = 9"#);
    let line = guest.line(SYS_recvfrom, &[3, buffer, 4, int(MSG_TRUNC), 0, 0], 21);
    assert_eq!(line, r#"recvfrom(3, "only", 4, MSG_TRUNC, NULL, NULL) = 21"#);
    // A buffer's size that is an int is taken from the low half.
    let line = guest.line(SYS_readlink, &[path, buffer, 0xffff_0000_0000_0004], 4);
    assert_eq!(line, r#"readlink("f", "only", 4) = 4"#);
}
