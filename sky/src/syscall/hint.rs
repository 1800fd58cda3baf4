//! Hints that a program gives with a call, in registers that the call does not use.

/// What R8 holds if R9 holds a hint: "SKYHINT1".
pub const HINT_MAGIC: u64 = 0x534b_5948_494e_5431;

/// A program's word about the data of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Hint {
    /// The class that it gives the data; what classes mean is the configuration's affair.
    pub class: u32,
}

/// Calls that carry hints, by number. None of them looks at R8 or R9.
///
/// `preadv` and `pwritev` declare a fifth argument, the high half of the position. A 64-bit kernel drops it:
/// `pos_from_hilo` in `fs/read_write.c` shifts it left by half a `long` twice, which leaves nothing. That holds
/// for `preadv2` and `pwritev2` as well, but there R9 holds flags.
const CARRIERS: [u64; 9] = [0, 1, 17, 18, 19, 20, 74, 295, 296];

/// The hint in the arguments of call `number`.
pub(super) fn find(number: u64, args: &[u64; 6]) -> Option<Hint> {
    if !CARRIERS.contains(&number) || args[4] != HINT_MAGIC {
        return None;
    }
    Some(Hint { class: u32::try_from(args[5]).ok()? })
}
