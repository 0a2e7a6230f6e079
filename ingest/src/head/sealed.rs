//! Chunks that are complete: their bytes lie one behind the other in large pieces, so that a chunk costs no allocation.
//!
//! Pieces are filled one after the other and shared with readers once they are full. A piece is given back when the last of its
//! chunks is forgotten; chunks are forgotten by time and pieces are filled by time, so that happens soon. Full pieces may be moved to
//! mapped files by whoever asks for them (`spill.rs`): they leave the memory and nothing else changes.
//!
//! Behind the bytes of each chunk stands its checksum, the same as in a block. Memory is believed, a file is not: what comes from one is
//! compared each time, and a chunk that is not as it was written comes back empty, which nobody takes for a chunk.

use bytes::Bytes;
use model::{select::Chunk, time::Timestamp};
use std::{cell::Cell, collections::VecDeque, ops::Range};
use storage::{block::SummedChunk, chunk::checksum};

/// Bytes of a piece; a larger chunk gets one of its own.
const PIECE_BYTES: usize = 64 << 10;

/// Bytes of the checksum behind a chunk.
const CHECKSUM_BYTES: usize = 4;

/// Where a complete chunk lies and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) min_time: Timestamp,
    /// From the first to the last sample.
    pub(crate) span: u32,
    /// The local block that the chunk was written to; 0 for none yet.
    pub(crate) block: u32,
    piece: u32,
    offset: u32,
    len: u32,
    pub(crate) samples: u16,
    pub(crate) encoding: u8,
}

impl Sealed {
    /// Timestamp of the last sample.
    pub(crate) fn max_time(&self) -> Timestamp {
        self.min_time.wrapping_add(i64::from(self.span))
    }

    /// Bytes of its data.
    pub(crate) fn bytes(&self) -> usize {
        self.len as usize
    }

    /// The chunk; its data is empty when it is damaged.
    pub(crate) fn chunk(&self, chunks: &SealedChunks) -> Chunk {
        self.with(chunks.get(self))
    }

    /// The same with its checksum.
    pub(crate) fn summed(&self, chunks: &SealedChunks) -> SummedChunk {
        let (data, sum) = chunks.get_summed(self);
        SummedChunk {
            chunk: self.with(data),
            sum,
        }
    }

    fn with(&self, data: Bytes) -> Chunk {
        Chunk {
            min_time: self.min_time,
            max_time: self.max_time(),
            encoding: self.encoding,
            data,
        }
    }

    /// Where its data lies in its piece.
    fn range(&self) -> Range<usize> {
        self.offset as usize..(self.offset + self.len) as usize
    }
}

/// What a chunk is, when it is added.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkInfo {
    pub(crate) min_time: Timestamp,
    pub(crate) max_time: Timestamp,
    pub(crate) samples: u16,
    pub(crate) encoding: u8,
}

#[derive(Debug)]
struct Piece {
    /// The bytes: shared when the piece is full.
    full: Option<Bytes>,
    filling: Vec<u8>,
    /// Chunks of it that are not forgotten.
    live: u32,
    /// Whether the bytes lie in a file.
    in_file: bool,
    /// Whether it was told that the file is damaged; once is enough.
    told: Cell<bool>,
}

impl Piece {
    fn new() -> Self {
        Self {
            full: None,
            filling: Vec::new(),
            live: 0,
            in_file: false,
            told: Cell::new(false),
        }
    }

    /// Whether the bytes of a chunk are what was added.
    fn holds(&self, full: &[u8], chunk: &Sealed) -> bool {
        let data = chunk.range();
        let sum = full.get(data.end..data.end + CHECKSUM_BYTES);
        let holds = match sum {
            // A piece that was forgotten.
            None => return false,
            Some(_) if !self.in_file => true,
            Some(sum) => checksum(chunk.encoding, &full[data]).to_be_bytes() == *sum,
        };
        if !holds && !self.told.replace(true) {
            tracing::error!("complete chunks in a file are damaged; restart to have them from the log");
        }
        holds
    }
}

/// The complete chunks of a shard.
#[derive(Debug, Default)]
pub(crate) struct SealedChunks {
    pieces: VecDeque<Piece>,
    /// Number of the first piece.
    first: u32,
}

impl SealedChunks {
    /// Adds a chunk whose bytes `write` appends.
    pub(crate) fn add(&mut self, info: ChunkInfo, write: impl FnOnce(&mut Vec<u8>)) -> Sealed {
        if self.pieces.back().is_none_or(|piece| piece.full.is_some()) {
            self.pieces.push_back(Piece::new());
        }
        let piece_number = self.first.wrapping_add(self.pieces.len() as u32 - 1);
        let Some(piece) = self.pieces.back_mut() else {
            unreachable!("a piece was just made")
        };
        if piece.filling.len() == piece.filling.capacity() {
            // Small heads should not pay for a whole piece.
            piece
                .filling
                .reserve_exact((piece.filling.len() / 2).clamp(1 << 10, PIECE_BYTES / 4));
        }
        let offset = piece.filling.len();
        write(&mut piece.filling);
        let len = piece.filling.len() - offset;
        let sum = checksum(info.encoding, &piece.filling[offset..]);
        piece.filling.extend_from_slice(&sum.to_be_bytes());
        piece.live += 1;
        if piece.filling.len() + 1024 > PIECE_BYTES {
            let mut filling = std::mem::take(&mut piece.filling);
            filling.shrink_to_fit();
            piece.full = Some(Bytes::from(filling));
        }
        Sealed {
            min_time: info.min_time,
            span: info.max_time.wrapping_sub(info.min_time) as u32,
            block: 0,
            piece: piece_number,
            offset: offset as u32,
            len: len as u32,
            samples: info.samples,
            encoding: info.encoding,
        }
    }

    /// The bytes of a chunk that was added and not forgotten; shared when possible, else copied. Empty when they are damaged.
    pub(crate) fn get(&self, chunk: &Sealed) -> Bytes {
        match self.piece(chunk.piece) {
            Some(piece) => match &piece.full {
                Some(full) if piece.holds(full, chunk) => full.slice(chunk.range()),
                Some(_) => Bytes::new(),
                None => Bytes::copy_from_slice(&piece.filling[chunk.range()]),
            },
            None => Bytes::new(),
        }
    }

    /// The same with the checksum that was made when the chunk was added.
    pub(crate) fn get_summed(&self, chunk: &Sealed) -> (Bytes, u32) {
        let end = chunk.range().end;
        let sum = self.piece(chunk.piece).and_then(|piece| {
            let bytes = piece.full.as_ref().map_or(&piece.filling[..], |full| full);
            bytes.get(end..)?.first_chunk::<CHECKSUM_BYTES>()
        });
        (self.get(chunk), sum.map_or(0, |sum| u32::from_be_bytes(*sum)))
    }

    /// The bytes of a chunk, to look at while the shard is locked. Empty when they are damaged.
    pub(crate) fn view(&self, chunk: &Sealed) -> &[u8] {
        match self.piece(chunk.piece) {
            Some(piece) => match &piece.full {
                Some(full) if piece.holds(full, chunk) => &full[chunk.range()],
                Some(_) => &[],
                None => &piece.filling[chunk.range()],
            },
            None => &[],
        }
    }

    fn piece(&self, number: u32) -> Option<&Piece> {
        self.pieces.get(number.wrapping_sub(self.first) as usize)
    }

    /// Forgets a chunk.
    pub(crate) fn remove(&mut self, chunk: &Sealed) {
        let Some(piece) = self.pieces.get_mut(chunk.piece.wrapping_sub(self.first) as usize) else {
            return;
        };
        piece.live -= 1;
        if piece.live == 0 {
            if piece.full.is_some() {
                piece.full = Some(Bytes::new());
            } else {
                piece.filling.clear();
                piece.filling.shrink_to_fit();
            }
        }
        while self
            .pieces
            .front()
            .is_some_and(|piece| piece.live == 0 && piece.full.is_some())
        {
            self.pieces.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Number and bytes of the full pieces that are in memory.
    pub(crate) fn in_memory(&self) -> impl Iterator<Item = (u32, &Bytes)> {
        self.full_pieces(false)
    }

    /// Bytes of those that are in files.
    pub(crate) fn in_files(&self) -> impl Iterator<Item = &Bytes> {
        self.full_pieces(true).map(|(_, full)| full)
    }

    fn full_pieces(&self, in_file: bool) -> impl Iterator<Item = (u32, &Bytes)> {
        let numbered = (0u32..)
            .zip(&self.pieces)
            .filter(move |(_, piece)| piece.in_file == in_file);
        numbered.filter_map(|(index, piece)| {
            let full = piece.full.as_ref().filter(|full| !full.is_empty())?;
            Some((self.first.wrapping_add(index), full))
        })
    }

    /// The bytes of a piece lie in a file from now on. One that was forgotten meanwhile stays forgotten.
    pub(crate) fn move_to_file(&mut self, number: u32, bytes: Bytes) {
        let index = number.wrapping_sub(self.first) as usize;
        if let Some(piece) = self.pieces.get_mut(index)
            && piece.full.as_ref().is_some_and(|full| full.len() == bytes.len())
        {
            piece.full = Some(bytes);
            piece.in_file = true;
        }
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        let full = |piece: &Piece| match piece.in_file {
            true => 0,
            false => piece.full.as_ref().map_or(0, Bytes::len),
        };
        let bytes = |piece: &Piece| piece.filling.capacity() + full(piece);
        self.pieces.iter().map(bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_back_and_forgotten_pieces_go() {
        let mut chunks = SealedChunks::default();
        let info = |at: i64| ChunkInfo {
            min_time: at,
            max_time: at + 7,
            samples: 3,
            encoding: 1,
        };
        let content = |index: i64| vec![index as u8; 100 + index as usize % 300];
        let added: Vec<_> = (0..2000)
            .map(|at| chunks.add(info(at), |out| out.extend(content(at))))
            .collect();
        for (at, chunk) in added.iter().enumerate() {
            assert_eq!(chunks.get(chunk), content(at as i64));
            assert_eq!(chunks.view(chunk), content(at as i64));
            assert_eq!(
                chunks.get_summed(chunk),
                (chunks.get(chunk), checksum(1, &content(at as i64)))
            );
            assert_eq!(chunk.max_time(), at as i64 + 7);
        }
        let shared = chunks.get(&added[0]);
        let full = chunks.memory();
        added[..1990].iter().for_each(|chunk| chunks.remove(chunk));
        assert!(
            chunks.memory() < full / 4,
            "{} of {full} bytes are still there",
            chunks.memory()
        );
        assert_eq!(chunks.get(&added[1995]), content(1995));
        assert_eq!(shared, content(0), "a reader keeps what it holds");
        added[1990..].iter().for_each(|chunk| chunks.remove(chunk));
        let again = chunks.add(info(5), |out| out.extend(content(5)));
        assert_eq!(chunks.get(&again), content(5));
    }

    #[test]
    fn pieces_in_files_are_read_and_forgotten_like_others() {
        let mut chunks = SealedChunks::default();
        let info = ChunkInfo {
            min_time: 1,
            max_time: 2,
            samples: 3,
            encoding: 1,
        };
        let content = |index: usize| vec![index as u8; 700];
        let added: Vec<_> = (0..500)
            .map(|index| chunks.add(info, |out| out.extend(content(index))))
            .collect();
        let full: Vec<_> = chunks
            .in_memory()
            .map(|(number, bytes)| (number, bytes.clone()))
            .collect();
        assert_eq!(full.len(), 5);
        // Forgotten while it was on its way.
        added[..93].iter().for_each(|chunk| chunks.remove(chunk));
        let before = chunks.memory();
        for (number, bytes) in &full {
            chunks.move_to_file(*number, Bytes::copy_from_slice(bytes));
        }
        assert!(chunks.memory() < before / 3 && chunks.in_memory().count() == 0);
        assert_eq!(chunks.in_files().count(), 4);
        for (index, chunk) in added.iter().enumerate().skip(93) {
            assert_eq!(
                (&*chunks.get(chunk), chunks.view(chunk)),
                (&*content(index), &*content(index))
            );
        }
        added[93..].iter().for_each(|chunk| chunks.remove(chunk));
        assert_eq!(chunks.in_files().count(), 0);
    }

    #[test]
    fn each_flipped_bit_of_a_file_costs_the_chunk_that_it_is_in_and_no_other() {
        let info = ChunkInfo {
            min_time: 1,
            max_time: 2,
            samples: 3,
            encoding: 1,
        };
        let mut chunks = SealedChunks::default();
        let content = |index: usize| vec![index as u8; 200 + index];
        let mut added: Vec<_> = (0..3)
            .map(|index| chunks.add(info, |out| out.extend(content(index))))
            .collect();
        let behind = chunks.add(info, |out| out.resize(PIECE_BYTES, 7));
        let (number, whole) = chunks
            .in_memory()
            .next()
            .map(|(number, bytes)| (number, bytes.clone()))
            .unwrap();
        chunks.move_to_file(number, whole.clone());
        added.push(behind);
        let ends: Vec<usize> = added.iter().map(|chunk| chunk.range().end + CHECKSUM_BYTES).collect();
        for bit in 0..ends[2] * 8 {
            let mut damaged = whole.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            chunks.move_to_file(number, Bytes::from(damaged));
            let hit = ends.partition_point(|end| *end <= bit / 8);
            for (index, chunk) in added.iter().enumerate().take(3) {
                let expected = if index == hit { Vec::new() } else { content(index) };
                assert_eq!(
                    (&*chunks.get(chunk), chunks.view(chunk)),
                    (&*expected, &*expected),
                    "bit {bit}"
                );
            }
        }
        // A file that is shorter than what was written is none.
        chunks.pieces[0].full = Some(whole.slice(..ends[0]));
        assert!(chunks.get(&added[1]).is_empty() && chunks.view(&behind).is_empty());
        assert_eq!(chunks.get(&added[0]), content(0));
    }
}
