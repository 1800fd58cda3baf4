//! Changing the disk, cluster by cluster.
//!
//! | the cluster is | what is written | durable with |
//! |---|---|---|
//! | nowhere, and the first block compresses | header, that block and those behind it, at once | the next sync |
//! | nowhere otherwise | the blocks into an N zone; its table at the next flush | that flush |
//! | embedded, not its lead block | the blocks | the next sync |
//! | embedded, its lead block, which compresses | the block behind its header | the next sync |
//! | embedded, its lead block, which does not | the whole cluster into an N zone | the next flush |
//! | plain | the blocks | the next sync |
//!
//! Over a backing image a cluster also says which blocks are its own. That is in the header while a header is looked
//! at after a crash, and in the table from then on.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use super::format::{
    BLOCK, BLOCKS, Blocks, CLUSTER, Cluster, Entry, HEADER, Kind, Lead, Virtual, ZoneKind, compress, expand,
    is_zero,
};
use super::locks::LOCKS;
use super::{Core, create, lock};
use crate::block::{Error, ErrorKind, Operation, Result};

/// Clusters that are written in one piece, at most.
const RUN: usize = 16;

/// Whole blocks that are to be written, and where in their cluster they begin.
struct Piece<'a> {
    first: usize,
    data: Cow<'a, [u8]>,
}

impl Piece<'_> {
    fn end(&self) -> usize {
        self.first + self.data.len() / BLOCK
    }

    fn blocks(&self) -> std::ops::Range<usize> {
        self.first..self.end()
    }

    /// Content of block `block`, if it is one of these.
    fn block(&self, block: usize) -> Option<&[u8]> {
        let at = block.checked_sub(self.first)? * BLOCK;
        self.data.get(at..at + BLOCK)
    }
}

/// A cluster that is nowhere yet, as it is to be.
struct New<'a> {
    of: Virtual,
    /// The first block that is written, and whole blocks from there on.
    first: usize,
    data: &'a [u8],
    /// Its table speaks of it.
    over: bool,
    /// The backing image is seen through what is not written.
    through: bool,
    blocks: Blocks,
    /// The first block that is written, compressed, if that is embedded.
    payload: Option<Vec<u8>>,
}

impl New<'_> {
    fn is_embedded(&self) -> bool {
        self.payload.is_some()
    }
}

/// The pieces of a range, one for each cluster: the cluster, the offset in it, and the length.
pub(super) fn pieces(mut offset: u64, length: u64) -> impl Iterator<Item = (Virtual, usize, usize)> {
    let end = offset + length;
    std::iter::from_fn(move || {
        let within = offset % CLUSTER as u64;
        let length = (CLUSTER as u64 - within).min(end - offset);
        // A disk has at most 2^30 clusters.
        let cluster = Virtual(u32::try_from(offset / CLUSTER as u64).ok()?);
        offset += length;
        (length > 0).then_some((cluster, usize::try_from(within).ok()?, usize::try_from(length).ok()?))
    })
}

impl Core {
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.throttle()?;
        self.activity.fetch_add(1, Ordering::Relaxed);
        let mut rest = data;
        let mut pieces = pieces(offset, data.len() as u64).peekable();
        while let Some((cluster, at, length)) = pieces.next() {
            let whole = |length| length == CLUSTER;
            if whole(length)
                && pieces.peek().is_some_and(|next| whole(next.2))
                && !self.map.get(cluster).is_mapped()
            {
                let mut held = vec![self.locks.exclusive(cluster)];
                while held.len() < RUN
                    // Locks are taken in their order, in which there is a seam.
                    && let Some((next, ..)) = pieces.next_if(|next| whole(next.2) && !next.0.0.is_multiple_of(LOCKS))
                {
                    held.push(self.locks.exclusive(next));
                }
                let (piece, later) = rest.split_at(held.len() * CLUSTER);
                rest = later;
                self.write_clusters(cluster, piece)?;
                continue;
            }
            let (piece, later) = rest.split_at(length);
            rest = later;
            if !self.write_in_place(cluster, at, piece)? {
                let _alone = self.locks.exclusive(cluster);
                self.write_cluster(cluster, at, piece)?;
            }
        }
        Ok(())
    }

    /// Writes whole clusters that nobody else looks at: together those that are new and of one kind, wherever they are
    /// among the others.
    fn write_clusters(&self, first: Virtual, data: &[u8]) -> Result<()> {
        let (mut embedded, mut plain) = (Vec::new(), Vec::new());
        for (of, data) in (first.0..).map(Virtual).zip(data.chunks(CLUSTER)) {
            let entry = self.map.get(of);
            if entry.is_mapped() {
                self.write_cluster(of, 0, data)?;
            } else if let Some(new) = self.new_cluster(of, &entry, 0, data) {
                if new.is_embedded() { &mut embedded } else { &mut plain }.push(new);
            }
        }
        self.write_new(&embedded, None)?;
        let whole = plain.len() * CLUSTER == data.len();
        self.write_new(&plain, whole.then_some(data))
    }

    /// Writes where nothing but the content changes. Returns false where that is not so.
    fn write_in_place(&self, of: Virtual, at: usize, data: &[u8]) -> Result<bool> {
        let unit = self.storage.properties().alignment as usize;
        if !at.is_multiple_of(unit) || !data.len().is_multiple_of(unit) {
            return Ok(false);
        }
        let _stays = self.locks.shared(of);
        let entry = self.map.get(of);
        let (first, end) = (at / BLOCK, (at + data.len()).div_ceil(BLOCK));
        let here = |block| entry.blocks.get(block) == Blocks::HERE && !entry.is_lead(block);
        if !entry.is_mapped() || !(first..end).all(here) {
            return Ok(false);
        }
        // They lie one behind the other unless the lead block is among them.
        self.write_at(entry.offset(first) + (at % BLOCK) as u64, data)?;
        Ok(true)
    }

    /// Writes into a cluster that nobody else looks at.
    pub(super) fn write_cluster(&self, of: Virtual, at: usize, data: &[u8]) -> Result<()> {
        let entry = self.map.get(of);
        let piece = self.whole_blocks(of, &entry, at, data)?;
        match entry.kind {
            Kind::Empty | Kind::Zero => match self.new_cluster(of, &entry, piece.first, &piece.data) {
                Some(new) => self.write_new(&[new], Some(&piece.data)),
                None => Ok(()),
            },
            Kind::Embedded => self.write_embedded(of, &entry, &piece),
            Kind::Plain => self.write_plain(of, &entry, &piece),
        }
    }

    /// Completes what begins or ends inside a block.
    fn whole_blocks<'a>(&self, of: Virtual, entry: &Entry, at: usize, data: &'a [u8]) -> Result<Piece<'a>> {
        let (first, end) = (at / BLOCK, (at + data.len()).div_ceil(BLOCK));
        if at.is_multiple_of(BLOCK) && data.len().is_multiple_of(BLOCK) {
            return Ok(Piece { first, data: Cow::Borrowed(data) });
        }
        let mut whole = vec![0; (end - first) * BLOCK];
        for block in [first, end - 1] {
            let into = (block - first) * BLOCK;
            self.read_blocks(of, entry, block, &mut whole[into..into + BLOCK])?;
        }
        let start = at % BLOCK;
        whole[start..start + data.len()].copy_from_slice(data);
        Ok(Piece { first, data: Cow::Owned(whole) })
    }

    /// What a cluster that is nowhere yet becomes; nothing if it is the zeros that are to be written.
    fn new_cluster<'a>(&self, of: Virtual, entry: &Entry, first: usize, data: &'a [u8]) -> Option<New<'a>> {
        let piece = Piece { first, data: Cow::Borrowed(data) };
        // Where the backing image is seen through what is not written.
        let through = self.has_backing() && entry.kind == Kind::Empty;
        if !through && is_zero(&piece.data) {
            return None;
        }
        let mut blocks = match (self.has_backing(), through) {
            (false, _) => Blocks::ALL_HERE,
            (true, false) => Blocks::ALL_ZERO,
            (true, true) => Blocks::default(),
        };
        if self.has_backing() {
            for block in piece.blocks() {
                let zero = piece.block(block).is_some_and(is_zero);
                let written = if through { Blocks::FRESH } else { Blocks::HERE };
                blocks = blocks.with(block, if zero { Blocks::ZERO } else { written });
            }
        }
        let payload = piece.block(first).filter(|_| self.embeds).and_then(compress);
        Some(New { of, first, data, over: entry.kind == Kind::Zero, through, blocks, payload })
    }

    /// Writes clusters that are nowhere yet, all embedded or all plain: in one piece where they get places side by side.
    /// They are whole if they are several. `data` is theirs if that lies one behind the other.
    fn write_new(&self, news: &[New<'_>], data: Option<&[u8]>) -> Result<()> {
        let kind = if news.first().is_some_and(New::is_embedded) { ZoneKind::Z } else { ZoneKind::N };
        let owners: Vec<_> = news.iter().map(|new| Some(new.of).filter(|_| new.is_embedded())).collect();
        let mut done = 0;
        while done < news.len() {
            let (cluster, count) = self.zones.allocate_run(kind, &owners[done..])?;
            let now = &news[done..done + count];
            match kind {
                ZoneKind::Z => self.write_new_embedded(now, cluster)?,
                _ => {
                    let end = |data: &[u8]| data.len().min((done + count) * CLUSTER);
                    self.write_new_plain(now, cluster, data.map(|data| &data[done * CLUSTER..end(data)]))?;
                }
            }
            done += count;
        }
        Ok(())
    }

    fn write_new_embedded(&self, news: &[New<'_>], cluster: Cluster) -> Result<()> {
        let places = || (cluster.0..).map(Cluster);
        let (mut buffer, start) = joined(news);
        let bytes = &mut buffer[start..];
        let mut entries = Vec::with_capacity(news.len());
        for ((new, cluster), bytes) in news.iter().zip(places()).zip(bytes.chunks_mut(CLUSTER)) {
            let (sequence, blocks, over) = (self.next_sequence(), new.blocks, new.over);
            let rotation = u8::try_from(new.first).unwrap_or(0);
            let entry =
                Entry { kind: Kind::Embedded, cluster, rotation, sequence, blocks, over, tabled: false };
            let payload = new.payload.as_deref().unwrap_or_default();
            embed(&mut bytes[..BLOCK], &self.header(new.of, &entry, payload)?, payload);
            entries.push(entry);
        }
        if let Err(error) = self.write_at(cluster.offset(), bytes) {
            // What was not written must not turn up after a crash either.
            places().take(news.len()).for_each(|cluster| self.undo(cluster));
            return Err(error);
        }
        self.counters.embedded.fetch_add(news.len() as u64, Ordering::Relaxed);
        news.iter().zip(&entries).for_each(|(new, entry)| self.map.set(new.of, entry));
        Ok(())
    }

    fn write_new_plain(&self, news: &[New<'_>], cluster: Cluster, data: Option<&[u8]>) -> Result<()> {
        let places = || (cluster.0..).map(Cluster);
        let first = news.first().map_or(0, |new| new.first * BLOCK);
        let written = match data {
            Some(data) => self.write_at(cluster.offset() + first as u64, data),
            None => {
                let (buffer, start) = joined(news);
                self.write_at(cluster.offset(), &buffer[start..])
            }
        };
        if let Err(error) = written {
            places().take(news.len()).for_each(|cluster| self.flushing.bury(cluster));
            return Err(error);
        }
        self.counters.plain.fetch_add(news.len() as u64, Ordering::Relaxed);
        for (new, cluster) in news.iter().zip(places()) {
            let (sequence, blocks) = (self.next_sequence(), new.blocks.settled());
            let entry = Entry { kind: Kind::Plain, cluster, sequence, blocks, ..Entry::default() };
            self.map.update(new.of, &entry, new.through);
        }
        Ok(())
    }

    fn write_plain(&self, of: Virtual, entry: &Entry, piece: &Piece<'_>) -> Result<()> {
        self.write_at(entry.offset(piece.first), &piece.data)?;
        let blocks = piece.blocks().fold(entry.blocks, |blocks, block| blocks.with(block, Blocks::HERE));
        if blocks != entry.blocks {
            self.map.update(of, &Entry { blocks, sequence: self.next_sequence(), ..*entry }, true);
        }
        Ok(())
    }

    fn write_embedded(&self, of: Virtual, entry: &Entry, piece: &Piece<'_>) -> Result<()> {
        let lead = usize::from(entry.rotation);
        let payload = piece.block(lead).map(compress);
        let stays = payload != Some(None)
            && (self.embeds
                || (payload.is_none()
                    && piece.blocks().all(|block| entry.blocks.get(block) == Blocks::HERE)));
        if !stays {
            return self.relocate(of, entry, piece);
        }
        let payload = payload.flatten();
        let corrupt = || Error::new(ErrorKind::Corrupt, Operation::Write);
        let (_, frozen) = self.zones.state(entry.cluster).ok_or_else(corrupt)?;
        let mut blocks = entry.blocks;
        // A block of zeros that was never durable is taken for one that was not written: so nothing that is zeros now
        // may be called fresh when it arrives.
        let mut first_say_so = false;
        for block in piece.blocks() {
            let (now, zero) = (blocks.get(block), piece.block(block).is_some_and(is_zero));
            let then = match now {
                Blocks::ABSENT if zero => Blocks::ZERO,
                Blocks::ABSENT if !frozen => Blocks::FRESH,
                Blocks::FRESH if !zero => Blocks::FRESH,
                Blocks::ZERO if zero => Blocks::ZERO,
                _ => Blocks::HERE,
            };
            first_say_so |= now == Blocks::FRESH && then == Blocks::HERE && block != lead;
            blocks = blocks.with(block, then);
        }
        let changed = Entry { blocks, ..*entry };
        if first_say_so {
            let fresh = piece.blocks().filter(|&block| entry.blocks.get(block) == Blocks::FRESH);
            let settled = fresh.fold(entry.blocks, |blocks, block| blocks.with(block, Blocks::HERE));
            let settled = Entry { blocks: settled, ..*entry };
            if frozen {
                // Its summary, which calls nothing fresh, may not be what counts yet.
                let sequence = self.next_sequence();
                self.map.update(of, &Entry { sequence, tabled: true, ..settled }, true);
                self.make_durable()?;
            } else {
                self.write_header(of, &changed)?;
                self.sync()?;
                // Whatever becomes of the data: no header may call these fresh again.
                self.map.set(of, &settled);
            }
        } else if blocks != entry.blocks && !frozen && payload.is_none() {
            self.write_header(of, &changed)?;
        }
        // A header that does not change any more says what it said.
        let said = if !frozen {
            changed
        } else if entry.tabled && payload.is_some() {
            self.said(entry)?
        } else {
            *entry
        };
        self.write_around_lead(of, &said, piece, payload.as_deref())?;
        if blocks != entry.blocks && frozen {
            let sequence = self.next_sequence();
            self.map.update(of, &Entry { sequence, tabled: true, ..changed }, true);
        } else if blocks != entry.blocks {
            self.map.set(of, &changed);
        }
        Ok(())
    }

    /// Writes the blocks of an embedded cluster: from the lead block on, and before it.
    fn write_around_lead(
        &self,
        of: Virtual,
        entry: &Entry,
        piece: &Piece<'_>,
        payload: Option<&[u8]>,
    ) -> Result<()> {
        let lead = usize::from(entry.rotation);
        let Some(payload) = payload else {
            return self.write_at(entry.offset(piece.first), &piece.data);
        };
        let (before, behind) = piece.data.split_at((lead - piece.first) * BLOCK);
        let header = self.header(of, entry, payload)?;
        let mut bytes = behind.to_vec();
        embed(&mut bytes[..BLOCK], &header, payload);
        self.write_at(entry.cluster.offset(), &bytes)?;
        if !before.is_empty() {
            self.write_at(entry.offset(piece.first), before)?;
        }
        Ok(())
    }

    /// What the header of an embedded cluster says, of which its table says something newer.
    fn said(&self, entry: &Entry) -> Result<Entry> {
        let mut block = vec![0; BLOCK];
        self.storage.read(entry.cluster.offset(), &mut block)?;
        let lead = self.lead(entry, &block)?;
        Ok(Entry { sequence: lead.sequence, blocks: lead.blocks, ..*entry })
    }

    /// Writes a lead block again, with a header that says what `entry` says.
    fn write_header(&self, of: Virtual, entry: &Entry) -> Result<()> {
        let mut block = vec![0; BLOCK];
        self.storage.read(entry.cluster.offset(), &mut block)?;
        let payload = self.payload(of, entry, &block)?.to_vec();
        let header = self.header(of, entry, &payload)?;
        embed(&mut block, &header, &payload);
        self.write_at(entry.cluster.offset(), &block)
    }

    /// Moves a cluster whose lead block does not compress any more into an N zone.
    fn relocate(&self, of: Virtual, entry: &Entry, piece: &Piece<'_>) -> Result<()> {
        let mut bytes = vec![0; CLUSTER];
        if piece.data.len() < CLUSTER {
            self.read_own(of, entry, &mut bytes)?;
        }
        bytes[piece.first * BLOCK..piece.end() * BLOCK].copy_from_slice(&piece.data);
        let cluster = self.zones.allocate(ZoneKind::N, None)?;
        if let Err(error) = self.write_at(cluster.offset(), &bytes) {
            self.flushing.bury(cluster);
            return Err(error);
        }
        let blocks =
            piece.blocks().fold(entry.blocks.settled(), |blocks, block| blocks.with(block, Blocks::HERE));
        let sequence = self.next_sequence();
        self.map.update(
            of,
            &Entry { kind: Kind::Plain, cluster, sequence, blocks, ..Entry::default() },
            true,
        );
        self.flushing.bury(entry.cluster);
        self.counters.relocated.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes of the header of an embedded cluster.
    fn header(&self, of: Virtual, entry: &Entry, payload: &[u8]) -> Result<[u8; HEADER]> {
        let state = self.zones.state(entry.cluster);
        let (epoch, _) = state.ok_or_else(|| Error::new(ErrorKind::Corrupt, Operation::Write))?;
        let lead = Lead::new(of, entry.rotation, entry.sequence, entry.blocks, payload);
        Ok(lead.encode(entry.cluster, epoch, &self.secret))
    }

    /// The header of an embedded cluster.
    fn lead(&self, entry: &Entry, block: &[u8]) -> Result<Lead> {
        let (epoch, _) = self.zones.state(entry.cluster).ok_or_else(|| self.distrust("no such zone"))?;
        let lead = Lead::decode(block, entry.cluster, epoch, &self.secret);
        lead.ok_or_else(|| self.distrust("a lead block has no header"))
    }

    /// The compressed content of an embedded cluster's lead block.
    fn payload<'a>(&self, of: Virtual, entry: &Entry, block: &'a [u8]) -> Result<&'a [u8]> {
        let lead = self.lead(entry, block)?;
        if lead.of != of {
            return Err(self.distrust("a lead block is another cluster's"));
        }
        let corrupt = |why| Error::new(ErrorKind::Corrupt, Operation::Read).because(why);
        lead.payload(block).ok_or_else(|| corrupt("a lead block's checksum is wrong"))
    }

    /// The image contradicts its own tables, and is marked: what it holds elsewhere is read and written as before, but it
    /// is not opened for writing again until somebody has looked. Gives the error.
    #[cold]
    fn distrust(&self, why: &str) -> Error {
        if !self.options.read_only {
            let mut superblock = lock(&self.superblock);
            if !superblock.flags.corrupt {
                superblock.flags.corrupt = true;
                if let Err(error) = create::write_superblock(&*self.storage, &mut superblock) {
                    tracing::warn!(%error, "the image could not be marked as corrupt");
                }
            }
        }
        Error::new(ErrorKind::Corrupt, Operation::Read).because(why)
    }

    /// Expands a lead block in its place.
    pub(super) fn unpack(&self, of: Virtual, entry: &Entry, block: &mut [u8]) -> Result<()> {
        let mut copy = [0; BLOCK];
        let payload = self.payload(of, entry, block)?;
        let copy = &mut copy[..payload.len()];
        copy.copy_from_slice(payload);
        if expand(copy, block) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, Operation::Read).because("a lead block does not expand"))
    }

    /// A cluster whose first write failed is nobody's.
    fn undo(&self, cluster: Cluster) {
        // On a medium that is full a hole can be made where nothing can be written.
        let is_hole = self.storage.punch(cluster.offset(), BLOCK as u64).unwrap_or(false);
        if !is_hole && self.write_at(cluster.offset(), &[0; BLOCK]).is_err() {
            // It would be taken for the disk's after a crash, and nothing can be done about that.
            self.failed.store(true, Ordering::Release);
        }
        self.flushing.bury(cluster);
    }

    pub(super) fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.clear(offset, length, true)
    }

    pub(super) fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.clear(offset, length, unmap)
    }

    /// Makes a range zeros, and gives its space back if `unmap`.
    fn clear(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.throttle()?;
        self.activity.fetch_add(1, Ordering::Relaxed);
        let zeroes = [0; CLUSTER];
        let size = self.size.load(Ordering::Acquire);
        for (of, at, length) in pieces(offset, length) {
            let _alone = self.locks.exclusive(of);
            let entry = self.map.get(of);
            // The last cluster of a disk may be a part of one.
            let whole = at == 0 && (length == CLUSTER || of.offset() + length as u64 == size);
            match entry.kind {
                Kind::Zero => {}
                Kind::Empty if !self.has_backing() => {}
                _ if whole && (unmap || !entry.is_mapped()) => self.give_up(of, &entry),
                _ if unmap && self.punch(&entry, at, length)? => {}
                _ => self.write_cluster(of, at, &zeroes[..length])?,
            }
        }
        Ok(())
    }

    /// A cluster is zeros from now on, wherever it lay.
    fn give_up(&self, of: Virtual, entry: &Entry) {
        self.map.update(of, &Entry::zero(self.next_sequence()), false);
        if entry.is_mapped() {
            self.flushing.bury(entry.cluster);
        }
        self.counters.discarded.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes holes of whole blocks that lie in the image and are not read from elsewhere. Returns false, with nothing
    /// done, where there is more to it.
    fn punch(&self, entry: &Entry, at: usize, length: usize) -> Result<bool> {
        let blocks = at / BLOCK..(at + length) / BLOCK;
        let here = |block| entry.blocks.get(block) == Blocks::HERE && !entry.is_lead(block);
        if !at.is_multiple_of(BLOCK)
            || !length.is_multiple_of(BLOCK)
            || !entry.is_mapped()
            || !blocks.clone().all(here)
        {
            return Ok(false);
        }
        self.storage.punch(entry.offset(blocks.start), length as u64)
    }
}

/// The data of clusters, one behind the other, and where in the buffer it begins: aligned, so that it need not be copied
/// to where it is.
fn joined(news: &[New<'_>]) -> (Vec<u8>, usize) {
    let length: usize = news.iter().map(|new| new.data.len()).sum();
    let mut buffer = Vec::<u8>::with_capacity(length + BLOCK);
    let start = buffer.as_ptr().align_offset(BLOCK).min(BLOCK);
    buffer.resize(start, 0);
    news.iter().for_each(|new| buffer.extend_from_slice(new.data));
    (buffer, start)
}

/// Puts a header and compressed content into a block.
fn embed(block: &mut [u8], header: &[u8; HEADER], payload: &[u8]) {
    let end = HEADER + payload.len();
    block[..HEADER].copy_from_slice(header);
    block[HEADER..end].copy_from_slice(payload);
    block[end..].fill(0);
}

const _: () = assert!(BLOCKS * BLOCK == CLUSTER);
