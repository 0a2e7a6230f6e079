//! `/api/v1/read`: series for Prometheus servers and others that evaluate queries themselves.
//!
//! The answer is one message with samples, or a stream of frames with chunks, as the asker prefers. Neither has a place for
//! warnings, so an answer that may be incomplete is an error unless the request says `partial_response=true`. Errors are plain text.

use super::{
    answer::{ApiError, ErrorKind},
    params::Asked,
    result::PIECE_BYTES,
    stream::{self, Torn},
};
use crate::{gate::Permit, querier::Querier};
use ::http::{HeaderValue, header};
use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use model::{
    matcher::Matcher,
    sample::SampleBuffer,
    select::{Chunk, Select, SelectError, SelectRequest, Series, SeriesSet},
    time::TimeRange,
};
use proto::{
    compression::{BODY_BYTES_MAX_DEFAULT, Decompressor, Encoding},
    remote_read::{
        Query, ReadRequest, ResponseType, SAMPLES_MEDIA_TYPE, STREAMED_MEDIA_TYPE, SamplesEncoder, encode_frame,
        frame_room,
    },
};
use std::{sync::Arc, vec};
use storage::chunk::{ENCODING_FLOAT_HISTOGRAM, ENCODING_XOR, encode_samples};

pub(super) async fn read(State(querier): State<Arc<Querier>>, request: Request) -> Response {
    answer(&querier, request).await.unwrap_or_else(|error| {
        let text = format!("{}\n", error.text);
        let mut response = (error.kind.status(), text).into_response();
        error.add_retry_after(response.headers_mut());
        response
    })
}

async fn answer(querier: &Arc<Querier>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let asked = Asked::new(parts, &[])?;
    let reading = asked.whole_reading(&querier.settings)?;
    let permit = querier.enter_read(&asked.tenant).await?;
    let request = decode(body).await?;
    let form = request.response_type().ok_or_else(|| {
        let supported = [ResponseType::Samples, ResponseType::StreamedChunks].map(ResponseType::as_str);
        ApiError::bad_data(format!(
            "server does not support any of the requested response types: {:?}; supported: {supported:?}",
            request.accepted
        ))
    })?;
    let requests = request
        .queries
        .iter()
        .map(select_request)
        .collect::<Result<Vec<_>, _>>()?;
    let select = querier.select_of(&asked.tenant, &reading);
    let timeout = querier.settings.timeout;
    match form {
        ResponseType::Samples => {
            let work = samples(querier, &*select, requests);
            let body = querier.within(timeout, work).await.ok_or_else(too_late)??;
            drop(permit);
            let headers = [
                (header::CONTENT_TYPE, SAMPLES_MEDIA_TYPE),
                (header::CONTENT_ENCODING, "snappy"),
            ];
            Ok((headers, body).into_response())
        }
        ResponseType::StreamedChunks => {
            let mut frames = Frames {
                querier: querier.clone(),
                select,
                requests: requests.into_iter().enumerate(),
                current: None,
            };
            // The first piece is made before the answer begins: what fails there still becomes an error of its own.
            let first = querier.within(timeout, frames.next()).await.ok_or_else(too_late)??;
            Ok(streamed(querier, first, frames, permit))
        }
    }
}

fn too_late() -> ApiError {
    ApiError::new(ErrorKind::Timeout, "the series were not read in time")
}

async fn decode(body: Body) -> Result<ReadRequest, ApiError> {
    let bad = |text: String| ApiError::bad_data(format!("read request: {text}"));
    let body = to_bytes(body, BODY_BYTES_MAX_DEFAULT)
        .await
        .map_err(|error| bad(format!("{error} (at most {BODY_BYTES_MAX_DEFAULT} bytes are read)")))?;
    let mut decompressor = Decompressor::default();
    let message = decompressor
        .decompress(Encoding::Snappy, &body, BODY_BYTES_MAX_DEFAULT)
        .map_err(|error| bad(error.to_string()))?;
    ReadRequest::decode(message).map_err(|error| bad(error.to_string()))
}

/// What a query asks of a source. Hints may narrow the time; the rest of them helps nobody who returns every sample.
fn select_request(query: &Query) -> Result<SelectRequest, ApiError> {
    let compile = |matcher: &proto::remote_read::LabelMatcher| {
        Matcher::new(matcher.op, &matcher.name, &matcher.value)
            .map_err(|error| ApiError::bad_data(format!("matcher of {}: {error}", matcher.name)))
    };
    let matchers = query.matchers.iter().map(compile).collect::<Result<Vec<_>, _>>()?;
    let needed = query
        .hints
        .as_ref()
        .map(|hints| TimeRange::new(hints.start_ms, hints.end_ms));
    let range = match needed {
        Some(needed) if needed != TimeRange::new(0, 0) && !needed.is_empty() => query.range.intersect(needed),
        _ => query.range,
    };
    Ok(SelectRequest::new(matchers, range))
}

// --- Samples ----------------------------------------------------------------------------------------------------------

/// One message with all samples of all queries.
async fn samples(
    querier: &Arc<Querier>,
    select: &dyn Select,
    requests: Vec<SelectRequest>,
) -> Result<Vec<u8>, ApiError> {
    let samples_max = querier.settings.remote_read_samples_max;
    let mut encoder = SamplesEncoder::default();
    let mut count = 0;
    for request in requests {
        let range = request.range;
        let mut set = select.select(request).await?;
        while let Some(batch) = set.next().await {
            let batch = batch?;
            let mut moved = std::mem::take(&mut encoder);
            let work = move || {
                let added = encode_batch(&mut moved, batch, range, samples_max - count);
                (moved, added)
            };
            let (back, added) = querier.compute("remote read", work).await.ok_or_else(panicked)?;
            encoder = back;
            count += added?.ok_or_else(|| ApiError::bad_data(format!("exceeded sample limit ({samples_max})")))?;
        }
        log_warnings(&*set);
        encoder.finish_result();
    }
    querier
        .compute("remote read", move || encoder.finish())
        .await
        .ok_or_else(panicked)
}

fn panicked() -> ApiError {
    ApiError::new(ErrorKind::Internal, "reading the samples panicked")
}

fn log_warnings(set: &dyn SeriesSet) {
    for warning in set.warnings() {
        tracing::warn!(warning, "an answer to a remote read may be incomplete");
    }
}

/// Adds the series of a batch; says how many samples they have, or `None` when there are more than `room`.
fn encode_batch(
    encoder: &mut SamplesEncoder,
    batch: Vec<Series>,
    range: TimeRange,
    room: usize,
) -> Result<Option<usize>, SelectError> {
    let mut added = 0;
    let mut buffer = SampleBuffer::default();
    for series in batch {
        buffer.clear();
        series.samples.read(range, &mut buffer)?;
        added += buffer.len();
        if added > room {
            return Ok(None);
        }
        encoder.series(&series.labels, &buffer);
    }
    Ok(Some(added))
}

// --- Frames -----------------------------------------------------------------------------------------------------------

/// The frames of an answer, a piece at a time.
struct Frames {
    querier: Arc<Querier>,
    select: Arc<dyn Select>,
    requests: std::iter::Enumerate<vec::IntoIter<SelectRequest>>,
    current: Option<Current>,
}

/// The query whose series are being sent.
struct Current {
    query: usize,
    range: TimeRange,
    set: Box<dyn SeriesSet>,
    batch: vec::IntoIter<Series>,
}

fn streamed(querier: &Arc<Querier>, first: Option<Vec<u8>>, mut frames: Frames, permit: Permit) -> Response {
    let body = match first {
        None => Body::empty(),
        Some(first) => stream::body(querier, async move |pieces| {
            let _in_turn = permit;
            let mut piece = Some(first);
            while let Some(bytes) = piece {
                pieces.send(bytes).await?;
                piece = frames.next().await.map_err(|error| Torn::Failed(error.text))?;
            }
            Ok(())
        }),
    };
    let mut response = body.into_response();
    let value = HeaderValue::from_static(STREAMED_MEDIA_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

impl Frames {
    /// The next frames, together about as long as a piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        loop {
            let Some(mut current) = self.next_batch().await? else {
                return Ok(None);
            };
            let frame_bytes_max = self.querier.settings.remote_read_frame_bytes_max;
            let work = move || {
                let piece = write_frames(&mut current, frame_bytes_max);
                (current, piece)
            };
            let done = self.querier.compute("remote read", work).await;
            let (current, piece) = done.ok_or_else(panicked)?;
            self.current = Some(current);
            let piece = piece?;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// The query to go on with, with series at hand.
    async fn next_batch(&mut self) -> Result<Option<Current>, ApiError> {
        loop {
            if let Some(mut current) = self.current.take() {
                if current.batch.len() > 0 {
                    return Ok(Some(current));
                }
                if let Some(batch) = current.set.next().await {
                    current.batch = batch?.into_iter();
                    return Ok(Some(current));
                }
                log_warnings(&*current.set);
            }
            let Some((query, request)) = self.requests.next() else {
                return Ok(None);
            };
            let range = request.range;
            self.current = Some(Current {
                query,
                range,
                set: self.select.select(request).await?,
                batch: Vec::new().into_iter(),
            });
        }
    }
}

/// Frames of the next series of the batch, until they are long enough for a piece.
fn write_frames(current: &mut Current, frame_bytes_max: usize) -> Result<Vec<u8>, SelectError> {
    let mut piece = Vec::new();
    let mut buffer = SampleBuffer::default();
    for series in current.batch.by_ref() {
        let chunks = chunks_of(&series, current.range, &mut buffer)?;
        let room = frame_room(&series.labels, frame_bytes_max);
        let mut rest = &chunks[..];
        while !rest.is_empty() {
            // The chunk that reaches the bound is the last one of its frame.
            let mut bytes = 0;
            let fits = rest.iter().take_while(|chunk| {
                let fits = bytes < room;
                bytes += chunk.data.len() + 24;
                fits
            });
            let count = fits.count().max(1);
            encode_frame(&mut piece, current.query, &series.labels, &rest[..count]);
            rest = &rest[count..];
        }
        if piece.len() >= PIECE_BYTES {
            break;
        }
    }
    Ok(piece)
}

/// Chunks as they are stored when every reader can take them: of the three old encodings, one behind the other. Otherwise the
/// samples are packed anew.
fn chunks_of(series: &Series, range: TimeRange, buffer: &mut SampleBuffer) -> Result<Vec<Chunk>, SelectError> {
    let mut chunks = series.samples.chunks()?;
    chunks.retain(|chunk| range.overlaps(TimeRange::new(chunk.min_time, chunk.max_time)));
    let old = chunks
        .iter()
        .all(|chunk| (ENCODING_XOR..=ENCODING_FLOAT_HISTOGRAM).contains(&chunk.encoding));
    let apart = chunks.windows(2).all(|pair| pair[0].max_time < pair[1].min_time);
    if old && apart {
        return Ok(chunks);
    }
    buffer.clear();
    series.samples.read(range, buffer)?;
    Ok(encode_samples(buffer))
}
