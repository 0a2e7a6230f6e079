//! Messages of the stream on which one node hands samples to another: what `model::push` says, in few bytes.
//!
//! Client and server speak on one stream for as long as the connection lives, a *session*. The server begins with [`ServerMessage::Hello`].
//! A series crosses with its labels once; the answer gives it a number of this session, and from then on the number is all. A message is
//! protobuf on the outside, so that fields can be added; inside, samples lie in columns: numbers and timestamps as differences, values as
//! their significant bytes. A sample of a steady series takes a byte and a half and its value, whose first byte is often left out.
//!
//! ```text
//! series   one varint each: (difference of number, zigzag) << 2 | counts? << 1 | labels?
//!          then, with counts: how many floats, histograms, exemplars; without: one float and nothing else
//! labels   for each series with labels: how many, then length and text of each name and value
//! times    zigzag difference to the timestamp before; the first one to the time of arrival; zeros at the end are left out
//! lengths  for each float how many bytes of its value stand in `values`, four bits each, the lower ones first: 0 to 8; 9 to 15 stand for 2
//!          to 8 bytes of which the first is not there, being that of the value before (zeros not counted)
//! values   the bits of each float, highest byte first, without the zero bytes at the end
//! starts   zigzag difference to the sample's timestamp; absent when no start is known
//! ```
//!
//! Bytes come from the network: nothing panics, nothing is believed, and nothing is allocated that was not paid for with bytes.

mod read;
mod write;

pub use read::{read_client_message, read_server_message};
pub use write::{Name, PushWriter, Sent, Written, write_hello, write_outcome, write_ping, write_pong};

use crate::{histogram::HistogramError, protobuf::WireError};
use model::{
    label::LabelError,
    push::{PushError, WriteBatch, WriteOutcome},
    tenant::TenantError,
    time::Timestamp,
};

/// What this version speaks. A server that speaks less is not written to.
pub const PROTOCOL_VERSION: u64 = 2;

/// Longest message that is read.
pub const MESSAGE_BYTES_MAX: usize = 24 << 20;

/// A writer begins another message behind so many bytes of labels, histograms and the like.
pub const MESSAGE_BYTES_SPLIT: usize = 4 << 20;

/// Most samples and series of one message.
pub const MESSAGE_ITEMS_MAX: usize = 1 << 20;

/// From client to server.
#[derive(Debug)]
pub enum ClientMessage {
    /// Samples.
    Push(PushRequest),
    /// Are you there?
    Ping {
        /// Comes back in the pong.
        id: u64,
    },
}

/// Samples on their way.
#[derive(Debug)]
pub struct PushRequest {
    /// Comes back in the answer.
    pub id: u64,
    /// When they arrived, by the client's clock.
    pub received: Timestamp,
    /// The samples. A known series is named by its number of the session.
    pub batch: WriteBatch,
}

/// From server to client.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerMessage {
    /// Opens the session.
    Hello {
        /// What the server speaks.
        version: u64,
        /// The number that its process gave itself when it started; 0 when it does not tell.
        process: u64,
    },
    /// What became of a push.
    Outcome {
        /// Which one.
        id: u64,
        /// Verdicts; numbers in it are those of the session.
        result: Result<WriteOutcome, PushError>,
    },
    /// Here.
    Pong {
        /// Of the ping.
        id: u64,
    },
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// Not protobuf.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// Columns that contradict each other.
    #[error("invalid push message: {0}")]
    Column(&'static str),
    /// Labels that are none.
    #[error("invalid push message: {0}")]
    Labels(#[from] LabelError),
    /// A tenant that is none.
    #[error("invalid push message: {0}")]
    Tenant(#[from] TenantError),
    /// A histogram that is none.
    #[error("invalid push message: {0}")]
    Histogram(#[from] HistogramError),
}

/// A length above eight is that of a value whose first byte is left out, and this.
const SAME_FIRST: u8 = 7;

/// Field numbers of both messages.
mod field {
    pub(super) const ID: u32 = 1;
    pub(super) const KIND: u32 = 2;
    pub(super) const TENANT: u32 = 3;
    pub(super) const RECEIVED: u32 = 4;
    pub(super) const SERIES: u32 = 5;
    pub(super) const LABELS: u32 = 6;
    pub(super) const TIMES: u32 = 7;
    pub(super) const LENGTHS: u32 = 8;
    pub(super) const VALUES: u32 = 9;
    pub(super) const STARTS: u32 = 10;
    pub(super) const HISTOGRAM: u32 = 11;
    pub(super) const EXEMPLAR: u32 = 12;
    pub(super) const METADATA: u32 = 13;

    pub(super) const VERSION: u32 = 3;
    pub(super) const UNAVAILABLE: u32 = 4;
    pub(super) const RETRY_AFTER_MS: u32 = 5;
    pub(super) const EXCEPTIONS: u32 = 6;
    pub(super) const REFS: u32 = 7;
    pub(super) const UNKNOWN: u32 = 8;
    pub(super) const PROCESS: u32 = 9;
}

/// Values of the field `KIND`.
mod kind {
    pub(super) const PUSH: u64 = 0;
    pub(super) const PING: u64 = 1;

    pub(super) const OUTCOME: u64 = 0;
    pub(super) const PONG: u64 = 1;
    pub(super) const HELLO: u64 = 2;
}

/// Bits of the varint of a series.
const WITH_LABELS: u64 = 1;
const WITH_COUNTS: u64 = 2;

/// Verdict codes: these two, then refusals by the place of their reason in [`REASONS`].
const DUPLICATE: u64 = 0;
const REASONS_FROM: u64 = 1;

/// Reasons by their number on the wire. It may only grow at its end.
const REASONS: [model::verdict::Reason; 13] = {
    use model::verdict::Reason::*;
    [
        OutOfOrder,
        DuplicateTimestamp,
        TooOld,
        TooFarInFuture,
        MissingMetricName,
        InvalidLabel,
        DuplicateLabel,
        TooManyLabels,
        InvalidHistogram,
        SeriesLimit,
        InvalidSymbolRef,
        NoSamples,
        InvalidExemplar,
    ]
};

#[cfg(test)]
mod tests;
