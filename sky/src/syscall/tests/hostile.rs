//! Any registers, any memory: an answer of bounded size.

use proptest::prelude::*;

use super::guest::{END, Guest, START};
use crate::syscall::{Limits, Moment, Outcome, RawCall, decode};

/// Registers that are numbers, addresses of the mapped pages and around them, or anything.
fn register() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..64u64,
        START - 16..END + 16,
        any::<i32>().prop_map(|value| value.cast_unsigned().into())
    ]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..470u64, 1 => any::<u64>()]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        any::<i64>().prop_map(Outcome::Returned),
        (-200..5000i64).prop_map(Outcome::Returned),
        Just(Outcome::Restarts),
        Just(Outcome::Unknown)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_call_is_decoded(
        number in number(),
        args in proptest::array::uniform6(register()),
        words in proptest::collection::vec(register(), 1..600),
        outcome in outcome(),
    ) {
        let guest = Guest::new();
        // Structures and arrays lead to each other, to themselves, and out of what is mapped.
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        for page in [0, 1, 9, 31, 63] {
            guest.write(START + page * 4096, &bytes[..bytes.len().min(4096)]);
        }
        let limits = Limits { path: 100, string: 50, buffer: 32, iovecs: 20, strings: 10 };
        let call = RawCall { number, args };
        let mut decoded = decode(&call, &guest.view(), Moment::Entered, limits);
        prop_assert!(decoded.args.len() <= 6);
        decoded.returned(&guest.view(), outcome);
        prop_assert_eq!(&decoded, &decode(&call, &guest.view(), Moment::Returned(outcome), limits));
        // Four characters for a byte at most; the longest are two arrays of buffers.
        let line = decoded.line().to_string();
        prop_assert!(line.len() < 2 * 20 * (4 * 32 + 60) + 1000, "{}", line.len());
        prop_assert!(line.starts_with(&*decoded.name));
        let json = serde_json::to_value(&decoded).unwrap();
        prop_assert_eq!(json["raw"].as_array().unwrap().len(), 6);
        prop_assert_eq!(json["args"].as_object().unwrap().len(), decoded.args.len());
    }

    /// With limits of zero nothing is kept.
    #[test]
    fn limits_bound_everything(number in 0..470u64, args in proptest::array::uniform6(register()), fill in any::<u8>()) {
        let guest = Guest::new();
        guest.write(START, &[fill; 64 * 4096]);
        let limits = Limits { path: 0, string: 0, buffer: 0, iovecs: 0, strings: 0 };
        let decoded = decode(&RawCall { number, args }, &guest.view(), Moment::Returned(Outcome::Returned(1 << 40)), limits);
        prop_assert!(decoded.line().to_string().len() < 1000);
    }

    /// Escapes are read back by an independent reader, and nothing but printable ASCII is written.
    #[test]
    fn escapes_are_not_ambiguous(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
        let text = crate::syscall::Value::bytes(bytes.clone()).to_string();
        prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        prop_assert_eq!(unescape(&text[1..text.len() - 1]), bytes);
    }
}

/// C's rules: up to three octal digits.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.bytes().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            assert_ne!(byte, b'"');
            out.push(byte);
            continue;
        }
        let code = rest.next().unwrap();
        match code {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'v' => out.push(0x0b),
            b'f' => out.push(0x0c),
            b'"' | b'\\' => out.push(code),
            _ => {
                let mut value = u32::from(code - b'0');
                for _ in 0..2 {
                    match rest.next_if(|digit| (b'0'..=b'7').contains(digit)) {
                        Some(digit) => value = value * 8 + u32::from(digit - b'0'),
                        None => break,
                    }
                }
                out.push(u8::try_from(value).unwrap());
            }
        }
    }
    out
}
