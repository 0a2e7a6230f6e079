//! A file written front to back in large pieces, by a writer that must know where it is.

use crate::chunk::put_uvarint;
use model::env::{File, Fs};
use std::{io, path::Path};

/// Bytes gathered before they go to the file.
const BUFFER_BYTES: usize = 512 << 10;

/// Whether a file is made durable when it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// At once.
    Now,
    /// Whoever wrote it sees to it, for many files in one go.
    Later,
}

/// A file being written.
pub(crate) struct Sink {
    file: Box<dyn File>,
    buffer: Vec<u8>,
    /// Bytes that already went to the file.
    flushed: u64,
}

impl Sink {
    /// Creates the file, which must not exist.
    pub(crate) fn create(fs: &dyn Fs, path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: fs.create(path)?,
            // It grows up to its size: small files are many.
            buffer: Vec::new(),
            flushed: 0,
        })
    }

    /// Where the next byte will lie.
    pub(crate) fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            self.file.append(bytes)?;
            self.flushed += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Writes zeros up to the next multiple of `alignment`, at most 16.
    pub(crate) fn align(&mut self, alignment: u64) -> io::Result<()> {
        let over = self.position() % alignment;
        if over == 0 {
            return Ok(());
        }
        self.write(&[0; 16][..(alignment - over) as usize])
    }

    /// Writes a section: its length in four bytes, the content, its checksum.
    pub(crate) fn write_section(&mut self, content: &[u8]) -> io::Result<()> {
        let len = u32::try_from(content.len())
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "a section of the index passes 4 GiB"))?;
        self.write(&len.to_be_bytes())?;
        self.write(content)?;
        self.write(&crc32c::crc32c(content).to_be_bytes())
    }

    /// Writes an entry: its length as a varint, the content, its checksum.
    pub(crate) fn write_counted(&mut self, content: &[u8]) -> io::Result<()> {
        if self.buffer.len() + content.len() + 16 > BUFFER_BYTES {
            self.flush()?;
        }
        put_uvarint(&mut self.buffer, content.len() as u64);
        self.write(content)?;
        self.write(&crc32c::crc32c(content).to_be_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.append(&self.buffer)?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left and makes it durable; gives the size.
    pub(crate) fn finish(mut self, durability: Durability) -> io::Result<u64> {
        self.flush()?;
        if durability == Durability::Now {
            self.file.sync()?;
        }
        Ok(self.flushed)
    }
}
