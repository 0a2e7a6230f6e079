//! Answers to writes. Status codes are the protocol: senders keep, drop or repeat data by them (promise P4).
//!
//! 204 everything is stored; 400 content that can never be accepted (the good part is stored); 415 encoding or message
//! type; 503 with `Retry-After` when it is worth repeating. Others are not used on the write path, since some senders drop
//! data at them and others repeat the same body for ever.

use crate::{negotiate::Version, tally::Written};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use model::env::Rng;
use std::time::Duration;

/// Longest text of an answer. Prometheus reads 1,024 bytes of it.
const TEXT_BYTES_MAX: usize = 8 << 10;

const SAMPLES_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-samples-written");
const HISTOGRAMS_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-histograms-written");
const EXEMPLARS_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-exemplars-written");

/// The answer to a write, before it becomes HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteAnswer {
    /// The status code.
    pub status: StatusCode,
    /// Headers of the answer.
    pub headers: HeaderMap,
    /// Plain text; empty on success.
    pub body: String,
    /// Whether what is not named as refused is stored.
    pub is_partial: bool,
}

impl WriteAnswer {
    /// Everything is stored.
    pub(crate) fn stored() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            headers: HeaderMap::new(),
            body: String::new(),
            is_partial: false,
        }
    }

    /// Something is wrong with the request, in words.
    pub(crate) fn refused(status: StatusCode, mut text: String) -> Self {
        if text.len() > TEXT_BYTES_MAX {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        // The text shows labels as sent; no browser is to take them for a page.
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        text.push('\n');
        Self {
            status,
            headers,
            body: text,
            is_partial: false,
        }
    }

    /// Not now. `retry_after` is stretched at random to up to twice, so that senders do not come back all at once.
    pub(crate) fn unavailable(text: String, retry_after: Duration, rng: &dyn Rng) -> Self {
        let mut answer = Self::refused(StatusCode::SERVICE_UNAVAILABLE, text);
        let least = retry_after.as_secs_f64().ceil().clamp(1.0, 3_600.0) as u64;
        let seconds = least + rng.next_u64() % (least + 1);
        answer.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        answer
    }

    /// Adds how much was written, which 2.0 wants on every answer, and which on a 1.0 answer would be taken for 2.0.
    pub(crate) fn with_written(mut self, version: Version, written: Written) -> Self {
        if version == Version::V2 {
            self.headers.insert(SAMPLES_WRITTEN, HeaderValue::from(written.floats));
            self.headers
                .insert(HISTOGRAMS_WRITTEN, HeaderValue::from(written.histograms));
            self.headers
                .insert(EXEMPLARS_WRITTEN, HeaderValue::from(written.exemplars));
        }
        self
    }
}
