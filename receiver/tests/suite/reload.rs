//! Rules and limits that change while a request is under way: it ends by those under which it began, and the next one meets the new ones.

use crate::common::{self, NOW, V1, env, request, v1_floats};
use cluster::limits::Limits;
use futures::{executor::block_on, future::BoxFuture};
use model::{
    label::Labels,
    push::{Push, PushError, WriteBatch, WriteOutcome, memory::MemoryTaker},
    tenant::Tenant,
    time::Timestamp,
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use proto::compression::snappy;
use receiver::{
    Receiver, ReceiverSettings, WriteAnswer,
    limits::LimitSource,
    relabel::{Relabel, RelabelRule},
    shape::Shaping,
};
use std::sync::Arc;

/// Series of a request: more than one push takes.
const SERIES: usize = 80_000;

/// What happens while a push is under way.
type Event = Box<dyn FnOnce(&MemoryTaker) + Send>;

/// Takes batches; before the first one that comes after [`Busy::during_next`] something happens.
#[derive(Default)]
struct Busy {
    taker: MemoryTaker,
    event: Mutex<Option<Event>>,
}

impl Busy {
    fn during_next(&self, event: impl FnOnce(&MemoryTaker) + Send + 'static) {
        *self.event.lock() = Some(Box::new(event));
    }
}

impl Push for Busy {
    fn push<'a>(&'a self, batch: &'a WriteBatch, at: Timestamp) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        Box::pin(async move {
            let outcome = self.taker.push(batch, at).await;
            let event = self.event.lock().take();
            if let Some(event) = event {
                event(&self.taker);
            }
            outcome
        })
    }
}

fn stand() -> (Arc<Busy>, Arc<Receiver>) {
    let busy = Arc::new(Busy::default());
    let receiver = Receiver::new(
        env(),
        ReceiverSettings::default(),
        busy.clone(),
        &mut Registry::default(),
    );
    (busy, receiver)
}

fn send(receiver: &Receiver, at: Timestamp) -> WriteAnswer {
    let names: Vec<String> = (0..SERIES).map(|number| format!("m{number}")).collect();
    let labels: Vec<[(&str, &str); 2]> = names
        .iter()
        .map(|name| [("__name__", name.as_str()), ("pod", "x")])
        .collect();
    let samples = [(at, 1.0)];
    let series: Vec<common::FloatSeries<'_>> = labels.iter().map(|labels| (&labels[..], &samples[..])).collect();
    block_on(receiver.write(request(V1, "snappy", snappy(&v1_floats(&series)))))
}

/// Samples of the first and the last series under labels with the pod, or without it.
fn ends(taker: &MemoryTaker, with_pod: bool) -> [usize; 2] {
    [0, SERIES - 1].map(|number| {
        let name = format!("m{number}");
        let mut pairs = vec![("__name__", name.as_str())];
        pairs.extend(with_pod.then_some(("pod", "x")));
        let labels = Labels::new(pairs).unwrap();
        let series = taker.series(&Tenant::default(), &labels);
        series.map_or(0, |series| series.samples.len())
    })
}

fn without_pods() -> Shaping {
    let rules: Vec<RelabelRule> = serde_json::from_str(r#"[{"regex":"pod","action":"labeldrop"}]"#).unwrap();
    Shaping {
        relabel: Relabel::new(rules).unwrap(),
        tenant_label: None,
    }
}

#[test]
fn new_rules_hold_from_the_next_request_on() {
    let (busy, receiver) = stand();
    let told = receiver.clone();
    busy.during_next(move |_| told.shape_by(without_pods()));
    assert_eq!(send(&receiver, NOW).status, 204);
    assert!(busy.taker.batches() > 1, "one push was enough");
    assert_eq!((ends(&busy.taker, true), ends(&busy.taker, false)), ([1, 1], [0, 0]));
    assert_eq!(send(&receiver, NOW + 1).status, 204);
    assert_eq!((ends(&busy.taker, true), ends(&busy.taker, false)), ([1, 1], [1, 1]));
    assert_eq!(busy.taker.sample_count(), 2 * SERIES);
}

/// The taker restarts as well, so that the rest of the request comes again with labels: those that the request began with.
#[test]
fn series_that_are_sent_again_keep_the_rules_of_their_request() {
    let (busy, receiver) = stand();
    assert_eq!(send(&receiver, NOW).status, 204);
    let told = receiver.clone();
    busy.during_next(move |taker| {
        taker.restart();
        told.shape_by(without_pods());
    });
    assert_eq!(send(&receiver, NOW + 1).status, 204);
    assert_eq!((ends(&busy.taker, true), ends(&busy.taker, false)), ([2, 2], [0, 0]));
    // And the other way round: rules that are taken away.
    busy.during_next(move |taker| taker.restart());
    assert_eq!(send(&receiver, NOW + 2).status, 204);
    assert_eq!((ends(&busy.taker, true), ends(&busy.taker, false)), ([2, 2], [1, 1]));
    let told = receiver.clone();
    busy.during_next(move |_| told.shape_by(Shaping::default()));
    assert_eq!(send(&receiver, NOW + 3).status, 204);
    assert_eq!(send(&receiver, NOW + 4).status, 204);
    assert_eq!((ends(&busy.taker, true), ends(&busy.taker, false)), ([3, 3], [2, 2]));
    assert_eq!(busy.taker.sample_count(), 5 * SERIES);
}

/// Limits of everybody.
struct Everybody(Limits);

impl LimitSource for Everybody {
    fn limits(&self, _: &Tenant) -> Limits {
        self.0
    }

    fn nodes(&self) -> usize {
        1
    }
}

#[test]
fn new_limits_hold_from_the_next_request_on() {
    let limits = [
        (
            Limits {
                request_samples_max: Some(1_000),
                ..Limits::default()
            },
            400,
        ),
        (
            Limits {
                request_series_max: Some(1_000),
                ..Limits::default()
            },
            400,
        ),
        (
            Limits {
                samples_per_second_max: Some(1),
                ..Limits::default()
            },
            204,
        ),
    ];
    for (narrow, next) in limits {
        let (busy, receiver) = stand();
        let told = receiver.clone();
        busy.during_next(move |_| told.limit_by(Arc::new(Everybody(narrow))));
        assert_eq!(send(&receiver, NOW).status, 204, "{narrow:?}");
        assert_eq!(busy.taker.sample_count(), SERIES, "{narrow:?}");
        // A rate is a debt: the next request is let in while the bucket is not empty, and the one behind it is not.
        assert_eq!(send(&receiver, NOW + 1).status, next, "{narrow:?}");
        let then = if next == 204 { 503 } else { next };
        assert_eq!(send(&receiver, NOW + 2).status, then, "{narrow:?}");
        // Wider again: all that was refused can be sent.
        receiver.limit_by(Arc::new(Everybody(Limits::default())));
        assert_eq!(send(&receiver, NOW + 2).status, 204, "{narrow:?}");
    }
}
