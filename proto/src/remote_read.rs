//! Remote read: what a Prometheus server asks (`prometheus.ReadRequest`), and the two forms of answers to it.
//!
//! An answer of samples is one message, compressed with snappy. A streamed answer is a row of frames, each a message with its
//! length and checksum, in which chunks travel as they are stored. The querier serves both; tests read both.

mod frames;
mod request;
mod samples;

pub use frames::{FrameError, FramedSeries, encode_frame, frame_room, read_frame};
pub use request::{Hints, LabelMatcher, Query, ReadRequest, ResponseType};
pub use samples::{SampledSeries, SamplesEncoder, decode_samples};

/// Media type of an answer of samples.
pub const SAMPLES_MEDIA_TYPE: &str = "application/x-protobuf";

/// Media type of a streamed answer.
pub const STREAMED_MEDIA_TYPE: &str = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
