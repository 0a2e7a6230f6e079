//! Pushes to a receiver of Thanos that a ring file names.
//!
//! Which kind a node is shows when it is dialled: one that knows nothing of push sessions is taken for Thanos, and for ours again when a
//! session opens after all. Thanos wants labels with every series, so they are kept here by the numbers that we give out. It also wants
//! to know which copy a series is, since a Thanos node that routes would pass any other copy on; so it never takes series in another
//! node's place. It answers once for a whole message: what it calls a conflict is found by sending halves.

use crate::{
    replicate::{Part, Peer, Pushed},
    ring::{Placement, series_hash::series_hash},
};
use futures::future::{BoxFuture, Either, join_all, select};
use model::{
    env::{Clock, Env},
    label::Labels,
    push::{Exception, Push, PushError, SampleKind, SeriesId, SeriesRef, WriteBatch, WriteOutcome},
    tenant::Tenant,
    time::Timestamp,
    verdict::{Reason, Verdict},
};
use parking_lot::{Mutex, RwLock};
use proto::{
    grpc::{
        push_client::{Lives, PushClient},
        security::Security,
        thanos_write::{WriteClient, WriteRefusal, write_request},
    },
    remote_write::encode::{Points, V1Encoder},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Series whose labels are kept for one peer; beyond, all are forgotten and come with their labels again.
const SERIES_MAX: usize = 4 << 20;

/// Messages for one batch: halving stops there, and what is still in doubt counts as refused.
const MESSAGES_MAX: usize = 64;

/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// How long to wait before somebody else is asked, too.
const PATIENCE: Duration = Duration::from_millis(500);

/// After a failure nobody asks for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// A node that turns out to be ours or Thanos's.
pub(super) struct MixedPeer {
    pub(super) client: Arc<PushClient>,
    pub(super) thanos: ThanosPeer,
}

impl Push for MixedPeer {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        Box::pin(async move {
            if !self.client.is_foreign() {
                let result = self.client.push(batch, received).await;
                // It may have shown its kind just now.
                if result.is_ok() || !self.client.is_foreign() {
                    return result;
                }
            }
            self.thanos.push(batch).await
        })
    }
}

impl Peer for MixedPeer {
    fn is_up(&self) -> bool {
        match self.client.is_foreign() {
            true => self.thanos.is_up(),
            false => self.client.is_up(),
        }
    }

    fn life(&self) -> u32 {
        match self.client.is_foreign() {
            true => self.thanos.labels.lock().life,
            false => self.client.life(),
        }
    }

    fn patience(&self) -> Duration {
        match self.client.is_foreign() {
            true => PATIENCE,
            false => self.client.patience(),
        }
    }

    fn is_late(&self) -> bool {
        !self.client.is_foreign() && self.client.is_late()
    }

    fn process(&self) -> Option<u64> {
        self.client.process()
    }

    fn takes_any(&self) -> bool {
        !self.client.is_foreign()
    }

    fn send(&self, batch: &WriteBatch, part: &Part, received: Timestamp) -> Option<Pushed> {
        // Only while a session is open, which shows that it is one of ours.
        self.client.send(batch, part, received)
    }
}

/// A receiver of Thanos.
pub(super) struct ThanosPeer {
    address: String,
    client: WriteClient,
    clock: Arc<dyn Clock>,
    lives: Arc<Lives>,
    placement: Arc<RwLock<Option<Arc<Placement>>>>,
    labels: Mutex<Known>,
    /// Milliseconds of the monotonic clock until which nobody asks.
    paused_until: AtomicU64,
}

/// Labels by the numbers that were given out in one life.
#[derive(Default)]
struct Known {
    life: u32,
    series: Vec<(Tenant, Labels)>,
}

/// Series of a batch that are the same copy.
type Copies<'a> = BTreeMap<usize, Vec<(u32, &'a Labels)>>;

impl ThanosPeer {
    pub(super) fn new(
        address: &str,
        security: &Security,
        env: &Env,
        lives: &Arc<Lives>,
        placement: &Arc<RwLock<Option<Arc<Placement>>>>,
    ) -> Result<Self, String> {
        let labels = Known {
            life: lives.next().unwrap_or_default(),
            ..Known::default()
        };
        Ok(Self {
            address: address.to_owned(),
            client: WriteClient::new(address, security)?,
            clock: Arc::clone(&env.clock),
            lives: Arc::clone(lives),
            placement: Arc::clone(placement),
            labels: Mutex::new(labels),
            paused_until: AtomicU64::new(0),
        })
    }

    fn is_up(&self) -> bool {
        self.clock.monotonic().as_millis() as u64 >= self.paused_until.load(Ordering::Relaxed)
    }

    fn unavailable(&self, reason: String) -> PushError {
        PushError::Unavailable {
            reason: format!("{}: {reason}", self.address),
            retry_after: PAUSE,
        }
    }

    async fn push(&self, batch: &WriteBatch) -> Result<WriteOutcome, PushError> {
        let mut outcome = WriteOutcome::default();
        let labels = self.labels_of(batch, &mut outcome);
        let copies = self.copies(batch, &labels)?;
        let messages = AtomicUsize::new(0);
        let sent = copies.into_iter().map(|(copy, series)| {
            let messages = &messages;
            async move { self.send(batch, copy, &series, messages).await }
        });
        for refused in join_all(sent).await {
            for series in refused? {
                refuse(batch, series, &mut outcome);
            }
        }
        Ok(outcome)
    }

    /// The labels of each series; numbers for those that are new, a note of those that are not known any more.
    fn labels_of(&self, batch: &WriteBatch, outcome: &mut WriteOutcome) -> Vec<Option<Labels>> {
        let mut known = self.labels.lock();
        if known.series.len() + batch.series.len() > SERIES_MAX {
            known.series = Vec::new();
            known.life = self.lives.next().unwrap_or_default();
        }
        let mut found = Vec::with_capacity(batch.series.len());
        for (index, series) in (0u32..).zip(&batch.series) {
            found.push(match &series.id {
                SeriesId::New(labels) => {
                    let number = u64::from(known.life) << 32 | known.series.len() as u64;
                    known.series.push((batch.tenant.clone(), labels.clone()));
                    outcome.refs.push((index, SeriesRef(number)));
                    Some(labels.clone())
                }
                SeriesId::Known(number) => {
                    let is_of_life = PushClient::life_of(*number) == known.life;
                    let entry = known.series.get(number.0 as u32 as usize).filter(|_| is_of_life);
                    let labels = entry
                        .filter(|(tenant, _)| *tenant == batch.tenant)
                        .map(|(_, labels)| labels.clone());
                    if labels.is_none() {
                        outcome.unknown.push(index);
                    }
                    labels
                }
            });
        }
        found
    }

    /// The series by which copy this node has of them.
    fn copies<'a>(&self, batch: &WriteBatch, labels: &'a [Option<Labels>]) -> Result<Copies<'a>, PushError> {
        let placement = self.placement.read().clone();
        let placement = placement.ok_or_else(|| self.unavailable("the ring is not known yet".to_owned()))?;
        let own = placement.nodes().iter().position(|node| node.address == self.address);
        let tenant = placement.tenant(&batch.tenant);
        let tenant = tenant.map_err(|error| self.unavailable(error.to_string()))?;
        let mut copies = Copies::new();
        for (index, labels) in (0u32..).zip(labels) {
            let Some(labels) = labels else { continue };
            let owners = tenant.owners(series_hash(batch.tenant.as_str(), labels));
            let copy = owners.iter().position(|owner| Some(usize::from(*owner)) == own);
            let copy = copy.ok_or_else(|| self.unavailable("a series is not placed on it any more".to_owned()))?;
            copies.entry(copy).or_default().push((index, labels));
        }
        Ok(copies)
    }

    /// Sends series; gives those that it refuses.
    fn send<'a>(
        &'a self,
        batch: &'a WriteBatch,
        copy: usize,
        series: &'a [(u32, &'a Labels)],
        messages: &'a AtomicUsize,
    ) -> BoxFuture<'a, Result<Vec<u32>, PushError>> {
        Box::pin(async move {
            let all = || series.iter().map(|(index, _)| *index).collect();
            if messages.fetch_add(1, Ordering::Relaxed) >= MESSAGES_MAX {
                return Ok(all());
            }
            let message = write_request(batch.tenant.as_str(), copy as i64 + 1, body(batch, series));
            let answer = match select(
                std::pin::pin!(self.client.write(message)),
                self.clock.sleep(ANSWER_TIME_MAX),
            )
            .await
            {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Err(WriteRefusal::Unavailable("no answer in time".to_owned())),
            };
            match answer {
                Ok(()) => Ok(Vec::new()),
                Err(WriteRefusal::Unavailable(reason)) => {
                    let until = self.clock.monotonic() + PAUSE;
                    self.paused_until.store(until.as_millis() as u64, Ordering::Relaxed);
                    Err(self.unavailable(reason))
                }
                Err(_) if series.len() == 1 => Ok(all()),
                Err(_) => {
                    let (one, other) = series.split_at(series.len() / 2);
                    let mut refused = self.send(batch, copy, one, messages).await?;
                    refused.extend(self.send(batch, copy, other, messages).await?);
                    Ok(refused)
                }
            }
        })
    }
}

/// Series of a batch as a body of remote write 1.0.
fn body(batch: &WriteBatch, series: &[(u32, &Labels)]) -> Vec<u8> {
    let mut encoder = V1Encoder::default();
    for (index, labels) in series {
        let [floats, histograms, exemplars] = crate::gather::columns(batch, *index as usize);
        let points = Points {
            floats: &batch.floats[floats],
            histograms: &batch.histograms[histograms],
            exemplars: &batch.exemplars[exemplars],
        };
        encoder.series(labels.iter(), points);
    }
    encoder.finish()
}

/// Notes the samples of a series as such that can never be stored there. Which of them, Thanos does not say.
fn refuse(batch: &WriteBatch, series: u32, outcome: &mut WriteOutcome) {
    let [floats, histograms, _] = crate::gather::columns(batch, series as usize);
    for (kind, column) in [(SampleKind::Float, floats), (SampleKind::Histogram, histograms)] {
        outcome.exceptions.extend(column.map(|sample| Exception {
            series,
            sample: sample as u32,
            kind,
            verdict: Verdict::Rejected(Reason::OutOfOrder),
        }));
    }
}
