//! LZ4 blocks that are no shorter than they have to be.
//!
//! A block is a row of sequences: a token, literals, and how many bytes from how far back follow. The last one has
//! literals only. So whatever follows some sequence can be literals of a last one instead.

/// A match has at least this many bytes; lengths are counted from there.
const MATCH: usize = 4;

/// No match reaches into this many bytes before the end, nor begins in it: as the format's rules have it, to be safe.
const TAIL: usize = 12;

/// An LZ4 block that expands to `content`, has at most `limit` bytes and as few and short matches as that takes.
/// `compressed` is one of some beginning of `content`. `None` if its matches are not enough, or it is no such block.
pub(super) fn shorten(compressed: &[u8], content: &[u8], limit: usize) -> Option<Vec<u8>> {
    let (mut at, mut from) = (0, 0);
    loop {
        let token = *compressed.get(at)?;
        let (literals, start) = length(compressed, at + 1, token >> 4)?;
        let end = start.checked_add(literals)?;
        if end == compressed.len() {
            let mut block = compressed.get(..at)?.to_vec();
            put_last(&mut block, content.get(from..)?);
            return (block.len() <= limit).then_some(block);
        }
        // Behind the literals lies how far back it goes, two bytes.
        let (more, next) = length(compressed, end.checked_add(2)?, token & 0xf)?;
        from = from.checked_add(literals)?;
        let rest = content.get(from..)?;
        let longest = (MATCH + more).min(rest.len().saturating_sub(TAIL));
        if longest >= MATCH
            && let Some(spare) = limit.checked_sub(size_with(end + 2, longest, rest.len()))
        {
            // A byte less of it is a byte more of literals; and lengths of lengths change by two bytes at most.
            let shorter = (longest - spare.saturating_sub(2).min(longest - MATCH)).max(MATCH);
            let fits = size_with(end + 2, shorter, rest.len()) <= limit;
            let matched = if fits { shorter } else { longest };
            let mut block = compressed.get(..end + 2)?.to_vec();
            *block.get_mut(at)? = token & 0xf0 | half(matched - MATCH);
            put_length(&mut block, matched - MATCH);
            put_last(&mut block, rest.get(matched..)?);
            return Some(block);
        }
        from = from.checked_add(MATCH + more)?;
        at = next;
    }
}

/// Bytes of a block in which a match of `matched` bytes, and literals for the rest of `rest`, follow `before` bytes.
fn size_with(before: usize, matched: usize, rest: usize) -> usize {
    let last = rest - matched;
    before + length_bytes(matched - MATCH) + 1 + length_bytes(last) + last
}

/// A length of which a token holds `half` a byte and the bytes from `at` on the rest, and where these end.
fn length(block: &[u8], mut at: usize, half: u8) -> Option<(usize, usize)> {
    let mut length = usize::from(half);
    let mut last = if half == 15 { 255 } else { 0 };
    while last == 255 {
        last = *block.get(at)?;
        length += usize::from(last);
        at += 1;
    }
    Some((length, at))
}

/// What a token holds of a length.
fn half(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(15).min(15)
}

/// Bytes that hold what a token does not.
fn length_bytes(length: usize) -> usize {
    length.checked_sub(15).map_or(0, |more| more / 255 + 1)
}

fn put_length(block: &mut Vec<u8>, length: usize) {
    if let Some(more) = length.checked_sub(15) {
        block.resize(block.len() + more / 255, 255);
        block.push(u8::try_from(more % 255).unwrap_or(0));
    }
}

/// Adds the last sequence.
fn put_last(block: &mut Vec<u8>, literals: &[u8]) {
    block.push(half(literals.len()) << 4);
    put_length(block, literals.len());
    block.extend(literals);
}

#[cfg(test)]
mod tests {
    use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
    use proptest::prelude::*;

    use super::*;

    fn compressed(content: &[u8]) -> Vec<u8> {
        let mut block = vec![0; get_maximum_output_size(content.len())];
        let length = compress_into(content, &mut block).unwrap();
        block.truncate(length);
        block
    }

    /// Pieces of few and of many different bytes.
    fn content() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..300),
            proptest::collection::vec(0..3u8, 1..300),
            (any::<u8>(), 1..800usize).prop_map(|(byte, count)| vec![byte; count]),
        ];
        proptest::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn it_expands_to_the_content_and_is_just_short_enough(
            content in content(),
            beginning in 0..4000usize,
            limit in 1..4000usize,
        ) {
            let all = compressed(&content);
            let beginning = beginning.min(content.len());
            match shorten(&compressed(&content[..beginning]), &content, limit) {
                Some(block) => {
                    prop_assert!(block.len() <= limit);
                    let mut back = vec![0; content.len()];
                    let length = decompress_into(&block, &mut back).unwrap();
                    prop_assert_eq!(length, content.len());
                    prop_assert_eq!(back, content);
                }
                // Nothing is lost of what compressing all of it brings.
                None => prop_assert!(beginning < content.len() || all.len() > limit),
            }
        }

        #[test]
        fn any_bytes_are_a_block_or_not(
            block in proptest::collection::vec(any::<u8>(), 0..200),
            content in proptest::collection::vec(any::<u8>(), 0..400),
            limit in 0..500usize,
        ) {
            if let Some(block) = shorten(&block, &content, limit) {
                prop_assert!(block.len() <= limit);
            }
        }
    }
}
