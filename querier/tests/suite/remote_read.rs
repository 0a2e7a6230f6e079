//! Remote read: both forms of answers, what is negotiated, what goes wrong.

use crate::common::{Memory, NOW, Tenants, TestClock, api::Api};
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use model::{
    env::Clock,
    histogram::{Histogram, Span},
    label::Labels,
    matcher::MatchOp,
    sample::{HistogramSample, SampleBuffer},
    select::SelectError,
    tenant::Tenant,
    time::TimeRange,
};
use proto::{
    compression::{Decompressor, Encoding, snappy},
    remote_read::{FramedSeries, Hints, LabelMatcher, Query, ReadRequest, decode_samples, read_frame},
};
use querier::{Fanout, Policy, QuerierSettings};
use std::{sync::Arc, time::Duration};
use storage::chunk::{self, encode_floats};
use tower::ServiceExt;

const URI: &str = "/api/v1/read";

fn histogram(at: i64, count: f64) -> HistogramSample {
    let histogram = Histogram {
        integer: true,
        count,
        sum: count * 2.0,
        zero_threshold: 0.001,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_buckets: vec![count],
        ..Histogram::default()
    };
    HistogramSample {
        at,
        start: 0,
        histogram: Arc::new(histogram),
    }
}

/// Two counters of an hour, and a native histogram.
fn world() -> Memory {
    let samples: Vec<_> = (0..240)
        .map(|index| (NOW - 3_600_000 + index * 15_000, index as f64 * 1.5))
        .collect();
    Memory::new()
        .floats(&[("__name__", "up"), ("job", "b")], &samples)
        .floats(&[("__name__", "up"), ("job", "a")], &samples)
        .histograms(
            &[("__name__", "latency")],
            vec![histogram(NOW - 60_000, 1.0), histogram(NOW - 30_000, 2.0)],
        )
}

fn query(name: &str, min: i64, max: i64) -> Query {
    Query {
        range: TimeRange::new(min, max),
        matchers: vec![LabelMatcher {
            op: MatchOp::Equal,
            name: "__name__".into(),
            value: name.into(),
        }],
        hints: None,
    }
}

fn request(accepted: &[u64], queries: Vec<Query>) -> Vec<u8> {
    let request = ReadRequest {
        queries,
        accepted: accepted.to_vec(),
    };
    snappy(&request.encode())
}

async fn post(api: &Api, uri: &str, body: Vec<u8>) -> crate::common::api::Reply {
    let request = Request::post(uri)
        .header("content-type", "application/x-protobuf")
        .header("content-encoding", "snappy")
        .header("accept-encoding", "snappy")
        .header("x-prometheus-remote-read-version", "0.1.0");
    api.send(request.body(Body::from(body)).unwrap()).await
}

fn frames(mut body: &[u8]) -> Vec<FramedSeries> {
    let mut all = Vec::new();
    while let Some(frame) = read_frame(&mut body, 50 << 20).unwrap() {
        all.push(frame);
    }
    all
}

fn decoded(frame: &FramedSeries) -> SampleBuffer {
    let mut buffer = SampleBuffer::default();
    for chunk in &frame.chunks {
        chunk::decode(chunk.encoding, &chunk.data, TimeRange::ALL, &mut buffer).unwrap();
    }
    buffer
}

fn label<'a>(frame: &'a FramedSeries, name: &str) -> &'a str {
    frame
        .labels
        .iter()
        .find(|(n, _)| n == name)
        .map_or("", |(_, value)| value)
}

// --- Both forms ---------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn samples_come_in_one_message_with_a_result_for_each_query() {
    let api = Api::new(world());
    let queries = vec![
        query("up", NOW - 60_000, NOW),
        query("nothing", 0, NOW),
        query("latency", 0, NOW),
    ];
    for accepted in [&[][..], &[0], &[0, 1], &[7, 0]] {
        let reply = post(&api, URI, request(accepted, queries.clone())).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.headers["content-type"], "application/x-protobuf");
        assert_eq!(reply.headers["content-encoding"], "snappy");
        let mut decompressor = Decompressor::default();
        let message = decompressor.decompress(Encoding::Snappy, &reply.body, 1 << 20).unwrap();
        let results = decode_samples(message).unwrap();
        let shape: Vec<usize> = results.iter().map(Vec::len).collect();
        assert_eq!(shape, [2, 0, 1]);
        let times: Vec<i64> = results[0][0].floats.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [NOW - 60_000, NOW - 45_000, NOW - 30_000, NOW - 15_000]);
        assert_eq!(results[0][0].floats[0].1, 236.0 * 1.5);
        assert_eq!(
            results[2][0].histograms,
            [histogram(NOW - 60_000, 1.0), histogram(NOW - 30_000, 2.0)]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_in_frames_sorted_by_labels() {
    let api = Api::new(world());
    let queries = vec![query("latency", 0, NOW), query("up", NOW - 60_000, NOW)];
    let reply = post(&api, URI, request(&[1, 0], queries)).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(
        reply.headers["content-type"],
        "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
    );
    assert!(!reply.headers.contains_key("content-encoding"));
    let frames = frames(&reply.body);
    let shown: Vec<(u64, &str, &str)> = frames
        .iter()
        .map(|frame| (frame.query, label(frame, "__name__"), label(frame, "job")))
        .collect();
    assert_eq!(shown, [(0, "latency", ""), (1, "up", "a"), (1, "up", "b")]);
    assert_eq!(decoded(&frames[0]).histograms.len(), 2);
    assert_eq!(frames[0].chunks[0].encoding, 2);
    // Only the chunk that the span touches, whole as it is stored.
    assert_eq!(frames[1].chunks.len(), 1);
    assert_eq!(decoded(&frames[1]).timestamps.len(), 120);
    assert_eq!(frames[1].chunks[0].max_time, NOW - 15_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_series_goes_on_in_further_frames() {
    let settings = QuerierSettings {
        remote_read_frame_bytes_max: 100,
        ..QuerierSettings::default()
    };
    let api = Api::with(world().shared(), settings);
    let reply = post(&api, URI, request(&[1], vec![query("up", 0, NOW)])).await;
    let frames = frames(&reply.body);
    let jobs: Vec<&str> = frames.iter().map(|frame| label(frame, "job")).collect();
    assert_eq!(jobs, ["a", "a", "b", "b"], "one chunk of 120 samples reaches the bound");
    let mut all = decoded(&frames[0]);
    all.timestamps.extend(decoded(&frames[1]).timestamps);
    assert_eq!(all.timestamps.len(), 240);
    assert!(all.timestamps.is_sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_narrow_the_time() {
    let api = Api::new(world());
    let mut narrowed = query("up", 0, NOW);
    narrowed.hints = Some(Hints {
        start_ms: NOW - 30_000,
        end_ms: NOW,
        function: "rate".into(),
        ..Hints::default()
    });
    let reply = post(&api, URI, request(&[], vec![narrowed.clone()])).await;
    let floats = |reply: &crate::common::api::Reply| {
        let mut decompressor = Decompressor::default();
        let message = decompressor.decompress(Encoding::Snappy, &reply.body, 1 << 20).unwrap();
        decode_samples(message).unwrap()[0][0].floats.len()
    };
    assert_eq!(floats(&reply), 2);
    // Hints that say nothing narrow nothing.
    narrowed.hints = Some(Hints::default());
    let reply = post(&api, URI, request(&[], vec![narrowed])).await;
    assert_eq!(floats(&reply), 240);
}

/// Sources whose chunks overlap, or are of a kind that old readers do not know, are packed anew.
#[tokio::test(flavor = "multi_thread")]
async fn overlapping_chunks_are_sent_as_one_row() {
    let half = |first: i64, count: i64| {
        let samples: Vec<_> = (0..count)
            .map(|index| (NOW - 600_000 + (first + index) * 1000, (first + index) as f64))
            .collect();
        Memory::new().floats(&[("__name__", "up")], &samples)
    };
    let sources = vec![
        ("one".into(), half(0, 200).shared()),
        ("two".into(), half(100, 200).shared()),
    ];
    let api = Api::with(Arc::new(Fanout::new(sources)), QuerierSettings::default());
    let reply = post(&api, URI, request(&[1], vec![query("up", 0, NOW)])).await;
    let frames = frames(&reply.body);
    assert_eq!(frames.len(), 1);
    let ends: Vec<_> = frames[0]
        .chunks
        .iter()
        .map(|chunk| (chunk.min_time, chunk.max_time))
        .collect();
    assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ends:?}");
    let samples = decoded(&frames[0]);
    let expected: Vec<f64> = (0..300).map(f64::from).collect();
    assert_eq!(samples.values, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_streamed_in_pieces() {
    let samples: Vec<_> = (0..600)
        .map(|index| (NOW - 600_000 + index * 1000, (index as f64).sqrt()))
        .collect();
    let many = (0..400).fold(Memory::new(), |memory, index| {
        memory.floats(&[("__name__", "big"), ("index", &format!("{index:03}"))], &samples)
    });
    let api = Api::new(many);
    let reply = post(&api, URI, request(&[1], vec![query("big", 0, NOW)])).await;
    assert!(reply.body.len() > 1 << 20, "{}", reply.body.len());
    let frames = frames(&reply.body);
    let names: Vec<&str> = frames.iter().map(|frame| label(frame, "index")).collect();
    assert!(names.is_sorted());
    assert_eq!(names.len(), 400);
    assert!(frames.iter().all(|frame| decoded(frame).values.len() == 600));
}

// --- What goes wrong -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_understood_are_refused() {
    let api = Api::new(world());
    let refused = async |body: Vec<u8>, text: &str| {
        let reply = post(&api, URI, body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.text());
        assert!(
            reply.headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with("text/plain")
        );
        assert!(reply.text().contains(text), "{} lacks {text}", reply.text());
    };
    refused(b"no snappy".to_vec(), "read request:").await;
    refused(snappy(b"\x0a\xff"), "invalid protobuf in ReadRequest").await;
    // A few bytes that claim to be four gigabytes.
    refused(vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0], "limit of 33554432 bytes").await;
    refused(
        request(&[5, 6], vec![query("up", 0, NOW)]),
        "server does not support any of the requested response types",
    )
    .await;
    let mut bad = query("up", 0, NOW);
    bad.matchers[0].op = MatchOp::Regex;
    bad.matchers[0].value = "a(".into();
    refused(request(&[1], vec![bad]), "error parsing regexp").await;
    assert_eq!(api.get(URI).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_samples_for_one_message() {
    let settings = QuerierSettings {
        remote_read_samples_max: 481,
        ..QuerierSettings::default()
    };
    let api = Api::with(world().shared(), settings);
    let both = vec![query("up", 0, NOW), query("latency", 0, NOW)];
    let reply = post(&api, URI, request(&[], both.clone())).await;
    assert_eq!(
        (reply.status, reply.text()),
        (StatusCode::BAD_REQUEST, "exceeded sample limit (481)\n")
    );
    assert_eq!(
        post(&api, URI, request(&[], both[..1].to_vec())).await.status,
        StatusCode::OK
    );
    assert_eq!(post(&api, URI, request(&[1], both)).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incomplete_answer_is_an_error_unless_it_is_wanted() {
    let bad = Memory::failing(SelectError::Unavailable("connection refused".into()));
    let sources = vec![("good".into(), world().shared()), ("bad".into(), bad.shared())];
    let api = Api::with(
        Arc::new(Fanout::new(sources).with_policy(Policy::Partial)),
        QuerierSettings::default(),
    );
    for accepted in [&[][..], &[1]] {
        let body = request(accepted, vec![query("latency", 0, NOW)]);
        let partial = post(&api, &format!("{URI}?partial_response=true"), body.clone()).await;
        assert_eq!(partial.status, StatusCode::OK);
        if accepted.is_empty() {
            let strict = post(&api, URI, body).await;
            assert_eq!(strict.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(strict.text().contains("connection refused"), "{}", strict.text());
            assert!(strict.headers.contains_key("retry-after"));
        } else {
            torn(&api, body).await;
        }
    }
}

/// Sends a request whose answer breaks off, and gives what came before.
async fn torn(api: &Api, body: Vec<u8>) -> Vec<u8> {
    let request = Request::post(URI).body(Body::from(body)).unwrap();
    let mut response = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut before = Vec::new();
    loop {
        match response.body_mut().frame().await {
            Some(Ok(frame)) => before.extend_from_slice(frame.data_ref().unwrap()),
            Some(Err(_)) => return before,
            None => panic!("an answer that broke off was taken for whole"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_on_the_way_tears_the_answer() {
    let late = Memory {
        late_error: Some(SelectError::Unavailable("connection reset".into())),
        batch: 1,
        ..world()
    };
    let api = Api::new(late);
    let before = torn(&api, request(&[1], vec![query("up", 0, NOW)])).await;
    assert_eq!(frames(&before).len(), 1, "what came before the failure is well-formed");
    let reply = post(&api, URI, request(&[0], vec![query("up", 0, NOW)])).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_take_turns_and_a_reader_who_leaves_or_sleeps_loses_the_turn() {
    let settings = QuerierSettings {
        remote_reads_max: 1,
        queue_max: 1,
        send_timeout: Duration::from_millis(1500),
        ..QuerierSettings::default()
    };
    let samples: Vec<_> = (0..6000)
        .map(|index| (NOW - 6_000_000 + index * 1000, (index as f64).sqrt()))
        .collect();
    let many = (0..200).fold(Memory::new(), |memory, index| {
        memory.floats(&[("__name__", "big"), ("index", &format!("{index:03}"))], &samples)
    });
    let api = Api::with(many.shared(), settings);
    let ask = |accepted: &[u64]| {
        let body = request(accepted, vec![query("big", NOW - 10_000, NOW)]);
        api.router
            .clone()
            .oneshot(Request::post(URI).body(Body::from(body)).unwrap())
    };
    let big = || {
        let body = request(&[1], vec![query("big", 0, NOW)]);
        api.router
            .clone()
            .oneshot(Request::post(URI).body(Body::from(body)).unwrap())
    };
    // The first one does not read, so it keeps the only turn until its time for sending is over.
    let sleeping = big().await.unwrap();
    let started = TestClock.monotonic();
    let next = ask(&[0]).await.unwrap();
    assert_eq!(next.status(), StatusCode::OK);
    assert!(
        TestClock.monotonic() - started >= Duration::from_millis(1000),
        "two reads ran at once"
    );
    assert!(sleeping.into_body().collect().await.is_err(), "a torn answer was whole");
    // This one leaves; the next need not wait for its time to be over.
    let leaving = big().await.unwrap();
    drop(leaving);
    let started = TestClock.monotonic();
    assert_eq!(ask(&[0]).await.unwrap().status(), StatusCode::OK);
    let waited = TestClock.monotonic() - started;
    assert!(waited < Duration::from_millis(1200), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_reads_its_own_series_only() {
    let tenant = |name: &str| Tenant::new(name).unwrap();
    let own = |name: &str| Memory::new().floats(&[("__name__", "up"), ("owner", name)], &[(NOW, 1.0)]);
    let api = Api::tenants(
        Tenants::default()
            .with(tenant("a"), own("a"))
            .with(tenant("b"), own("b")),
    );
    let ask = async |carrier: &str, name: &str| {
        let body = request(&[1], vec![query("up", 0, NOW)]);
        let request = Request::post(URI).header(carrier, name).body(Body::from(body)).unwrap();
        api.send(request).await
    };
    for carrier in ["thanos-tenant", "x-scope-orgid"] {
        let frames = frames(&ask(carrier, "a").await.body);
        assert_eq!(frames.len(), 1);
        assert_eq!(label(&frames[0], "owner"), "a");
        assert!(ask(carrier, "nobody").await.body.is_empty());
    }
    assert_eq!(ask("thanos-tenant", "../b").await.status, StatusCode::BAD_REQUEST);
}

/// Bytes of a chunk that nobody should have to trust.
#[tokio::test]
async fn chunks_of_the_tests_are_real() {
    let chunk = encode_floats(&[1, 2], &[1.0, 2.0]);
    let labels = Labels::new([("a", "b")]).unwrap();
    let mut out = Vec::new();
    proto::remote_read::encode_frame(&mut out, 0, &labels, &[chunk]);
    assert_eq!(decoded(&frames(&out)[0]).values, [1.0, 2.0]);
}
