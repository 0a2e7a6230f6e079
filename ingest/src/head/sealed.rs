//! Chunks that are complete: their bytes lie one behind the other in large pieces, so that a chunk costs no allocation.
//!
//! Pieces are filled one after the other and shared with readers once they are full. A piece is given back when the last of its
//! chunks is forgotten; chunks are forgotten by time and pieces are filled by time, so that happens soon. Full pieces may be moved to
//! mapped files by whoever asks for them (`spill.rs`): they leave the memory and nothing else changes.

use bytes::Bytes;
use model::time::Timestamp;
use std::collections::VecDeque;

/// Bytes of a piece; a larger chunk gets one of its own.
const PIECE_BYTES: usize = 64 << 10;

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
    /// The checksum of the bytes, when they lie in a file.
    spilled: Option<u32>,
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
            self.pieces.push_back(Piece {
                full: None,
                filling: Vec::new(),
                live: 0,
                spilled: None,
            });
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

    /// The bytes of a chunk that was added and not forgotten; shared when possible, else copied.
    pub(crate) fn get(&self, chunk: &Sealed) -> Bytes {
        let range = chunk.offset as usize..(chunk.offset + chunk.len) as usize;
        match self.piece(chunk.piece) {
            // A piece that was found damaged is empty.
            Some(Piece { full: Some(full), .. }) if range.end > full.len() => Bytes::new(),
            Some(Piece { full: Some(full), .. }) => full.slice(range),
            Some(piece) => Bytes::copy_from_slice(&piece.filling[range]),
            None => Bytes::new(),
        }
    }

    /// The bytes of a chunk, to look at while the shard is locked.
    pub(crate) fn view(&self, chunk: &Sealed) -> &[u8] {
        let range = chunk.offset as usize..(chunk.offset + chunk.len) as usize;
        match self.piece(chunk.piece) {
            Some(Piece { full: Some(full), .. }) => full.get(range).unwrap_or_default(),
            Some(piece) => &piece.filling[range],
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
    pub(crate) fn unspilled(&self) -> impl Iterator<Item = (u32, &Bytes)> {
        self.full_pieces()
            .filter(|(_, piece, _)| piece.spilled.is_none())
            .map(|(number, _, full)| (number, full))
    }

    /// Number, bytes and checksum of those that are in files.
    pub(crate) fn spilled(&self) -> impl Iterator<Item = (u32, &Bytes, u32)> {
        self.full_pieces()
            .filter_map(|(number, piece, full)| Some((number, full, piece.spilled?)))
    }

    fn full_pieces(&self) -> impl Iterator<Item = (u32, &Piece, &Bytes)> {
        let numbered = (0u32..).zip(&self.pieces);
        numbered.filter_map(|(index, piece)| {
            let full = piece.full.as_ref().filter(|full| !full.is_empty())?;
            Some((self.first.wrapping_add(index), piece, full))
        })
    }

    /// The bytes of a piece lie in a file from now on, with this checksum. One that was forgotten meanwhile stays forgotten.
    pub(crate) fn spill(&mut self, number: u32, bytes: Bytes, checksum: u32) {
        let index = number.wrapping_sub(self.first) as usize;
        if let Some(piece) = self.pieces.get_mut(index)
            && piece.full.as_ref().is_some_and(|full| full.len() == bytes.len())
        {
            piece.full = Some(bytes);
            piece.spilled = Some(checksum);
        }
    }

    /// Gives up a piece whose file does not hold what was written: its chunks are empty from now on, which no reader takes for a chunk.
    pub(crate) fn spoil(&mut self, number: u32) {
        if let Some(piece) = self.pieces.get_mut(number.wrapping_sub(self.first) as usize)
            && piece.spilled.is_some()
        {
            piece.full = Some(Bytes::new());
        }
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        let full = |piece: &Piece| match piece.spilled {
            Some(_) => 0,
            None => piece.full.as_ref().map_or(0, Bytes::len),
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
            .unspilled()
            .map(|(number, bytes)| (number, bytes.clone()))
            .collect();
        assert_eq!(full.len(), 5);
        // Forgotten while it was on its way.
        added[..93].iter().for_each(|chunk| chunks.remove(chunk));
        let before = chunks.memory();
        for (number, bytes) in &full {
            chunks.spill(*number, Bytes::copy_from_slice(bytes), 77);
        }
        assert!(chunks.memory() < before / 3 && chunks.unspilled().count() == 0);
        let spilled: Vec<u32> = chunks.spilled().map(|(number, ..)| number).collect();
        assert_eq!(spilled.len(), 4);
        for (index, chunk) in added.iter().enumerate().skip(93) {
            assert_eq!(
                (&*chunks.get(chunk), chunks.view(chunk)),
                (&*content(index), &*content(index))
            );
        }
        chunks.spoil(spilled[0]);
        assert!(chunks.get(&added[100]).is_empty() && chunks.view(&added[100]).is_empty());
        assert_eq!(chunks.get(&added[450]), content(450));
        added[93..].iter().for_each(|chunk| chunks.remove(chunk));
        assert_eq!(chunks.spilled().count(), 0);
    }
}
