//! Builds BTF sections, for tests.

use super::SIGNATURE;

/// Builds sections word by word.
pub(crate) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0] }
    }

    pub(crate) fn string(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    pub(crate) fn words(&mut self, words: &[u32]) {
        for word in words {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
    }

    pub(crate) fn head(&mut self, name: &str, kind: u32, vlen: u32, size: u32) {
        let name = self.string(name);
        self.words(&[name, (kind << 24) | vlen, size]);
    }

    pub(crate) fn member(&mut self, name: &str, type_id: u32, byte: u32) {
        let name = self.string(name);
        self.words(&[name, type_id, byte * 8]);
    }

    pub(crate) fn build(self) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        for word in [0, types, types, strings] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }
}
