//! A small section built by hand after the format's document, and whatever proptest can make of it.

use proptest::prelude::*;

use super::*;
use crate::guest::btf::builder::Builder;

fn sample() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.head("int", kind::INT, 0, 4); // 1
    builder.words(&[32]);
    builder.head("inner", kind::STRUCT, 2, 16); // 2
    builder.member("a", 1, 0);
    builder.member("b", 1, 8);
    builder.head("inner_t", kind::TYPEDEF, 0, 2); // 3
    builder.head("", kind::UNION, 2, 16); // 4, anonymous
    builder.member("x", 1, 0);
    builder.member("y", 3, 0);
    builder.head("", kind::ARRAY, 0, 0); // 5
    builder.words(&[3, 1, 6]);
    builder.head("outer", kind::STRUCT, 3, 200); // 6
    builder.member("first", 1, 0);
    builder.member("", 4, 24);
    builder.member("list", 5, 64);
    builder.head("current_thing", kind::VAR, 0, 6); // 7
    builder.words(&[1]);
    builder.head(".data..percpu", kind::DATASEC, 1, 0); // 8
    builder.words(&[7, 0x1_2340, 200]);
    builder.build()
}

#[test]
fn members_nested_anonymous_and_in_arrays() {
    let btf = Btf::parse(sample()).unwrap();
    assert_eq!(btf.offset("outer", "first").unwrap(), 0);
    assert_eq!(btf.offset("outer", "x").unwrap(), 24);
    assert_eq!(btf.offset("outer", "y.b").unwrap(), 32);
    let list = btf.member("outer", "list").unwrap();
    assert_eq!((list.offset, btf.array(list).unwrap()), (64, (6, 16)));
    assert_eq!((btf.size("inner").unwrap(), btf.size("outer").unwrap()), (16, 200));
    assert_eq!(btf.per_cpu("current_thing"), Some(0x1_2340));
    assert!(btf.has_struct("inner") && !btf.has_struct("inner_t"));
}

#[test]
fn what_is_missing_is_named() {
    let btf = Btf::parse(sample()).unwrap();
    assert_eq!(btf.offset("outer", "z").unwrap_err().to_string(), "guest BTF: no member z in struct outer");
    assert_eq!(btf.offset("nobody", "z").unwrap_err().to_string(), "guest BTF: no struct nobody");
    assert!(btf.array(btf.member("outer", "first").unwrap()).is_err());
}

#[test]
fn every_truncation_is_refused() {
    let whole = sample();
    for length in 0..whole.len() {
        assert!(Btf::parse(whole[..length].to_vec()).is_err(), "{length} bytes were accepted");
    }
}

#[test]
fn sizes_that_no_kernel_has_are_refused() {
    let mut bytes = sample();
    bytes[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(section_size(&bytes).is_err());
}

proptest! {
    #[test]
    fn damaged_sections_never_panic(changes in proptest::collection::vec((24usize..400, any::<u8>()), 1..20)) {
        let mut bytes = sample();
        let length = bytes.len();
        for (at, value) in changes {
            bytes[at % length] = value;
        }
        if let Ok(btf) = Btf::parse(bytes) {
            for member in ["first", "x", "y.b", "list", "y.b.c"] {
                if let Ok(member) = btf.member("outer", member) {
                    let _ = btf.array(member);
                }
            }
        }
    }
}
