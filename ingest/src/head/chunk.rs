//! The open chunk of a series: its state in one cache line, its bits in small blocks.
//!
//! The line [`Hot`] holds all that a commit needs to judge a sample and to append it; the newest bits wait in a register of the
//! line, so that most samples touch no other memory. Whole words go to 64-byte [`Blocks`], chained, which waste half a block
//! on average whatever the length of the chunk. The bytes that come out equal those of `storage::chunk::XorAppender`, whose
//! state is as large but needs the chunk in one piece.

use model::time::{BLOCK_RANGE_MS, Timestamp, block_start};
use storage::chunk::{CHUNK_SAMPLES, XorReader};

/// No timestamp: the series has no sample yet.
pub(crate) const NEVER: Timestamp = i64::MIN;

/// Marks that no window of meaningful bits was written yet.
const NO_WINDOW: u8 = 0xff;

/// A block that is not there.
const NO_BLOCK: u32 = u32::MAX;

const WORDS_PER_BLOCK: usize = 8;

/// At so many samples the end of the chunk is predicted from the pace so far.
const PREDICT_AT: u16 = (CHUNK_SAMPLES / 4) as u16;

/// A chunk that got so many samples was predicted wrongly and ends.
const SAMPLES_MAX: u16 = (CHUNK_SAMPLES * 2) as u16;

/// A chunk of more bytes ends; Prometheus keeps chunks within 1 KiB by it.
const BYTES_MAX: usize = 1024 - 19;

/// The slot is free.
pub(crate) const FLAG_FREE: u8 = 1;
/// The newest sample of the series is not the float that the hot state remembers: it is a histogram, or was deleted.
pub(crate) const FLAG_HISTOGRAM: u8 = 2;
/// The open chunk of the series holds histograms and lies beside, in its shard.
pub(crate) const FLAG_OPEN_HISTOGRAMS: u8 = 4;

/// Everything about a series that a commit touches for each sample.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(crate) struct Hot {
    /// Timestamp of the newest sample, or [`NEVER`].
    pub(crate) last_at: Timestamp,
    /// Bits of the newest float.
    pub(crate) last_bits: u64,
    /// Number of the series in the WAL; never used twice.
    pub(crate) number: u64,
    /// Newest bits of the open chunk, left-aligned.
    register: u64,
    /// WAL epoch in which the series' value was written last.
    pub(crate) epoch: u32,
    /// Tenant of the series.
    pub(crate) tenant: u32,
    /// The block that the next word goes to, or the last one of all.
    block: u32,
    /// Difference of the last two timestamps of the chunk; a chunk spans at most two hours.
    delta: u32,
    /// From the first to the last sample of the chunk.
    span: u32,
    /// From the first sample of the chunk to where it must end.
    end: u32,
    /// Samples in the open chunk; 0 when there is none.
    count: u16,
    /// Words in blocks; the byte bound keeps it below 130.
    words: u8,
    /// Bits in the register.
    register_bits: u8,
    /// Window of meaningful bits of the last value that had one of its own.
    leading: u8,
    trailing: u8,
    pub(crate) flags: u8,
}

const _: () = assert!(size_of::<Hot>() == 64, "the hot state of a series is one cache line");

impl Hot {
    /// A series without samples.
    pub(crate) fn new(number: u64, tenant: u32) -> Self {
        Self {
            last_at: NEVER,
            last_bits: 0,
            number,
            register: 0,
            epoch: 0,
            tenant,
            block: NO_BLOCK,
            delta: 0,
            span: 0,
            end: 0,
            count: 0,
            words: 0,
            register_bits: 0,
            leading: NO_WINDOW,
            trailing: 0,
            flags: 0,
        }
    }

    /// A slot without series.
    pub(crate) fn free() -> Self {
        Self {
            flags: FLAG_FREE,
            ..Self::new(0, u32::MAX)
        }
    }

    /// Samples in the open float chunk.
    pub(crate) fn open_count(&self) -> u16 {
        self.count
    }

    /// Timestamp of the first sample of the open chunk, which must not be empty.
    pub(crate) fn open_begin(&self) -> Timestamp {
        self.last_at.wrapping_sub(i64::from(self.span))
    }

    /// Bytes of the open chunk with its header.
    fn open_bytes(&self) -> usize {
        2 + usize::from(self.words) * 8 + usize::from(self.register_bits.div_ceil(8))
    }

    /// Whether the open chunk must end before a sample at `at`. Prometheus's rule, so that blocks look like its own.
    #[inline]
    pub(crate) fn must_cut(&mut self, at: Timestamp) -> bool {
        if self.count == 0 {
            return false;
        }
        // Most chunks have far fewer words than it takes to reach the bound; they are not counted to the byte.
        if usize::from(self.words) >= BYTES_MAX / 8 - 1 && self.open_bytes() > BYTES_MAX {
            return true;
        }
        if self.count == PREDICT_AT {
            self.end = predict_end(self.span, self.end);
        }
        at.saturating_sub(self.open_begin()) >= i64::from(self.end) || self.count >= SAMPLES_MAX
    }

    /// Appends a sample that is newer than the newest, after [`Self::must_cut`] said no. Tells whether a chunk begins with it,
    /// whose first block the caller notes.
    #[inline]
    pub(crate) fn append(&mut self, blocks: &mut Blocks, at: Timestamp, bits: u64) -> bool {
        let begins = self.count == 0;
        match self.count {
            0 => self.append_first(blocks, at, bits),
            1 => {
                self.delta = (at - self.last_at) as u32;
                self.span = self.delta;
                self.put_uvarint(blocks, u64::from(self.delta));
                self.put_value(blocks, bits ^ self.last_bits);
            }
            _ => {
                let delta = (at - self.last_at) as u32;
                self.span += delta;
                if delta == self.delta {
                    self.put_value_at_pace(blocks, bits ^ self.last_bits);
                } else {
                    self.put_delta_of_delta(blocks, i64::from(delta) - i64::from(self.delta));
                    self.delta = delta;
                    self.put_value(blocks, bits ^ self.last_bits);
                }
            }
        }
        self.count += 1;
        self.last_at = at;
        self.last_bits = bits;
        begins
    }

    fn append_first(&mut self, blocks: &mut Blocks, at: Timestamp, bits: u64) {
        (self.delta, self.span) = (0, 0);
        (self.register, self.register_bits, self.words) = (0, 0, 0);
        (self.leading, self.trailing) = (NO_WINDOW, 0);
        self.end = window_end(at);
        self.block = blocks.take();
        self.put_uvarint(blocks, crate::codec::zigzag(at));
        self.put(blocks, bits, 64);
    }

    /// A value behind a timestamp that keeps the pace, whose code is one zero bit: what nearly all samples are. That bit, the codes of
    /// the window and, if they fit, the meaningful bits go into the register in one piece, since putting costs the same whatever the
    /// number of bits.
    #[inline(always)]
    fn put_value_at_pace(&mut self, blocks: &mut Blocks, xor: u64) {
        if xor == 0 {
            return self.put(blocks, 0, 2);
        }
        let leading = xor.leading_zeros().min(31) as u8;
        let trailing = xor.trailing_zeros() as u8;
        let (prefix, prefix_bits);
        if self.leading != NO_WINDOW && leading >= self.leading && trailing >= self.trailing {
            (prefix, prefix_bits) = (0b010, 3);
        } else {
            (self.leading, self.trailing) = (leading, trailing);
            let significant = 64 - u64::from(leading) - u64::from(trailing);
            (prefix, prefix_bits) = (0b011 << 11 | u64::from(leading) << 6 | significant & 63, 14);
        }
        let significant = 64 - u32::from(self.leading) - u32::from(self.trailing);
        let meaningful = xor >> self.trailing;
        if significant + prefix_bits <= 64 {
            return self.put(blocks, prefix << significant | meaningful, significant + prefix_bits);
        }
        self.put(blocks, prefix, prefix_bits);
        self.put(blocks, meaningful, significant);
    }

    /// A difference of the last two timestamps that is not the one before it.
    #[inline]
    fn put_delta_of_delta(&mut self, blocks: &mut Blocks, dod: i64) {
        let low = |width: u32| dod as u64 & ((1 << width) - 1);
        // Ranges are not symmetric: one more above than below.
        let fits = |width: u32| -(1i64 << (width - 1)) < dod && dod <= 1i64 << (width - 1);
        if fits(14) {
            self.put(blocks, 0b10 << 14 | low(14), 16);
        } else if fits(17) {
            self.put(blocks, 0b110 << 17 | low(17), 20);
        } else if fits(20) {
            self.put(blocks, 0b1110 << 20 | low(20), 24);
        } else {
            self.put(blocks, 0b1111, 4);
            self.put(blocks, dod as u64, 64);
        }
    }

    #[inline]
    fn put_value(&mut self, blocks: &mut Blocks, xor: u64) {
        if xor == 0 {
            return self.put(blocks, 0, 1);
        }
        let leading = xor.leading_zeros().min(31) as u8;
        let trailing = xor.trailing_zeros() as u8;
        if self.leading != NO_WINDOW && leading >= self.leading && trailing >= self.trailing {
            let significant = 64 - u32::from(self.leading) - u32::from(self.trailing);
            self.put(blocks, 0b10, 2);
            return self.put(blocks, xor >> self.trailing, significant);
        }
        (self.leading, self.trailing) = (leading, trailing);
        let significant = 64 - u32::from(leading) - u32::from(trailing);
        // 64 does not fit into six bits and is written as 0.
        self.put(
            blocks,
            0b11 << 11 | u64::from(leading) << 6 | u64::from(significant & 63),
            13,
        );
        self.put(blocks, xor >> trailing, significant);
    }

    fn put_uvarint(&mut self, blocks: &mut Blocks, mut number: u64) {
        while number >= 0x80 {
            self.put(blocks, number & 0x7f | 0x80, 8);
            number >>= 7;
        }
        self.put(blocks, number, 8);
    }

    /// Adds the low `count` (1 to 64) bits of `value`; higher bits of it are zero.
    #[inline(always)]
    fn put(&mut self, blocks: &mut Blocks, value: u64, count: u32) {
        let room = 64 - u32::from(self.register_bits);
        if count < room {
            self.register |= value << (room - count);
            self.register_bits += count as u8;
            return;
        }
        let left = count - room;
        let word = self.register | value >> left;
        self.register = if left == 0 { 0 } else { value << (64 - left) };
        self.register_bits = left as u8;
        self.put_word(blocks, word);
    }

    #[inline]
    fn put_word(&mut self, blocks: &mut Blocks, word: u64) {
        let index = usize::from(self.words) % WORDS_PER_BLOCK;
        if index == 0 && self.words > 0 {
            self.block = blocks.chain(self.block);
        }
        blocks.block_mut(self.block)[index] = word;
        self.words += 1;
    }

    /// Something of the block that the next bits go to.
    #[inline]
    pub(crate) fn peek_bits(&self, blocks: &Blocks) -> u64 {
        let page = blocks.pages.get(self.block as usize / BLOCKS_PER_PAGE);
        page.map_or(0, |page| page[self.block as usize % BLOCKS_PER_PAGE][0])
    }

    /// Appends the bytes of the open chunk, whose first block is `first`, as blocks and StoreAPI carry them.
    pub(crate) fn copy_open(&self, blocks: &Blocks, first: u32, out: &mut Vec<u8>) {
        out.reserve(self.open_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        let (mut block, mut left) = (first, usize::from(self.words));
        while left > 0 {
            let mut bytes = [0; 8 * WORDS_PER_BLOCK];
            for (place, word) in bytes.chunks_exact_mut(8).zip(blocks.block(block)) {
                place.copy_from_slice(&word.to_be_bytes());
            }
            let words = left.min(WORDS_PER_BLOCK);
            out.extend_from_slice(&bytes[..8 * words]);
            left -= words;
            block = blocks.next[block as usize];
        }
        let tail = usize::from(self.register_bits.div_ceil(8));
        out.extend_from_slice(&self.register.to_be_bytes()[..tail]);
    }

    /// Goes on with a chunk whose bytes [`Self::copy_open`] gave, where there is none; gives its first block and its first timestamp.
    /// `None`, and nothing has changed, when the bytes are no such chunk.
    pub(crate) fn resume(&mut self, blocks: &mut Blocks, data: &[u8]) -> Option<(u32, Timestamp)> {
        let mut reader = XorReader::new(data).ok()?;
        let (begin, mut bits) = reader.next().ok()??;
        let (mut at, mut count, mut quarter) = (begin, 1u16, 0);
        while let Some((next, value)) = reader.next().ok()? {
            if next <= at || block_start(next) != block_start(begin) {
                return None;
            }
            (at, bits, count) = (next, value, count + 1);
            if count == PREDICT_AT {
                quarter = (at - begin) as u32;
            }
        }
        let end = reader.end(data);
        if count > SAMPLES_MAX || data.len() > BYTES_MAX + 19 {
            return None;
        }
        (self.last_at, self.last_bits, self.count) = (at, bits.to_bits(), count);
        (self.delta, self.span) = (end.delta as u32, (at - begin) as u32);
        self.end = window_end(begin);
        if count > PREDICT_AT {
            self.end = predict_end(quarter, self.end);
        }
        (self.leading, self.trailing) = end.window.unwrap_or((NO_WINDOW, 0));
        let first = self.put_words(blocks, data.get(2..)?, end.bits - 16);
        Some((first, begin))
    }

    /// Fills a chunk with bits that are there already; gives its first block.
    fn put_words(&mut self, blocks: &mut Blocks, body: &[u8], bits: usize) -> u32 {
        let first = blocks.take();
        (self.block, self.words) = (first, 0);
        let (words, rest) = body.as_chunks::<8>();
        for word in &words[..bits / 64] {
            self.put_word(blocks, u64::from_be_bytes(*word));
        }
        let mut tail = [0; 8];
        let rest = words.get(bits / 64).map_or(rest, |word| &word[..]);
        tail[..rest.len()].copy_from_slice(rest);
        self.register_bits = (bits % 64) as u8;
        // What is behind the last bit is none of the chunk.
        self.register = u64::from_be_bytes(tail) & !(u64::MAX >> self.register_bits);
        first
    }

    /// Forgets the open chunk, whose first block is `first`; the newest sample stays known.
    pub(crate) fn close(&mut self, blocks: &mut Blocks, first: u32) {
        if self.count > 0 {
            blocks.give_back(first, self.block);
        }
        self.count = 0;
        self.block = NO_BLOCK;
    }
}

/// From the first sample of a chunk to the end of its two-hour window.
fn window_end(begin: Timestamp) -> u32 {
    (block_start(begin).wrapping_add(BLOCK_RANGE_MS)).wrapping_sub(begin) as u32
}

/// Where a chunk should end so that the two-hour window divides into chunks of about the wanted number of samples, given that
/// a quarter of them took `span`. Both results count from the first sample.
fn predict_end(span: u32, end: u32) -> u32 {
    let parts = f64::from(end) / ((f64::from(span) + 1.0) * 4.0);
    if parts <= 1.0 {
        end
    } else {
        (f64::from(end) / parts.floor()) as u32
    }
}

/// Blocks of one page: with 64 bytes each, a page is as large as allocators like to hand out.
const BLOCKS_PER_PAGE: usize = 256;

type Block = [u64; WORDS_PER_BLOCK];

/// Blocks of eight words that the open chunks of a shard are made of.
///
/// They lie in pages, and a page never moves. In one vector they would be copied each time that grows, and all shards grow at the same
/// pace: what they leave behind is of sizes that nobody asks for again, a third of the memory of a million series.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    pages: Vec<Box<[Block; BLOCKS_PER_PAGE]>>,
    /// The block behind each one, in its chunk or among the free ones.
    next: Vec<u32>,
    free: u32,
    free_count: u32,
}

impl Blocks {
    pub(crate) fn new() -> Self {
        Self {
            pages: Vec::new(),
            next: Vec::new(),
            free: NO_BLOCK,
            free_count: 0,
        }
    }

    #[inline(always)]
    fn block(&self, block: u32) -> &Block {
        &self.pages[block as usize / BLOCKS_PER_PAGE][block as usize % BLOCKS_PER_PAGE]
    }

    #[inline(always)]
    fn block_mut(&mut self, block: u32) -> &mut Block {
        &mut self.pages[block as usize / BLOCKS_PER_PAGE][block as usize % BLOCKS_PER_PAGE]
    }

    /// A block of its own.
    fn take(&mut self) -> u32 {
        let block = self.free;
        if block != NO_BLOCK {
            self.free = std::mem::replace(&mut self.next[block as usize], NO_BLOCK);
            self.free_count -= 1;
            return block;
        }
        if self.next.len() == self.pages.len() * BLOCKS_PER_PAGE {
            self.pages.push(Box::new([[0; WORDS_PER_BLOCK]; BLOCKS_PER_PAGE]));
            self.next.reserve_exact(BLOCKS_PER_PAGE);
        }
        self.next.push(NO_BLOCK);
        self.next.len() as u32 - 1
    }

    /// A block behind `last`.
    fn chain(&mut self, last: u32) -> u32 {
        let block = self.take();
        self.next[last as usize] = block;
        block
    }

    fn give_back(&mut self, first: u32, last: u32) {
        let mut count = 1;
        let mut block = first;
        while block != last {
            block = self.next[block as usize];
            count += 1;
        }
        self.next[last as usize] = self.free;
        self.free = first;
        self.free_count += count;
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.pages.len() * size_of::<[Block; BLOCKS_PER_PAGE]>() + self.next.capacity() * 4
    }

    /// Gives memory back when nothing is in use any more.
    pub(crate) fn shrink(&mut self) {
        if self.free_count as usize == self.next.len() {
            *self = Self::new();
        }
    }
}

impl Hot {
    /// The first block of the chunk that an [`Self::append`] just began.
    pub(crate) fn first_block(&self, blocks: &Blocks) -> u32 {
        // The first sample takes 10 to 18 bytes, so the chunk is still in its first block.
        debug_assert!(usize::from(self.words) <= WORDS_PER_BLOCK && (self.block as usize) < blocks.next.len());
        self.block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use storage::chunk::XorAppender;

    /// Samples of one window with steps and values of every form.
    fn any_samples() -> impl Strategy<Value = Vec<(i64, u64)>> {
        let step = prop_oneof![Just(15_000i64), 1..20_000i64, 1..100i64, 1..600_000i64];
        let value = prop_oneof![
            Just(0u64),
            Just(model::sample::STALE_NAN_BITS),
            (0..1000u32).prop_map(|value| f64::from(value).to_bits()),
            any::<u64>(),
            (any::<u64>(), 0..64u32).prop_map(|(value, shift)| value << shift),
        ];
        let window = (-100i64..250_000_000).prop_map(|window| window * BLOCK_RANGE_MS);
        (window, proptest::collection::vec((step, value), 1..500)).prop_map(|(start, steps)| {
            let mut at = start - 1;
            let place = |(step, value): (i64, u64)| {
                at += step;
                (at, value)
            };
            steps.into_iter().map(place).collect()
        })
    }

    proptest! {
        #[test]
        fn chunks_equal_those_of_storage(samples in any_samples()) {
            let (mut blocks, mut hot, mut first) = (Blocks::new(), Hot::new(1, 0), 0);
            let (mut appender, mut expected) = (XorAppender::new(), Vec::new());
            for (at, bits) in samples {
                if hot.must_cut(at) {
                    hot.close(&mut blocks, first);
                    (appender, expected) = (XorAppender::new(), Vec::new());
                }
                if hot.append(&mut blocks, at, bits) {
                    first = hot.first_block(&blocks);
                }
                appender.append(&mut expected, at, f64::from_bits(bits));
                let mut bytes = Vec::new();
                hot.copy_open(&blocks, first, &mut bytes);
                prop_assert_eq!(&bytes, &expected);
                prop_assert!(bytes.len() <= 1024 && hot.open_count() <= 240);
                prop_assert_eq!(block_start(hot.open_begin()), block_start(at));
            }
            hot.close(&mut blocks, first);
            prop_assert_eq!(blocks.free_count as usize, blocks.next.len());
        }

        #[test]
        fn a_chunk_goes_on_wherever_it_was_interrupted(samples in any_samples(), interrupted in any::<prop::sample::Index>()) {
            let interrupted = interrupted.index(samples.len());
            let (mut blocks, mut hot, mut first) = (Blocks::new(), Hot::new(1, 0), 0);
            for (index, (at, bits)) in samples.into_iter().enumerate() {
                if hot.must_cut(at) {
                    hot.close(&mut blocks, first);
                }
                if hot.append(&mut blocks, at, bits) {
                    first = hot.first_block(&blocks);
                }
                if index == interrupted {
                    let mut bytes = Vec::new();
                    hot.copy_open(&blocks, first, &mut bytes);
                    let mut resumed = Hot::new(1, 0);
                    let (again, begin) = resumed.resume(&mut blocks, &bytes).unwrap();
                    prop_assert_eq!(begin, hot.open_begin());
                    let mut copied = Vec::new();
                    resumed.copy_open(&blocks, again, &mut copied);
                    prop_assert_eq!(copied, bytes);
                    let old = std::mem::replace(&mut hot, resumed);
                    let state = |hot: &Hot| (hot.last_at, hot.last_bits, hot.delta, hot.span, hot.end, hot.register, hot.register_bits);
                    prop_assert_eq!(state(&hot), state(&old));
                    prop_assert_eq!((hot.count, hot.words, hot.leading), (old.count, old.words, old.leading));
                    first = again;
                }
            }
        }

        #[test]
        fn wrong_bytes_are_no_chunk_to_go_on_with(samples in any_samples(), place in any::<prop::sample::Index>(), error in 1..=255u8) {
            let (mut blocks, mut hot) = (Blocks::new(), Hot::new(1, 0));
            let first = samples.iter().take(60).fold(0, |first, &(at, bits)| match hot.append(&mut blocks, at, bits) {
                true => hot.first_block(&blocks),
                false => first,
            });
            let mut bytes = Vec::new();
            hot.copy_open(&blocks, first, &mut bytes);
            let place = place.index(bytes.len());
            bytes[place] ^= error;
            for end in 0..=bytes.len() {
                if let Some((first, _)) = Hot::new(1, 0).resume(&mut blocks, &bytes[..end]) {
                    blocks.block(first);
                }
            }
        }
    }

    #[test]
    fn a_steady_scrape_is_cut_into_equal_chunks() {
        let (mut blocks, mut hot, mut first, mut counts) = (Blocks::new(), Hot::new(1, 0), 0, vec![]);
        for index in 0..=480 {
            let at = index * 15_000;
            if hot.must_cut(at) {
                counts.push(hot.open_count());
                hot.close(&mut blocks, first);
            }
            if hot.append(&mut blocks, at, index as u64) {
                first = hot.first_block(&blocks);
            }
        }
        assert_eq!(counts, [120; 4]);
    }
}
