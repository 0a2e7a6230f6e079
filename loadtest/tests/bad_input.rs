//! A hostile or broken sender gets the status that makes it do the right thing, the good part of what it sent is kept,
//! and nothing of it hurts the server.
#![expect(clippy::disallowed_methods, reason = "tests live in real time beside a real server")]

use loadtest::{
    clock::now_ms,
    http::Client,
    probe::{Probe, compress},
    process::{Launch, Server},
    wire::{AnySeries, Protocol, encode_v1, put_varint},
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

const RESIDENT_PEAK_MAX: u64 = 256 << 20;
/// An answer should take milliseconds; the bound leaves room for a machine that is busy with other tests.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// A server for one story, which it must outlive in good health.
struct Victim {
    server: Server,
    _dir: tempfile::TempDir,
}

impl Victim {
    fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        Ok(Self {
            server: Launch::narthex(dir.path())?.start()?,
            _dir: dir,
        })
    }

    /// Alive, small, without a panic, and ready for the next good sample.
    fn must_be_well(mut self) -> anyhow::Result<()> {
        assert!(self.server.is_alive()?, "the server died:\n{}", self.server.log_tail());
        let peak = self.server.usage()?.resident_peak;
        assert!(peak < RESIDENT_PEAK_MAX, "{} MiB resident at the peak", peak >> 20);
        assert!(!self.server.log().contains("panicked"), "{}", self.server.log_tail());
        let answer = self.server.probe().push_one("after_all", now_ms(), 1.0)?;
        assert_eq!(answer.status, 204, "a good sample afterwards: {}", answer.text());
        Ok(())
    }
}

/// Sends a body and wants one of the statuses, soon.
fn check(probe: &mut Probe, what: &str, headers: &str, body: &[u8], expected: &[u16]) {
    let started = Instant::now();
    let answer = probe
        .send(headers, body)
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(
        expected.contains(&answer.status),
        "{what}: {} instead of {expected:?}: {}",
        answer.status,
        answer.text()
    );
    assert!(
        started.elapsed() < ANSWER_TIME_MAX,
        "{what}: answered after {:?}",
        started.elapsed()
    );
    assert!(
        answer.status == 204 || !answer.body.is_empty(),
        "{what}: {} without a reason",
        answer.status
    );
}

fn good_message() -> Vec<u8> {
    encode_v1(&[AnySeries::new(&[("__name__", "good"), ("a", "b")], &[(now_ms(), 1.0)])])
}

#[test]
fn broken_compression_is_refused_without_allocating_what_it_declares() -> anyhow::Result<()> {
    let victim = Victim::new()?;
    let mut probe = victim.server.probe();
    let headers = Protocol::V1.headers();
    let good = compress(&good_message());
    let declaring = |length: u64| {
        let mut body = Vec::new();
        put_varint(&mut body, length);
        body.extend_from_slice(&good[1..]);
        body
    };
    for length in 0..good.len() {
        check(
            &mut probe,
            &format!("block cut after {length} bytes"),
            headers,
            &good[..length],
            &[400],
        );
    }
    for length in [0, 5, 33 << 20, (4 << 30) - 1, 4 << 30, u64::MAX] {
        check(
            &mut probe,
            &format!("block that declares {length} bytes"),
            headers,
            &declaring(length),
            &[400],
        );
    }
    check(&mut probe, "a number without end", headers, &[0xff; 40], &[400]);
    check(
        &mut probe,
        "raw message said to be snappy",
        headers,
        &good_message(),
        &[400],
    );
    let mut framed = vec![0xff, 6, 0, 0];
    framed.extend_from_slice(b"sNaPpY");
    check(&mut probe, "framed snappy", headers, &framed, &[400]);
    // A bomb: few bytes that decompress to just the cap, all of them empty labels or nonsense.
    check(
        &mut probe,
        "31 MiB of zeros",
        headers,
        &compress(&vec![0; 31 << 20]),
        &[400],
    );
    check(
        &mut probe,
        "4 million empty series",
        headers,
        &compress(&[0x0a, 0].repeat(4 << 20)),
        &[204, 400],
    );
    victim.must_be_well()
}

#[test]
fn types_and_encodings_that_nobody_knows_are_415() -> anyhow::Result<()> {
    let victim = Victim::new()?;
    let mut probe = victim.server.probe();
    let body = compress(&good_message());
    let mut with = |content_type: &str, encoding: &str, expected: u16| {
        let headers = format!("Content-Type: {content_type}\r\nContent-Encoding: {encoding}\r\n");
        check(
            &mut probe,
            &format!("{content_type}, {encoding}"),
            &headers,
            &body,
            &[expected],
        );
    };
    with("application/x-protobuf", "snappy", 204);
    with("application/x-protobuf;proto=prometheus.WriteRequest", "snappy", 204);
    with("application/x-protobuf; proto=prometheus.WriteRequest", "snappy", 204);
    with("application/json", "snappy", 415);
    with(
        "application/x-protobuf;proto=io.prometheus.write.v9.Request",
        "snappy",
        415,
    );
    with("application/x-protobuf", "br", 415);
    with("application/x-protobuf", "deflate", 415);
    victim.must_be_well()
}

#[test]
fn a_message_cut_anywhere_is_400_or_what_is_left_is_whole() -> anyhow::Result<()> {
    let victim = Victim::new()?;
    let mut probe = victim.server.probe();
    let message = good_message();
    for length in 1..message.len() {
        let body = compress(&message[..length]);
        check(
            &mut probe,
            &format!("message cut after {length} bytes"),
            Protocol::V1.headers(),
            &body,
            &[400],
        );
    }
    let headers = Protocol::V1.headers();
    check(&mut probe, "empty message", headers, &compress(b""), &[204, 400]);
    check(&mut probe, "field number 0", headers, &compress(&[0x02, 1, 1]), &[400]);
    check(&mut probe, "wire type 7", headers, &compress(&[0x0f, 1]), &[400]);
    check(
        &mut probe,
        "a length of 2^63",
        headers,
        &compress(&[&[0x0a][..], &[0xff; 8], &[0x7f]].concat()),
        &[400],
    );
    let unknown_field = [&message[..], &[0x7a, 1, 0]].concat();
    check(
        &mut probe,
        "an unknown field",
        headers,
        &compress(&unknown_field),
        &[204],
    );
    let twice = [good_message(), good_message()].concat();
    check(
        &mut probe,
        "two messages, one behind the other",
        headers,
        &compress(&twice),
        &[204],
    );
    victim.must_be_well()
}

/// One bad series in a request never costs the good one beside it, and the answer names what was wrong.
#[test]
fn bad_series_cost_only_themselves() -> anyhow::Result<()> {
    let victim = Victim::new()?;
    let mut probe = victim.server.probe();
    let mut api = victim.server.api();
    let now = now_ms();
    let long = "x".repeat(2 << 20);
    let many: Vec<String> = (0..10_000).map(|n| format!("label_{n:05}")).collect();
    let mut many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "v")).collect();
    many.push(("__name__", "many"));
    let at = |timestamp: i64| vec![(timestamp, 1.0)];
    let not_text = AnySeries {
        labels: vec![(b"__name__".to_vec(), b"\xff\xfe".to_vec())],
        samples: at(now),
    };
    let cases: Vec<(&str, AnySeries)> = vec![
        ("no labels", AnySeries::new(&[], &at(now))),
        ("no name", AnySeries::new(&[("job", "x")], &at(now))),
        (
            "empty label name",
            AnySeries::new(&[("__name__", "m"), ("", "x")], &at(now)),
        ),
        (
            "label twice",
            AnySeries::new(&[("__name__", "m"), ("a", "1"), ("a", "2")], &at(now)),
        ),
        ("not UTF-8", not_text),
        (
            "a value of 2 MiB",
            AnySeries::new(&[("__name__", "m"), ("a", &long)], &at(now)),
        ),
        ("10,000 labels", AnySeries::new(&many, &at(now))),
        (
            "a day ahead",
            AnySeries::new(&[("__name__", "future")], &at(now + 86_400_000)),
        ),
        (
            "the last millisecond",
            AnySeries::new(&[("__name__", "future")], &at(i64::MAX)),
        ),
        ("the epoch", AnySeries::new(&[("__name__", "past")], &at(0))),
        ("before the epoch", AnySeries::new(&[("__name__", "past")], &at(-1))),
        (
            "the first millisecond",
            AnySeries::new(&[("__name__", "past")], &at(i64::MIN)),
        ),
    ];
    for (number, (what, bad)) in cases.into_iter().enumerate() {
        let case = number.to_string();
        let good = AnySeries::new(&[("__name__", "neighbour"), ("case", &case)], &[(now, number as f64)]);
        let series = if number % 2 == 0 { [bad, good] } else { [good, bad] };
        let answer = probe.push(&series)?;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        assert!(
            answer.text().trim().len() > 10,
            "{what}: no reason in {:?}",
            answer.text()
        );
        assert!(
            answer.body.len() < 4 << 10,
            "{what}: an answer of {} bytes",
            answer.body.len()
        );
        let kept = api.instant(&format!("neighbour{{case=\"{case}\"}}"), now)?;
        assert_eq!(kept.series.len(), 1, "{what}: the good series beside it is gone");
        assert_eq!(kept.series[0].samples, [(now, number as f64)], "{what}");
    }
    // A poisoned timestamp leaves the present writable (nothing moved the server's idea of now).
    assert_eq!(probe.push_one("future", now, 1.0)?.status, 204);
    assert_eq!(probe.push_one("past", now, 1.0)?.status, 204);
    victim.must_be_well()
}

#[test]
fn odd_but_legal_input_is_taken() -> anyhow::Result<()> {
    let victim = Victim::new()?;
    let mut probe = victim.server.probe();
    let mut api = victim.server.api();
    let now = now_ms();
    let unsorted = AnySeries::new(
        &[("z", "1"), ("__name__", "unsorted"), ("a", "2"), ("gone", "")],
        &[(now, 1.0)],
    );
    assert_eq!(probe.push(&[unsorted])?.status, 204);
    let answer = api.instant("unsorted{a=\"2\",z=\"1\",gone=\"\"}", now)?;
    assert_eq!(answer.series.len(), 1);
    assert!(
        !answer.series[0].labels.contains_key("gone"),
        "an empty label is no label: {:?}",
        answer.series[0].labels
    );
    for (name, value) in [
        ("nan", f64::NAN),
        ("inf", f64::INFINITY),
        ("low", f64::NEG_INFINITY),
        ("tiny", 5e-324),
    ] {
        assert_eq!(probe.push_one(name, now, value)?.status, 204, "{name}");
        let found = api.instant(name, now)?.series[0].samples[0].1;
        assert!(found == value || found.is_nan() && value.is_nan(), "{name}: {found}");
    }
    // The stale marker ends a series.
    assert_eq!(probe.push_one("ending", now - 1_000, 1.0)?.status, 204);
    assert_eq!(
        probe
            .push_one("ending", now, f64::from_bits(0x7ff0_0000_0000_0002))?
            .status,
        204
    );
    assert_eq!(api.instant("ending", now - 500)?.series.len(), 1);
    assert_eq!(
        api.instant("ending", now)?.series.len(),
        0,
        "a stale series is still seen"
    );
    victim.must_be_well()
}

/// Sending again is a success; another value for a taken timestamp is told with the phrase that clients look for.
#[test]
fn a_repeated_sample_is_fine_and_a_contradiction_is_not() -> anyhow::Result<()> {
    let victim = Victim::new()?;
    let mut probe = victim.server.probe();
    let now = now_ms();
    for _ in 0..3 {
        assert_eq!(probe.push_one("repeated", now, 5.0)?.status, 204);
    }
    let answer = probe.push_one("repeated", now, 6.0)?;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(
        answer.text().contains("duplicate sample for timestamp"),
        "{}",
        answer.text()
    );
    let found = victim.server.api().instant("repeated", now)?;
    assert_eq!(found.series[0].samples, [(now, 5.0)]);
    victim.must_be_well()
}

/// Remote write 2.0 counts what was written, to the sample.
#[test]
fn counts_of_version_two_are_exact() -> anyhow::Result<()> {
    let victim = Victim::new()?;
    let mut probe = victim.server.probe();
    let now = now_ms();
    let mut push = |what: &str, references: [&[u32]; 2], status: u16, written: &str| -> anyhow::Result<()> {
        let answer = probe.push_message(Protocol::V2, &message_v2(&references, now))?;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        let header = answer.header("x-prometheus-remote-write-samples-written");
        assert_eq!(header, Some(written), "{what}: {}", answer.text());
        Ok(())
    };
    let good: &[u32] = &[1, 2, 3, 4];
    push("two good series", [good, &[1, 5, 3, 4]], 204, "2")?;
    push("a reference behind the table", [good, &[1, 99]], 400, "1")?;
    push("an odd number of references", [good, &[1, 5, 3]], 400, "1")?;
    push("a series without name", [&[3, 4], good], 400, "1")?;
    push("no good series", [&[3, 4], &[1, 77]], 400, "0")?;
    victim.must_be_well()
}

/// A 2.0 message of series with one sample each. Symbols: "", `__name__`, `two_a`, `job`, `x`, `two_b`.
fn message_v2(series: &[&[u32]], timestamp: i64) -> Vec<u8> {
    let field = |message: &mut Vec<u8>, tag: u8, content: &[u8]| {
        message.push(tag);
        put_varint(message, content.len() as u64);
        message.extend_from_slice(content);
    };
    let mut message = Vec::new();
    for symbol in ["", "__name__", "two_a", "job", "x", "two_b"] {
        field(&mut message, 0x22, symbol.as_bytes());
    }
    for references in series {
        let (mut packed, mut inner, mut sample) = (Vec::new(), Vec::new(), vec![0x09]);
        references
            .iter()
            .for_each(|&reference| put_varint(&mut packed, u64::from(reference)));
        sample.extend_from_slice(&1.5f64.to_le_bytes());
        sample.push(0x10);
        put_varint(&mut sample, timestamp as u64);
        field(&mut inner, 0x0a, &packed);
        field(&mut inner, 0x12, &sample);
        field(&mut message, 0x2a, &inner);
    }
    message
}

/// Requests that are broken as HTTP are refused or cut off, never waited for without end.
#[test]
fn broken_http_does_no_harm() -> anyhow::Result<()> {
    let victim = Victim::new()?;
    let authority = victim.server.launch().url.authority.clone();
    let huge_header = format!(
        "POST /api/v1/write HTTP/1.1\r\nHost: x\r\nX-Big: {}\r\n\r\n",
        "a".repeat(2 << 20)
    );
    let cases: [(&str, &str); 5] = [
        ("no HTTP", "\u{16}\u{3}\u{1}hello\r\n\r\n"),
        (
            "two lengths",
            "POST /api/v1/write HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        ),
        (
            "length of 4 TiB",
            "POST /api/v1/write HTTP/1.1\r\nHost: x\r\nContent-Length: 4398046511104\r\n\r\nabc",
        ),
        (
            "bad chunk",
            "POST /api/v1/write HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        ),
        ("2 MiB of header", &huge_header),
    ];
    for (what, request) in cases {
        let mut stream = TcpStream::connect(&authority)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // The server may hang up while we still send; that is an answer too.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            let waited = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&error.kind());
            assert!(!waited, "{what}: the server neither answers nor hangs up");
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        // 503 is right where the body broke on its way: nobody can tell a bad sender from a bad line, and only a
        // sender that sends again loses nothing.
        let refused = answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 503");
        assert!(answer.is_empty() || refused, "{what}: {answer:?}");
    }
    let mut client = Client::new(&victim.server.launch().url, &[], Duration::from_secs(10));
    let put = client.send("DELETE", "/api/v1/write", "", b"")?;
    assert!([404, 405].contains(&put.status), "DELETE: {}", put.status);
    victim.must_be_well()
}

/// Connections that say nothing, or send one byte a time, do not keep others out.
#[test]
fn idle_connections_do_not_keep_others_out() -> anyhow::Result<()> {
    let victim = Victim::new()?;
    let authority = victim.server.launch().url.authority.clone();
    let idle: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(&authority))
        .collect::<Result<_, _>>()?;
    let mut slow = TcpStream::connect(&authority)?;
    slow.write_all(b"POST /api/v1/write HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\na")?;
    let started = Instant::now();
    let answer = victim.server.probe().push_one("beside", now_ms(), 1.0)?;
    assert_eq!(answer.status, 204);
    assert!(
        started.elapsed() < ANSWER_TIME_MAX,
        "{:?} beside idle connections",
        started.elapsed()
    );
    drop(idle);
    victim.must_be_well()
}
