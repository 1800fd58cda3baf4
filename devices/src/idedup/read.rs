//! Reading: runs of blocks that lie side by side are read at once, all of them under the shared lock of their region.

use super::page::BLOCK;
use super::write::Chunk;
use super::{Core, lock};
use crate::block::Result;

impl Core {
    pub(super) fn read_chunk(&self, chunk: Chunk, buffer: &mut [u8]) -> Result<()> {
        let _region = self.regions.shared(chunk.first);
        if chunk.is_whole() {
            return self.read_blocks(chunk.first, buffer, true);
        }
        let mut blocks = vec![0; chunk.count() * BLOCK];
        self.read_blocks(chunk.first, &mut blocks, true)?;
        buffer.copy_from_slice(&blocks[chunk.skip..][..buffer.len()]);
        Ok(())
    }

    /// Reads whole blocks of one region, which the caller has locked, and remembers them as likely to be copied.
    pub(super) fn read_blocks(&self, first: u32, blocks: &mut [u8], remember: bool) -> Result<()> {
        let numbers = (first..).take(blocks.len() / BLOCK);
        let places: Vec<u32> = {
            let state = lock(&self.state);
            numbers.map(|logical| state.map.get(logical)).collect()
        };
        let mut reads: Vec<(u64, &mut [u8])> = Vec::new();
        let mut rest = &mut *blocks;
        for run in places.chunk_by(|a, b| (*a == 0 && *b == 0) || (*a != 0 && a + 1 == *b)) {
            let (bytes, behind) = rest.split_at_mut(run.len() * BLOCK);
            rest = behind;
            match run.first() {
                Some(&physical) if physical != 0 => reads.push((self.layout.data_place(physical), bytes)),
                _ => bytes.fill(0),
            }
        }
        if !reads.is_empty() {
            self.storage.read_many(&mut reads)?;
        }
        if remember && self.secret.is_some() {
            let there = blocks.chunks_exact(BLOCK).zip(&places).filter(|(_, physical)| **physical != 0);
            let named: Vec<_> =
                there.filter_map(|(block, physical)| Some((self.short_name(block)?, *physical))).collect();
            let mut state = lock(&self.state);
            for (name, physical) in named {
                let claim = state.claim(physical);
                state.recent.insert(name, claim);
            }
        }
        Ok(())
    }
}
