//! How much memory hostile bodies take: the peak of the whole process, so this test stands alone in its file.

mod common;

use common::*;
use futures::executor::block_on;
use prometheus_client::registry::Registry;
use proto::compression::snappy;
use proto::protobuf::{put_bytes, put_integer};
use receiver::{Receiver, ReceiverSettings};
use std::sync::Arc;

/// Length of a hostile body once decompressed: just what is allowed.
const BODY_BYTES: usize = 8 << 20;

/// What one such request may take beyond its body and the copy that the test made it of: the slice and the tables.
const BEYOND_BODY_BYTES_MAX: usize = 48 << 20;

/// Forgets the highest use of memory so far; `None` where the system cannot.
#[expect(clippy::disallowed_methods, reason = "tells the system, and writes no file of ours")]
fn reset_peak() -> Option<()> {
    std::fs::write("/proc/self/clear_refs", "5").ok()
}

/// A line of the system's account of this process, in bytes.
#[expect(clippy::disallowed_methods, reason = "asks the system, and reads no file of ours")]
fn memory_bytes(line: &str) -> Option<usize> {
    let status = String::from_utf8(std::fs::read("/proc/self/status").ok()?).ok()?;
    let value = status.lines().find_map(|found| found.strip_prefix(line))?;
    Some(
        value
            .trim_start_matches(':')
            .trim()
            .trim_end_matches(" kB")
            .parse::<usize>()
            .ok()?
            << 10,
    )
}

/// `piece` again and again, in a message field of its own when `field` says so.
fn filled(piece: &[u8], before: &[u8], field: Option<u32>) -> Vec<u8> {
    let mut content = before.to_vec();
    while content.len() + piece.len() < BODY_BYTES - 64 {
        content.extend_from_slice(piece);
    }
    let Some(field) = field else { return content };
    let mut message = Vec::with_capacity(BODY_BYTES);
    put_bytes(&mut message, field, &content);
    message
}

/// Histograms of many buckets, which cost a byte each on the wire and eight in memory.
fn histograms() -> Vec<u8> {
    let (mut span, mut histogram, mut series) =
        (Vec::new(), Vec::new(), b"\x0a\x0e\x0a\x08__name__\x12\x02up".to_vec());
    put_integer(&mut span, 2, 60_000);
    put_bytes(&mut histogram, 11, &span);
    put_bytes(&mut histogram, 12, &vec![0; 60_000]);
    while series.len() + histogram.len() < BODY_BYTES - 64 {
        put_bytes(&mut series, 4, &histogram);
    }
    let mut message = Vec::with_capacity(BODY_BYTES);
    put_bytes(&mut message, 1, &series);
    message
}

/// One series of nothing but label references.
fn list_of_references() -> Vec<u8> {
    let mut message = b"\x22\x00".to_vec();
    put_bytes(&mut message, 5, &filled(b"\x00", b"", Some(1)));
    message
}

#[test]
fn hostile_bodies_take_little_more_than_themselves() {
    if reset_peak().is_none() || memory_bytes("VmHWM").is_none() {
        eprintln!("SKIPPED: this system does not tell the peak of memory");
        return;
    }
    let labels = b"\x0a\x0e\x0a\x08__name__\x12\x02up";
    type Make = Box<dyn Fn() -> Vec<u8>>;
    let cases: [(&str, &str, Make); 11] = [
        (
            "empty samples of one series",
            V1,
            Box::new(|| filled(b"\x12\x00", labels, Some(1))),
        ),
        ("empty series", V1, Box::new(|| filled(b"\x0a\x00", b"", None))),
        (
            "series of one empty sample",
            V1,
            Box::new(|| filled(b"\x0a\x02\x12\x00", b"", None)),
        ),
        (
            "empty labels",
            V1,
            Box::new(|| filled(b"\x0a\x00", b"\x12\x00", Some(1))),
        ),
        ("empty exemplars", V1, Box::new(|| filled(b"\x1a\x00", labels, Some(1)))),
        ("empty metadata", V1, Box::new(|| filled(b"\x1a\x00", b"", None))),
        (
            "metadata of one letter",
            V1,
            Box::new(|| filled(b"\x1a\x03\x12\x01x", b"", None)),
        ),
        ("wide histograms", V1, Box::new(histograms)),
        ("empty symbols", V2, Box::new(|| filled(b"\x22\x00", b"", None))),
        ("a list of references", V2, Box::new(list_of_references)),
        (
            "references of empty series",
            V2,
            Box::new(|| filled(b"\x2a\x04\x0a\x02\x00\x00", b"\x22\x00", None)),
        ),
    ];
    let settings = ReceiverSettings {
        decoded_bytes_max: BODY_BYTES,
        ..ReceiverSettings::default()
    };
    let baseline = memory_bytes("VmRSS").unwrap();
    let taker = Arc::new(model::push::memory::MemoryTaker::new());
    for (name, version, make) in cases {
        let body = make();
        let wire = snappy(&body);
        drop(body);
        let receiver = Receiver::new(env(), settings.clone(), taker.clone(), &mut Registry::default());
        reset_peak().unwrap();
        let answer = block_on(receiver.write(request(version, "snappy", wire)));
        let grown = memory_bytes("VmHWM").unwrap().saturating_sub(baseline);
        println!(
            "{name}: {} and {} MiB: {}",
            answer.status.as_u16(),
            grown >> 20,
            answer.body.lines().next().unwrap_or("")
        );
        assert!([204, 400].contains(&answer.status.as_u16()), "{name}: {}", answer.body);
        assert!(
            grown < 2 * BODY_BYTES + BEYOND_BODY_BYTES_MAX,
            "{name} took {} MiB",
            grown >> 20
        );
    }
}
