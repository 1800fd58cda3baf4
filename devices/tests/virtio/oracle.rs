//! What a request does, said again as plainly as possible: byte by byte, on vectors.
//!
//! It shares no code with the device. Where the specification leaves a choice, the device's documented one is made.

use crate::driver::*;

/// A descriptor as it stands in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

/// All that a request can read or change.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct World {
    /// Guest memory from [`DATA_BASE`] on.
    pub(crate) data: Vec<u8>,
    pub(crate) disk: Vec<u8>,
    pub(crate) read_only: bool,
}

impl World {
    /// Index of guest memory, if all `length` bytes are there.
    fn index(&self, address: u64, length: u32) -> Option<usize> {
        let start = usize::try_from(address.checked_sub(DATA_BASE)?).ok()?;
        let end = start.checked_add(length as usize)?;
        (end <= self.data.len()).then_some(start)
    }

    fn descriptor(&self, address: u64) -> Option<Raw> {
        let at = self.index(address, 16)?;
        let bytes = &self.data[at..at + 16];
        Some(Raw {
            address: number(&bytes[..8]),
            length: number(&bytes[8..12]) as u32,
            flags: number(&bytes[12..14]) as u16,
            next: number(&bytes[14..]) as u16,
        })
    }

    /// The descriptors of a chain, or nothing if it does not end.
    fn walk(&self, table: &[Raw], head: u16) -> Option<Vec<Raw>> {
        let mut chain = vec![];
        let mut indirect: Option<(u64, u32)> = None;
        let mut index = head;
        loop {
            let entries = indirect.map_or(table.len() as u32, |(_, entries)| entries);
            let steps_here = chain.len() as u32 - indirect.map_or(0, |_| steps_before(table, head));
            if u32::from(index) >= entries || steps_here >= entries {
                return None;
            }
            let entry = match indirect {
                None => table[usize::from(index)],
                Some((address, _)) => self.descriptor(address.checked_add(16 * u64::from(index))?)?,
            };
            if entry.flags & FLAG_INDIRECT != 0 {
                if indirect.is_some() || entry.length % 16 != 0 || entry.length / 16 > 0xffff {
                    return None;
                }
                indirect = Some((entry.address, entry.length / 16));
                index = 0;
                continue;
            }
            chain.push(entry);
            if chain.iter().map(|entry| u64::from(entry.length)).sum::<u64>() > u64::from(u32::MAX) {
                return None;
            }
            if entry.flags & FLAG_NEXT == 0 {
                return Some(chain);
            }
            index = entry.next;
        }
    }

    /// Serves the chain at `head`: the length in the used ring, and the status if there is a byte for it.
    pub(crate) fn serve(&mut self, table: &[Raw], head: u16) -> (u32, Option<u8>) {
        let silence = (0, None);
        let Some(chain) = self.walk(table, head) else { return silence };
        let chain: Vec<_> = chain.into_iter().filter(|entry| entry.length > 0).collect();
        let writable = |entry: &&Raw| entry.flags & FLAG_WRITE != 0;
        let Some(last) = chain.iter().rfind(writable) else { return silence };
        let Some(last_byte) = last.address.checked_add(u64::from(last.length) - 1) else { return silence };
        let Some(status_at) = self.index(last_byte, 1) else { return silence };

        let room = chain.iter().filter(writable).map(|entry| u64::from(entry.length)).sum::<u64>() - 1;
        let (status, written) = match self.answer(&chain) {
            Ok(written) => (OK, written),
            Err(status) => (status, 0),
        };
        self.data[status_at] = status;
        (u32::try_from(if written == room { room + 1 } else { written }).unwrap(), Some(status))
    }

    /// Does what the chain asks for; the number of bytes written to it, or the status that refuses it.
    fn answer(&mut self, chain: &[Raw]) -> Result<u64, u8> {
        let is_writable = |entry: &Raw| entry.flags & FLAG_WRITE != 0;
        if !chain.is_sorted_by_key(is_writable) {
            return Err(IOERR);
        }
        let (mut input, mut output) = (vec![], vec![]);
        for entry in chain {
            let at = self.index(entry.address, entry.length).ok_or(IOERR)?;
            let places = at..at + entry.length as usize;
            if is_writable(entry) { output.extend(places) } else { input.extend(places) }
        }
        output.pop();
        let input: Vec<u8> = input.into_iter().map(|at| self.data[at]).collect();
        if input.len() < 16 || input.len() > 16 + (16 << 20) || output.len() > 16 << 20 {
            return Err(IOERR);
        }
        let (header, input) = input.split_at(16);
        let sector = number(&header[8..]);
        let empty = |wanted: bool| if wanted { Ok(()) } else { Err(IOERR) };
        match number(&header[..4]) as u32 {
            IN => {
                empty(input.is_empty())?;
                let from = self.on_disk(sector, output.len() as u64)?;
                for (to, &byte) in output.iter().zip(&self.disk[from..]) {
                    self.data[*to] = byte;
                }
                Ok(output.len() as u64)
            }
            OUT => {
                empty(output.is_empty() && !self.read_only)?;
                let at = self.on_disk(sector, input.len() as u64)?;
                self.disk[at..at + input.len()].copy_from_slice(input);
                Ok(0)
            }
            FLUSH => empty(input.is_empty() && output.is_empty()).map(|()| 0),
            GET_ID => {
                empty(input.is_empty() && output.len() >= 20)?;
                for (to, byte) in output.iter().zip(*b"sky-test\0\0\0\0\0\0\0\0\0\0\0\0") {
                    self.data[*to] = byte;
                }
                Ok(20)
            }
            kind @ (DISCARD | WRITE_ZEROES) => {
                empty(output.is_empty())?;
                empty(!input.is_empty() && input.len() % 16 == 0 && input.len() <= 32 * 16)?;
                self.zero(kind, input)
            }
            _ => Err(UNSUPP),
        }
    }

    fn zero(&mut self, kind: u32, list: &[u8]) -> Result<u64, u8> {
        if self.read_only {
            return Err(IOERR);
        }
        let known_flags = if kind == DISCARD { 0 } else { 1 };
        if list.chunks(16).any(|range| number(&range[12..]) & !known_flags != 0) {
            return Err(UNSUPP);
        }
        let mut places = vec![];
        for range in list.chunks(16) {
            let length = 512 * number(&range[8..12]);
            let at = self.on_disk(number(&range[..8]), length)?;
            places.extend(at..at + length as usize);
        }
        places.into_iter().for_each(|at| self.disk[at] = 0);
        Ok(0)
    }

    fn on_disk(&self, sector: u64, length: u64) -> Result<usize, u8> {
        let start = u128::from(sector) * 512;
        let fits = length.is_multiple_of(512) && start + u128::from(length) <= self.disk.len() as u128;
        if fits { Ok(start as usize) } else { Err(IOERR) }
    }
}

/// Descriptors that a chain takes from the main table before it enters an indirect one.
fn steps_before(table: &[Raw], head: u16) -> u32 {
    let mut index = usize::from(head);
    let mut steps = 0;
    while table[index].flags & FLAG_INDIRECT == 0 {
        index = usize::from(table[index].next);
        steps += 1;
    }
    steps
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}
