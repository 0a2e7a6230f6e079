//! Decompression of request bodies under a cap, into a buffer that is used again.
//!
//! The receiver calls it for each remote write request. Whatever the bytes claim, memory is bounded by the caller's limit:
//! a declared length is compared with it before anything is allocated, and formats that declare none grow towards it
//! step by step.

use flate2::read::MultiGzDecoder;
use std::{fmt, io::Read};
use zstd::zstd_safe;

/// How many bytes a request body may have by default, compressed as well as decompressed. Prometheus has the same bound.
pub const BODY_BYTES_MAX_DEFAULT: usize = 32 << 20;

/// First step of formats that do not declare their length.
const GROWTH_START_BYTES: usize = 64 << 10;

/// The first chunk of the snappy *framed* format, which senders confuse with the block format.
const SNAPPY_FRAMED_MAGIC: &[u8] = b"\xff\x06\x00\x00sNaPpY";
const GZIP_MAGIC: &[u8] = b"\x1f\x8b";
const ZSTD_MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";
/// Skippable frames, which may precede a zstd frame, begin with 0x50 to 0x5f and these.
const ZSTD_SKIPPABLE_MAGIC_TAIL: &[u8] = b"\x2a\x4d\x18";
/// What zstd answers when the output does not fit: minus `ZSTD_error_dstSize_tooSmall`, which its header declares stable.
const ZSTD_OUTPUT_TOO_SMALL: usize = 0usize.wrapping_sub(70);

/// A content encoding of remote write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Snappy block format, what the specifications ask for.
    Snappy,
    /// Zstandard: vmagent, Vector, Fluent Bit.
    Zstd,
    /// Gzip: Vector, Fluent Bit.
    Gzip,
    /// Not compressed.
    Identity,
    /// No header: snappy if the bytes are, else not compressed.
    Unstated,
}

impl Encoding {
    /// The encoding that a `Content-Encoding` header names; `None` when it is not supported.
    pub fn from_header(header: Option<&str>) -> Option<Self> {
        let Some(header) = header.map(str::trim).filter(|header| !header.is_empty()) else {
            return Some(Encoding::Unstated);
        };
        [Encoding::Snappy, Encoding::Zstd, Encoding::Gzip, Encoding::Identity]
            .into_iter()
            .find(|encoding| header.eq_ignore_ascii_case(encoding.as_str()))
    }

    /// The name in headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Encoding::Snappy => "snappy",
            Encoding::Zstd => "zstd",
            Encoding::Gzip => "gzip",
            Encoding::Identity => "identity",
            Encoding::Unstated => "unstated",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a body could not be decompressed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The body declares or reaches more bytes than allowed.
    #[error("the decompressed body has more than the limit of {limit} bytes{}", declared_text(.declared))]
    TooLarge {
        /// How many are allowed.
        limit: usize,
        /// How many the body says it has, when it says so.
        declared: Option<u64>,
    },
    /// The body is not what its encoding says.
    #[error("the body is no valid {encoding} data: {detail}")]
    Corrupt {
        /// What it should be.
        encoding: Encoding,
        /// What is wrong.
        detail: String,
    },
    /// The body is in the framed snappy format.
    #[error("the body is in the snappy framed format; remote write uses the snappy block format, without frames")]
    SnappyFramed,
    /// The body does not even begin like its encoding, so the header is wrong rather than the body.
    #[error("the Content-Encoding header says {0}, but the body does not begin like {0} data")]
    WrongEncoding(Encoding),
}

fn declared_text(declared: &Option<u64>) -> String {
    declared
        .map(|bytes| format!(": it declares {bytes}"))
        .unwrap_or_default()
}

/// Decompresses one body after the other into the same memory.
#[derive(Default)]
pub struct Decompressor {
    /// Output. Its length only grows, so that it is zeroed once and not for each body.
    buffer: Vec<u8>,
    snappy: snap::raw::Decoder,
    zstd: Option<zstd_safe::DCtx<'static>>,
}

impl Decompressor {
    /// The decompressed `body`, which may have at most `limit` bytes.
    pub fn decompress<'a>(
        &'a mut self,
        encoding: Encoding,
        body: &'a [u8],
        limit: usize,
    ) -> Result<&'a [u8], CompressionError> {
        match encoding {
            Encoding::Identity => within(body, limit),
            Encoding::Snappy => {
                let len = self.snappy(body, limit)?;
                Ok(&self.buffer[..len])
            }
            Encoding::Unstated => match self.snappy(body, limit) {
                Ok(len) => Ok(&self.buffer[..len]),
                // The first byte of a bare request is a tag, which as a snappy length is far below any limit.
                Err(error @ (CompressionError::SnappyFramed | CompressionError::TooLarge { .. })) => Err(error),
                Err(_) => within(body, limit),
            },
            Encoding::Gzip => {
                let len = self.gzip(body, limit)?;
                Ok(&self.buffer[..len])
            }
            Encoding::Zstd => {
                let len = self.zstd(body, limit)?;
                Ok(&self.buffer[..len])
            }
        }
    }

    /// How many bytes `body` declares to have when decompressed; `None` when its encoding or the body does not say.
    pub fn declared_len(encoding: Encoding, body: &[u8]) -> Option<u64> {
        match encoding {
            Encoding::Identity => Some(body.len() as u64),
            Encoding::Snappy | Encoding::Unstated => snap::raw::decompress_len(body).ok().map(|len| len as u64),
            Encoding::Zstd => zstd_safe::get_frame_content_size(body).ok().flatten(),
            Encoding::Gzip => None,
        }
    }

    /// Bytes of memory that are kept for the next body.
    pub fn retained_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    fn snappy(&mut self, body: &[u8], limit: usize) -> Result<usize, CompressionError> {
        if body.starts_with(SNAPPY_FRAMED_MAGIC) {
            return Err(CompressionError::SnappyFramed);
        }
        let corrupt = |error: snap::Error| CompressionError::Corrupt {
            encoding: Encoding::Snappy,
            detail: error.to_string(),
        };
        let declared = match snap::raw::decompress_len(body) {
            Err(snap::Error::TooBig { given, .. }) => {
                return Err(CompressionError::TooLarge {
                    limit,
                    declared: Some(given),
                });
            }
            declared => declared.map_err(corrupt)?,
        };
        if declared > limit {
            return Err(CompressionError::TooLarge {
                limit,
                declared: Some(declared as u64),
            });
        }
        fit(&mut self.buffer, declared);
        self.snappy
            .decompress(body, &mut self.buffer[..declared])
            .map_err(corrupt)
    }

    fn gzip(&mut self, body: &[u8], limit: usize) -> Result<usize, CompressionError> {
        if !body.starts_with(GZIP_MAGIC) {
            return Err(CompressionError::WrongEncoding(Encoding::Gzip));
        }
        let mut decoder = MultiGzDecoder::new(body);
        let mut len = 0;
        loop {
            if len == self.buffer.len() {
                fit(
                    &mut self.buffer,
                    (len * 2).max(GROWTH_START_BYTES).min(limit.saturating_add(1)),
                );
            }
            let room = self.buffer.len().min(limit.saturating_add(1));
            match decoder.read(&mut self.buffer[len..room]) {
                Ok(0) => return Ok(len),
                Ok(read) => len += read,
                Err(error) => {
                    return Err(CompressionError::Corrupt {
                        encoding: Encoding::Gzip,
                        detail: error.to_string(),
                    });
                }
            }
            if len > limit {
                return Err(CompressionError::TooLarge { limit, declared: None });
            }
        }
    }

    /// Decodes in one call, which needs no window besides the output. The first frame usually declares the length; when
    /// it does not, or more frames follow, the output grows fourfold until it fits or the limit is reached.
    fn zstd(&mut self, body: &[u8], limit: usize) -> Result<usize, CompressionError> {
        if !begins_like_zstd(body) {
            return Err(CompressionError::WrongEncoding(Encoding::Zstd));
        }
        let corrupt = |detail: &str| CompressionError::Corrupt {
            encoding: Encoding::Zstd,
            detail: detail.to_owned(),
        };
        let declared = zstd_safe::get_frame_content_size(body).map_err(|_| corrupt("the frame header is damaged"))?;
        if let Some(declared) = declared.filter(|declared| *declared > limit as u64) {
            return Err(CompressionError::TooLarge {
                limit,
                declared: Some(declared),
            });
        }
        let context = match &mut self.zstd {
            Some(context) => context,
            none => none.insert(zstd_safe::DCtx::try_create().ok_or_else(|| corrupt("no memory for a context"))?),
        };
        let mut room = declared.map_or(body.len().saturating_mul(4), |declared| declared as usize);
        room = room.max(GROWTH_START_BYTES).max(self.buffer.len()).min(limit);
        loop {
            fit(&mut self.buffer, room);
            match context.decompress(&mut self.buffer[..room], body) {
                Ok(len) => return Ok(len),
                Err(ZSTD_OUTPUT_TOO_SMALL) if room < limit => room = room.saturating_mul(4).min(limit),
                Err(ZSTD_OUTPUT_TOO_SMALL) => return Err(CompressionError::TooLarge { limit, declared: None }),
                Err(code) => return Err(corrupt(zstd_safe::get_error_name(code))),
            }
        }
    }
}

fn within(body: &[u8], limit: usize) -> Result<&[u8], CompressionError> {
    if body.len() > limit {
        return Err(CompressionError::TooLarge {
            limit,
            declared: Some(body.len() as u64),
        });
    }
    Ok(body)
}

fn begins_like_zstd(body: &[u8]) -> bool {
    body.starts_with(ZSTD_MAGIC)
        || (body.first().is_some_and(|byte| byte & 0xf0 == 0x50) && body[1..].starts_with(ZSTD_SKIPPABLE_MAGIC_TAIL))
}

/// Makes `buffer` at least `len` long.
fn fit(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        buffer.reserve_exact(len - buffer.len());
        buffer.resize(len, 0);
    }
}

/// The snappy block encoding of `body`, as senders make it.
pub fn snappy(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; snap::raw::max_compress_len(body.len())];
    // The output is as long as snappy asks for, and bodies are far below its bound of 4 GiB.
    let len = snap::raw::Encoder::new().compress(body, &mut out).unwrap_or(0);
    out.truncate(len);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LIMIT: usize = 1 << 20;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_undeclared(body: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn encode(encoding: Encoding, body: &[u8]) -> Vec<u8> {
        match encoding {
            Encoding::Snappy | Encoding::Unstated => snappy(body),
            Encoding::Gzip => gzip(body),
            Encoding::Zstd => zstd::bulk::compress(body, 1).unwrap(),
            Encoding::Identity => body.to_vec(),
        }
    }

    const ALL: [Encoding; 5] = [
        Encoding::Snappy,
        Encoding::Zstd,
        Encoding::Gzip,
        Encoding::Identity,
        Encoding::Unstated,
    ];

    #[test]
    fn every_encoding_comes_back_at_every_size_up_to_the_limit() {
        let mut decompressor = Decompressor::default();
        for len in [0, 1, 100, 65_536, 65_537, 300_000, LIMIT - 1, LIMIT, 17] {
            let body: Vec<u8> = (0..len).map(|index| (index / 7) as u8).collect();
            for encoding in ALL {
                let wire = encode(encoding, &body);
                assert_eq!(
                    decompressor.decompress(encoding, &wire, LIMIT),
                    Ok(&body[..]),
                    "{encoding} of {len}"
                );
            }
            assert_eq!(
                decompressor.decompress(Encoding::Zstd, &zstd_undeclared(&body), LIMIT),
                Ok(&body[..])
            );
        }
    }

    #[test]
    fn one_byte_above_the_limit_is_refused_by_every_encoding() {
        let body = vec![0u8; LIMIT + 1];
        for encoding in [Encoding::Snappy, Encoding::Zstd, Encoding::Gzip, Encoding::Identity] {
            let wire = encode(encoding, &body);
            let error = Decompressor::default().decompress(encoding, &wire, LIMIT).unwrap_err();
            assert!(
                matches!(error, CompressionError::TooLarge { limit: LIMIT, .. }),
                "{encoding}: {error}"
            );
        }
        let error = Decompressor::default()
            .decompress(Encoding::Zstd, &zstd_undeclared(&body), LIMIT)
            .unwrap_err();
        assert_eq!(
            error,
            CompressionError::TooLarge {
                limit: LIMIT,
                declared: None
            }
        );
    }

    #[test]
    fn bombs_cost_no_more_than_the_limit() {
        let bomb = vec![0u8; 64 << 20];
        let mut frames = zstd::bulk::compress(b"small", 1).unwrap();
        frames.extend(zstd_undeclared(&bomb));
        for (encoding, wire) in [
            (Encoding::Gzip, gzip(&bomb)),
            (Encoding::Zstd, zstd_undeclared(&bomb)),
            (Encoding::Zstd, frames),
            (Encoding::Zstd, zstd::bulk::compress(&bomb, 1).unwrap()),
            (Encoding::Snappy, snappy(&bomb)),
        ] {
            let mut decompressor = Decompressor::default();
            let error = decompressor.decompress(encoding, &wire, LIMIT).unwrap_err();
            assert!(matches!(error, CompressionError::TooLarge { .. }), "{error}");
            assert!(
                decompressor.retained_bytes() <= LIMIT + 1,
                "{encoding} took {}",
                decompressor.retained_bytes()
            );
        }
    }

    #[test]
    fn a_declared_length_is_checked_before_memory_is_taken() {
        let four_gib = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
        let beyond = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        for wire in [&four_gib[..], &beyond[..]] {
            let mut decompressor = Decompressor::default();
            let error = decompressor.decompress(Encoding::Snappy, wire, LIMIT).unwrap_err();
            assert!(!matches!(error, CompressionError::SnappyFramed), "{error}");
            assert_eq!(decompressor.retained_bytes(), 0);
        }
    }

    #[test]
    fn a_limit_below_the_first_step_of_growth_holds() {
        let body = [7u8; 100];
        for encoding in ALL {
            let wire = encode(encoding, &body);
            assert!(matches!(
                Decompressor::default().decompress(encoding, &wire, 99),
                Err(CompressionError::TooLarge { limit: 99, .. })
            ));
            assert_eq!(
                Decompressor::default().decompress(encoding, &wire, 100),
                Ok(&body[..]),
                "{encoding}"
            );
        }
    }

    #[test]
    fn many_frames_and_members_are_one_body() {
        let mut zstd = zstd::bulk::compress(b"one ", 1).unwrap();
        zstd.extend(zstd::bulk::compress(b"two", 1).unwrap());
        let mut members = gzip(b"one ");
        members.extend(gzip(b"two"));
        let mut decompressor = Decompressor::default();
        assert_eq!(
            decompressor.decompress(Encoding::Zstd, &zstd, LIMIT),
            Ok(&b"one two"[..])
        );
        assert_eq!(
            decompressor.decompress(Encoding::Gzip, &members, LIMIT),
            Ok(&b"one two"[..])
        );
    }

    #[test]
    fn bodies_cut_at_any_byte_are_errors_without_panic() {
        let body: Vec<u8> = (0..2_000u32).flat_map(|index| (index * index).to_le_bytes()).collect();
        for encoding in [Encoding::Snappy, Encoding::Zstd, Encoding::Gzip] {
            let wire = encode(encoding, &body);
            let mut decompressor = Decompressor::default();
            for cut in 0..wire.len() {
                assert!(
                    decompressor.decompress(encoding, &wire[..cut], LIMIT).is_err(),
                    "{encoding} cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn the_framed_snappy_format_is_named() {
        let mut framed = snap::write::FrameEncoder::new(Vec::new());
        framed.write_all(b"hello hello hello").unwrap();
        let framed = framed.into_inner().unwrap();
        for encoding in [Encoding::Snappy, Encoding::Unstated] {
            let error = Decompressor::default()
                .decompress(encoding, &framed, LIMIT)
                .unwrap_err();
            assert_eq!(error, CompressionError::SnappyFramed);
        }
    }

    #[test]
    fn a_body_that_contradicts_its_header_is_told_apart_from_a_damaged_one() {
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let error = Decompressor::default()
                .decompress(encoding, &snappy(b"abc"), LIMIT)
                .unwrap_err();
            assert_eq!(error, CompressionError::WrongEncoding(encoding));
        }
    }

    #[test]
    fn without_a_header_plain_bytes_are_taken_as_they_are() {
        let plain = b"\x0a\x03abc plain";
        assert_eq!(
            Decompressor::default().decompress(Encoding::Unstated, plain, LIMIT),
            Ok(&plain[..])
        );
    }

    #[test]
    fn headers_name_encodings_in_any_case() {
        assert_eq!(Encoding::from_header(None), Some(Encoding::Unstated));
        assert_eq!(Encoding::from_header(Some(" ")), Some(Encoding::Unstated));
        assert_eq!(Encoding::from_header(Some("Snappy")), Some(Encoding::Snappy));
        assert_eq!(Encoding::from_header(Some(" zstd ")), Some(Encoding::Zstd));
        assert_eq!(Encoding::from_header(Some("gzip")), Some(Encoding::Gzip));
        assert_eq!(Encoding::from_header(Some("identity")), Some(Encoding::Identity));
        for other in ["deflate", "br", "snappy, gzip", "snappy-framed"] {
            assert_eq!(Encoding::from_header(Some(other)), None, "{other}");
        }
    }
}
