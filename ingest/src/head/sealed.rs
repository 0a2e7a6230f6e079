//! Chunks that are complete: their bytes lie one behind the other in large pieces, so that a chunk costs no allocation.
//!
//! Pieces are filled one after the other and shared with readers once they are full. A piece is given back when the last of its
//! chunks is forgotten; chunks are forgotten by time and pieces are filled by time, so that happens soon.

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
            Some(Piece { full: Some(full), .. }) => full.slice(range),
            Some(piece) => Bytes::copy_from_slice(&piece.filling[range]),
            None => Bytes::new(),
        }
    }

    /// The bytes of a chunk, to look at while the shard is locked.
    pub(crate) fn view(&self, chunk: &Sealed) -> &[u8] {
        let range = chunk.offset as usize..(chunk.offset + chunk.len) as usize;
        match self.piece(chunk.piece) {
            Some(Piece { full: Some(full), .. }) => &full[range],
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

    /// Bytes of memory.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        let bytes = |piece: &Piece| piece.filling.capacity() + piece.full.as_ref().map_or(0, Bytes::len);
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
}
