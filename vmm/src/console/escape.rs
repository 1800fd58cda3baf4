//! The key that leaves the guest: Ctrl-A, then x. Ctrl-A twice is one Ctrl-A for the guest.

const CTRL_A: u8 = 1;

/// Watches what the user types.
#[derive(Debug, Default)]
pub(super) struct Escape {
    pending: bool,
}

/// What became of some input.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// This is for the guest.
    Input(Vec<u8>),
    /// The user wants to leave.
    Leave,
}

impl Escape {
    pub(super) fn filter(&mut self, input: &[u8]) -> Typed {
        let mut passed = Vec::with_capacity(input.len() + 1);
        for &byte in input {
            if self.pending {
                self.pending = false;
                match byte {
                    b'x' | b'X' => return Typed::Leave,
                    CTRL_A => passed.push(CTRL_A),
                    other => passed.extend([CTRL_A, other]),
                }
            } else if byte == CTRL_A {
                self.pending = true;
            } else {
                passed.push(byte);
            }
        }
        Typed::Input(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_sequence_leaves() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ls\r"), Typed::Input(b"ls\r".to_vec()));
        assert_eq!(escape.filter(b"x\x01"), Typed::Input(b"x".to_vec()));
        assert_eq!(escape.filter(b"\x01x"), Typed::Input(b"\x01x".to_vec()));
        assert_eq!(escape.filter(b"\x01c\x01"), Typed::Input(b"\x01c".to_vec()));
        assert_eq!(escape.filter(b"x"), Typed::Leave);
    }
}
