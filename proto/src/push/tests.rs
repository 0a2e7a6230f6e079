use super::*;
use model::{
    histogram::Histogram,
    label::Labels,
    metadata::{Metadata, MetricType},
    push::{Exception, SampleKind, SeriesId, SeriesRef},
    sample::{Exemplar, FloatSample, HistogramSample, STALE_NAN},
    tenant::Tenant,
    verdict::{Reason, Verdict},
};
use proptest::prelude::*;
use std::{sync::Arc, time::Duration};

const NOW: Timestamp = 1_790_000_000_000;

/// All series of a batch but one, under the names that they have in it.
struct Without<'a>(&'a WriteBatch, Option<usize>);

impl Sent for Without<'_> {
    fn count(&self) -> usize {
        self.0.series.len()
    }
    fn series(&self, place: usize) -> (usize, Option<Name>) {
        let name = match &self.0.series[place].id {
            SeriesId::Known(SeriesRef(number)) => Name::Number(*number as u32),
            SeriesId::New(_) => Name::Labels,
        };
        (place, Some(name).filter(|_| self.1 != Some(place)))
    }
}

fn numbered(batch: &WriteBatch) -> Without<'_> {
    Without(batch, None)
}

/// Reads a message into memory that was used before.
fn read(bytes: &[u8]) -> Result<ClientMessage, MessageError> {
    let mut used = WriteBatch::default();
    used.floats.push(FloatSample {
        at: 1,
        value: 2.0,
        start: 3,
    });
    used.finish_series(SeriesId::New(labels("used")));
    read_client_message(bytes, used)
}

fn through(batch: &WriteBatch) -> PushRequest {
    let written = PushWriter::default().write(7, batch, NOW, 0, &numbered(batch));
    assert_eq!(written.next, batch.series.len());
    match read(&written.message).unwrap() {
        ClientMessage::Push(request) => request,
        ClientMessage::Ping { .. } => panic!("a ping"),
    }
}

fn bits(batch: &WriteBatch) -> Vec<(Timestamp, u64, Timestamp)> {
    let sample = |sample: &FloatSample| (sample.at, sample.value.to_bits(), sample.start);
    batch.floats.iter().map(sample).collect()
}

fn assert_same(found: &WriteBatch, expected: &WriteBatch) {
    assert_eq!(found.tenant, expected.tenant);
    assert_eq!(found.series, expected.series);
    assert_eq!(bits(found), bits(expected));
    assert_eq!(found.histograms, expected.histograms);
    assert_eq!(found.exemplars, expected.exemplars);
    assert_eq!(found.metadata, expected.metadata);
}

fn known(number: u64) -> SeriesId {
    SeriesId::Known(SeriesRef(number))
}

fn labels(name: &str) -> Labels {
    Labels::new([("__name__", name), ("job", "ü\u{1F600}")]).unwrap()
}

#[test]
fn a_batch_of_everything_comes_back() {
    let mut batch = WriteBatch {
        tenant: Tenant::new("team-a").unwrap(),
        ..WriteBatch::default()
    };
    for (at, value, start) in [
        (NOW, 1.5, 0),
        (NOW + 15_000, STALE_NAN, NOW - 1),
        (i64::MIN, -0.0, i64::MAX),
    ] {
        batch.floats.push(FloatSample { at, value, start });
    }
    batch.finish_series(SeriesId::New(labels("a")));
    batch.finish_series(known(4_000_000_000));
    let histogram = Histogram {
        integer: true,
        count: 3.0,
        sum: 2.5,
        zero_count: 3.0,
        ..Histogram::default()
    };
    batch.histograms.push(HistogramSample {
        at: NOW,
        start: 5,
        histogram: Arc::new(histogram),
    });
    batch.exemplars.push(Exemplar {
        labels: Labels::new([("trace_id", "x")]).unwrap(),
        value: 0.1,
        at: NOW - 3,
    });
    batch.finish_series(known(0));
    batch.metadata.push(Metadata {
        family: "a".into(),
        kind: MetricType::StateSet,
        unit: "seconds".into(),
        help: "h".into(),
    });
    let request = through(&batch);
    assert_eq!((request.id, request.received), (7, NOW));
    assert_same(&request.batch, &batch);
    assert_same(&through(&WriteBatch::default()).batch, &WriteBatch::default());
}

#[test]
fn a_steady_series_takes_few_bytes() {
    let mut batch = WriteBatch::default();
    for number in 0..2000_u64 {
        let value = if number % 4 == 0 { 0.0 } else { (number * 977) as f64 };
        batch.floats.push(FloatSample {
            at: NOW,
            value,
            start: 0,
        });
        batch.finish_series(known(number));
    }
    let written = PushWriter::default().write(1, &batch, NOW, 0, &numbered(&batch));
    let each = written.message.len() as f64 / 2000.0;
    assert!(each < 6.0, "{each} bytes");
}

#[test]
fn what_is_too_long_goes_in_several_messages() {
    let mut batch = WriteBatch::default();
    for number in 0..10 {
        let text = format!("{number}{}", "x".repeat(1 << 20));
        batch.floats.push(FloatSample {
            at: NOW + number,
            value: number as f64,
            start: 0,
        });
        batch.finish_series(SeriesId::New(labels(&text)));
    }
    let mut writer = PushWriter::default();
    let (mut first, mut messages, mut series) = (0, 0, Vec::new());
    while first < batch.series.len() {
        let written = writer.write(messages, &batch, NOW, first, &numbered(&batch));
        let ClientMessage::Push(request) = read(&written.message).unwrap() else {
            panic!("no push")
        };
        assert!(written.message.len() < MESSAGE_BYTES_MAX);
        let times: Vec<_> = request.batch.floats.iter().map(|sample| sample.at - NOW).collect();
        let sent: Vec<_> = written.sent.iter().map(|series| i64::from(*series)).collect();
        assert_eq!(times, sent);
        series.extend(request.batch.series.into_iter().map(|series| series.id));
        (first, messages) = (written.next, messages + 1);
    }
    assert!(messages > 2);
    assert!(series.iter().eq(batch.series.iter().map(|series| &series.id)));
}

#[test]
fn a_series_without_a_number_is_left_out() {
    let mut batch = WriteBatch::default();
    for number in 0..3 {
        batch.floats.push(FloatSample {
            at: NOW + number as i64,
            value: 1.0,
            start: 0,
        });
        batch.finish_series(known(number));
    }
    let written = PushWriter::default().write(1, &batch, NOW, 0, &Without(&batch, Some(1)));
    assert_eq!(written.sent, [0, 2]);
    let ClientMessage::Push(request) = read(&written.message).unwrap() else {
        panic!("no push")
    };
    assert_eq!(request.batch.series.len(), 2);
    assert_eq!(request.batch.floats[1].at, NOW + 2);
}

fn answer(message: &ServerMessage) -> Vec<u8> {
    let mut bytes = Vec::new();
    match message {
        ServerMessage::Hello { version, process } => write_hello(*version, *process, &mut bytes),
        ServerMessage::Outcome { id, result } => write_outcome(*id, result, &mut bytes),
        ServerMessage::Pong { id } => write_pong(*id, &mut bytes),
    }
    bytes
}

#[test]
fn answers_come_back() {
    let exceptions = Reason::ALL.iter().enumerate().map(|(index, reason)| Exception {
        series: index as u32,
        sample: u32::MAX,
        kind: [SampleKind::Float, SampleKind::Histogram, SampleKind::Exemplar][index % 3],
        verdict: Verdict::Rejected(*reason),
    });
    let duplicate = Exception {
        series: 1,
        sample: 2,
        kind: SampleKind::Float,
        verdict: Verdict::Duplicate,
    };
    let outcome = WriteOutcome {
        exceptions: exceptions.chain([duplicate]).collect(),
        refs: vec![(5, SeriesRef(9)), (2, SeriesRef(1 << 40)), (u32::MAX, SeriesRef(0))],
        unknown: vec![3, 1, 4],
    };
    let unavailable = PushError::Unavailable {
        reason: "disk full".into(),
        retry_after: Duration::from_millis(1500),
    };
    for message in [
        ServerMessage::Hello {
            version: 1,
            process: u64::MAX,
        },
        ServerMessage::Pong { id: u64::MAX },
        ServerMessage::Outcome {
            id: 3,
            result: Ok(outcome),
        },
        ServerMessage::Outcome {
            id: 0,
            result: Ok(WriteOutcome::default()),
        },
        ServerMessage::Outcome {
            id: 4,
            result: Err(unavailable),
        },
    ] {
        assert_eq!(read_server_message(&answer(&message)).unwrap(), message);
    }
    let mut ping = Vec::new();
    write_ping(6, &mut ping);
    assert!(matches!(read(&ping), Ok(ClientMessage::Ping { id: 6 })));
}

#[test]
fn fields_of_a_later_version_are_passed_over() {
    let mut bytes = Vec::new();
    crate::protobuf::put_bytes(&mut bytes, 200, b"later");
    write_hello(2, 5, &mut bytes);
    crate::protobuf::put_integer(&mut bytes, 201, 1);
    assert_eq!(
        read_server_message(&bytes).unwrap(),
        ServerMessage::Hello { version: 2, process: 5 }
    );
}

#[test]
fn contradictions_are_errors() {
    use crate::protobuf::{put_bytes, put_integer};
    let lie = |fields: &[(u32, &[u8])]| {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, field::TENANT, b"a");
        for (field, value) in fields {
            put_bytes(&mut bytes, *field, value);
        }
        read(&bytes).unwrap_err().to_string()
    };
    assert!(lie(&[(field::SERIES, &[0])]).contains("count of floats"));
    assert!(
        lie(&[(field::SERIES, &[0]), (field::TIMES, &[0]), (field::LENGTHS, &[9])]).contains("a value that is not")
    );
    assert!(lie(&[(field::TIMES, &[0])]).contains("goes on"));
    assert!(lie(&[(field::SERIES, &[4])]).contains("out of range"));
    assert!(lie(&[(field::SERIES, &[2, 0, 1, 0])]).contains("histograms"));
    assert!(lie(&[(field::SERIES, &[2, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0])]).contains("more samples"));
    assert!(lie(&[(field::LABELS, &[0])]).contains("labels of no series"));
    assert!(
        lie(&[
            (field::SERIES, &[1]),
            (field::LABELS, &[2, 1, b'a', 1, b'b', 1, b'a', 1, b'c'])
        ])
        .contains("duplicated")
    );
    assert!(lie(&[(field::TENANT, b"../x")]).contains("tenant id"));
    let mut later = Vec::new();
    put_integer(&mut later, field::KIND, 99);
    assert!(read(&later).is_err() && read_server_message(&later).is_err());
    let mut reason = Vec::new();
    put_bytes(&mut reason, field::EXCEPTIONS, &[0, 0, 0x7c]);
    assert!(read_server_message(&reason).unwrap_err().to_string().contains("reason"));
}

#[test]
fn a_first_byte_that_repeats_is_left_out() {
    let bytes = |values: &[f64]| {
        let mut batch = WriteBatch::default();
        for (number, value) in values.iter().enumerate() {
            batch.floats.push(FloatSample {
                at: NOW,
                value: *value,
                start: 0,
            });
            batch.finish_series(known(number as u64));
        }
        assert_same(&through(&batch).batch, &batch);
        PushWriter::default()
            .write(1, &batch, NOW, 0, &numbered(&batch))
            .message
            .len()
    };
    // Ten significant digits, of the same size or not; a zero in between changes nothing.
    let (one, other) = (1.000_000_001, 1e50_f64.sqrt() * 1.1);
    assert_eq!(bytes(&[one, other, one]), bytes(&[one, one, one]) + 2);
    assert_eq!(bytes(&[one, 0.0, one]), bytes(&[one, one, 0.0]));
    // Values of one byte have nothing to leave out.
    assert_eq!(
        bytes(&[f64::from_bits(0x40 << 56); 3]),
        bytes(&[f64::from_bits(0x41 << 56); 3])
    );
}

proptest! {
    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let _ = read_server_message(&bytes);
    }

    #[test]
    fn a_damaged_message_never_panics(place in 0usize..400, byte in any::<u8>()) {
        let mut batch = WriteBatch::default();
        for number in 0..20 {
            batch.floats.push(FloatSample { at: NOW, value: number as f64 * 0.1, start: number });
            batch.finish_series(if number % 3 == 0 { SeriesId::New(labels("a")) } else { known(number as u64) });
        }
        let mut message = PushWriter::default().write(1, &batch, NOW, 0, &numbered(&batch)).message;
        let place = place % message.len();
        message[place] ^= byte;
        let _ = read(&message);
    }

    #[test]
    fn floats_come_back(samples in prop::collection::vec((any::<i64>(), any::<u64>(), any::<i64>(), 0u32..5), 0..60)) {
        let mut batch = WriteBatch::default();
        for (index, (at, bits, start, shift)) in samples.into_iter().enumerate() {
            let value = f64::from_bits(bits << (shift * 16).min(63));
            let start = if shift == 0 { start } else { 0 };
            batch.floats.push(FloatSample { at, value, start });
            if index % 3 != 1 {
                batch.finish_series(known(bits & 0xffff_ffff));
            }
        }
        let end = batch.series.last().map_or(0, |series| series.floats_end as usize);
        batch.floats.truncate(end);
        assert_same(&through(&batch).batch, &batch);
    }
}
