//! The client's end of push sessions: a [`Push`] whose taker is another node.
//!
//! One task per peer keeps a session open, dials again when it breaks, and watches for silence. Every push fails at once while the peer
//! is known to be away, so that a dead neighbour costs nothing; whoever pushes asks [`PushClient::is_up`] first and goes elsewhere. What is
//! under way is bounded in bytes and in time.
//!
//! Series numbers belong to a session. The [`SeriesRef`]s given out hold the session's *life*, a number that this process never gives
//! twice, above 32 bits of the session's own number: a number of an earlier session is told as unknown and never sent.

mod latency;
mod session;

use super::security::Security;
use crate::push::{Name, PushWriter, Sent, Written};
use bytes::Bytes;
use futures::{
    channel::{mpsc::UnboundedSender, oneshot},
    future::BoxFuture,
};
use latency::Latency;
use model::{
    env::{Clock, Env},
    push::{Push, PushError, SeriesId, SeriesRef, WriteBatch, WriteOutcome},
    time::Timestamp,
};
use parking_lot::Mutex;
use session::{keep_open, within};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct PushClientSettings {
    /// How its connection is secured.
    pub security: Security,
    /// Bytes of messages without an answer, whether somebody waits for it or not; beyond it pushes fail at once.
    pub queue_bytes_max: usize,
    /// Longest time for a session to come about.
    pub open_time_max: Duration,
    /// How long a sign of life may take, after which the peer counts as away until it speaks again.
    pub silence_max: Duration,
    /// Silence after which the session is given up.
    pub session_silence_max: Duration,
    /// Pauses between attempts to open a session: from the first, doubling, to the last.
    pub pause_first: Duration,
    /// The last pause.
    pub pause_last: Duration,
    /// A push that is not answered by then fails, however slow the peer usually is: the shortest and the longest such time.
    pub answer_time: (Duration, Duration),
    /// How long to wait for an answer before another node is asked as well: the shortest and the longest such time.
    pub patience: (Duration, Duration),
    /// A peer is late when it has left a push unanswered for longer than several times what is usual for it: the shortest and the longest
    /// such time.
    pub late_after: (Duration, Duration),
    /// A session in which a push has been left unanswered for so long is given up, and with it what lies in its queues.
    pub unanswered_max: Duration,
}

impl Default for PushClientSettings {
    fn default() -> Self {
        Self {
            security: Security::default(),
            queue_bytes_max: 64 << 20,
            open_time_max: Duration::from_secs(2),
            silence_max: Duration::from_secs(3),
            session_silence_max: Duration::from_secs(12),
            pause_first: Duration::from_millis(50),
            pause_last: Duration::from_secs(1),
            answer_time: (Duration::from_secs(3), Duration::from_secs(10)),
            patience: (Duration::from_millis(50), Duration::from_secs(1)),
            late_after: (Duration::from_millis(200), Duration::from_secs(1)),
            unanswered_max: Duration::from_secs(30),
        }
    }
}

/// Gives every session of a process a number of its own.
#[derive(Debug, Default)]
pub struct Lives(AtomicU32);

impl Lives {
    /// The next life; none when all were given.
    pub fn next(&self) -> Option<u32> {
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |life| life.checked_add(1));
        taken.ok().map(|life| life + 1)
    }
}

/// What a client has done so far.
#[derive(Debug, Default)]
pub struct PushClientCounts {
    /// Bytes of messages sent.
    pub bytes: AtomicU64,
    /// Samples sent.
    pub samples: AtomicU64,
    /// Series sent with their labels.
    pub labels: AtomicU64,
    /// Sessions opened.
    pub sessions: AtomicU64,
    /// Pushes that got no verdicts.
    pub failures: AtomicU64,
}

/// Stands for a series that goes by its labels, among the numbers given to [`PushClient::push_part`]. No session gives it.
pub const BY_LABELS: SeriesRef = SeriesRef(u64::MAX);

/// Pushes to one peer. The session ends when it is dropped.
pub struct PushClient {
    shared: Arc<Shared>,
}

struct Shared {
    address: String,
    clock: Arc<dyn Clock>,
    settings: PushClientSettings,
    lives: Arc<Lives>,
    state: watch::Sender<State>,
    /// The peer has been silent for too long although its session is open.
    silent: AtomicBool,
    /// The peer was reached and knows nothing of push sessions.
    foreign: AtomicBool,
    /// Pushes without an answer, in the order in which they were sent.
    waiting: Mutex<BTreeMap<u64, Waiting>>,
    queued_bytes: AtomicUsize,
    next_id: AtomicU64,
    latency: Mutex<Latency>,
    writers: Mutex<Vec<PushWriter>>,
    counts: PushClientCounts,
}

#[derive(Clone)]
enum State {
    /// Never reached and never missed so far.
    Dialling,
    Open(Session),
    Away(Arc<str>),
}

/// A push without an answer. It stays when nobody waits any more: its message may still lie in a queue, and tells how late the peer is.
struct Waiting {
    /// When it was sent.
    since: Duration,
    /// Bytes of its message.
    bytes: usize,
    answered: oneshot::Sender<Result<WriteOutcome, PushError>>,
}

#[derive(Clone)]
struct Session {
    life: u32,
    /// The number of the process at the other end, when it told.
    process: Option<u64>,
    send: UnboundedSender<Bytes>,
}

/// An answer that is waited for.
struct Wait {
    answer: oneshot::Receiver<Result<WriteOutcome, PushError>>,
    sent: Vec<u32>,
}

impl PushClient {
    /// Dials the peer at `address` and keeps dialling.
    pub fn new(address: String, lives: Arc<Lives>, env: &Env, settings: PushClientSettings) -> Self {
        let shared = Arc::new(Shared {
            address,
            clock: Arc::clone(&env.clock),
            settings,
            lives,
            state: watch::Sender::new(State::Dialling),
            silent: AtomicBool::new(false),
            foreign: AtomicBool::new(false),
            waiting: Mutex::default(),
            queued_bytes: AtomicUsize::new(0),
            next_id: AtomicU64::new(1),
            latency: Mutex::default(),
            writers: Mutex::default(),
            counts: PushClientCounts::default(),
        });
        let keep = keep_open(Arc::downgrade(&shared), Arc::clone(&env.clock));
        env.spawn.task("push-client", Box::pin(keep));
        Self { shared }
    }

    /// Where the peer is.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// Whether a push has a chance. A peer that was not missed yet counts as up.
    pub fn is_up(&self) -> bool {
        !self.shared.silent.load(Ordering::Relaxed) && !matches!(*self.shared.state.borrow(), State::Away(_))
    }

    /// Whether a session is open.
    pub fn is_open(&self) -> bool {
        matches!(*self.shared.state.borrow(), State::Open(_))
    }

    /// Whether the peer was reached and knows nothing of push sessions: one of Thanos's receivers, perhaps.
    pub fn is_foreign(&self) -> bool {
        self.shared.foreign.load(Ordering::Relaxed)
    }

    /// Why the peer is away, if it is.
    pub fn away_because(&self) -> Option<String> {
        if self.shared.silent.load(Ordering::Relaxed) {
            return Some("it does not answer".to_owned());
        }
        match &*self.shared.state.borrow() {
            State::Away(reason) => Some(reason.to_string()),
            State::Dialling | State::Open(_) => None,
        }
    }

    /// The life that numbers of the open session carry; 0 while there is none.
    pub fn life(&self) -> u32 {
        match &*self.shared.state.borrow() {
            State::Open(session) => session.life,
            State::Dialling | State::Away(_) => 0,
        }
    }

    /// The process that the open session leads to. Two clients with the same one reach the same disk.
    pub fn process(&self) -> Option<u64> {
        match &*self.shared.state.borrow() {
            State::Open(session) => session.process,
            State::Dialling | State::Away(_) => None,
        }
    }

    /// The life that a number belongs to.
    pub fn life_of(number: SeriesRef) -> u32 {
        (number.0 >> 32) as u32
    }

    /// How long to wait for an answer before somebody else is asked, too.
    pub fn patience(&self) -> Duration {
        let (least, most) = self.shared.settings.patience;
        let usual = self.shared.latency.lock().usual_max();
        usual.map_or(most, |usual| (usual * 2).clamp(least, most))
    }

    /// Whether it has left a push unanswered for several times longer than it usually takes: it hangs, or its disk does. It may be asked
    /// all the same, where nobody else is there.
    pub fn is_late(&self) -> bool {
        let unanswered = self.shared.unanswered_for();
        unanswered.is_some_and(|time| time > self.shared.late_after())
    }

    /// What it has done so far.
    pub fn counts(&self) -> &PushClientCounts {
        &self.shared.counts
    }

    /// Sends some series of a batch, each by the number given for it, or by its labels ([`BY_LABELS`]); gives the answer to come, which names
    /// series by their place among those. The batch itself is not needed any more when this returns: nothing of it is copied but into
    /// the message. `None` when that cannot be done at once, with one message that leaves nothing out: then nothing was sent.
    pub fn push_part(
        &self,
        batch: &WriteBatch,
        series: &[u32],
        numbers: &[SeriesRef],
        received: Timestamp,
    ) -> Option<BoxFuture<'static, Result<WriteOutcome, PushError>>> {
        let session = match &*self.shared.state.borrow() {
            State::Open(session) if !self.shared.silent.load(Ordering::Relaxed) => session.clone(),
            State::Open(_) | State::Dialling | State::Away(_) => return None,
        };
        let begun = self.shared.clock.monotonic();
        let part = PartOfLife {
            series,
            numbers,
            life: session.life,
        };
        let sent = self.shared.send_whole(&session, batch, received, &part)?;
        let shared = Arc::clone(&self.shared);
        Some(Box::pin(async move {
            let result = match sent {
                Ok(mut wait) => shared.answer(session.life, &mut wait, begun).await,
                Err(error) => Err(error),
            };
            shared.count_failure(result)
        }))
    }
}

impl Push for PushClient {
    fn push<'a>(
        &'a self,
        batch: &'a WriteBatch,
        received: Timestamp,
    ) -> BoxFuture<'a, Result<WriteOutcome, PushError>> {
        Box::pin(async move {
            let result = self.shared.push(batch, received).await;
            self.shared.count_failure(result)
        })
    }
}

/// A whole batch; what is known goes by its number of one life.
struct OfLife<'a> {
    batch: &'a WriteBatch,
    life: u32,
}

impl Sent for OfLife<'_> {
    fn count(&self) -> usize {
        self.batch.series.len()
    }

    #[inline]
    fn series(&self, place: usize) -> (usize, Option<Name>) {
        let name = match &self.batch.series[place].id {
            SeriesId::Known(number) => number_of(*number, self.life),
            SeriesId::New(_) => Some(Name::Labels),
        };
        (place, name)
    }
}

/// Some series of a batch; those with a number go by it, if it is one of this life.
struct PartOfLife<'a> {
    series: &'a [u32],
    numbers: &'a [SeriesRef],
    life: u32,
}

impl Sent for PartOfLife<'_> {
    fn count(&self) -> usize {
        self.series.len().min(self.numbers.len())
    }

    #[inline]
    fn series(&self, place: usize) -> (usize, Option<Name>) {
        let name = match self.numbers[place] {
            BY_LABELS => Some(Name::Labels),
            number => number_of(number, self.life),
        };
        (self.series[place] as usize, name)
    }
}

#[inline]
fn number_of(number: SeriesRef, life: u32) -> Option<Name> {
    (PushClient::life_of(number) == life).then_some(Name::Number(number.0 as u32))
}

impl Shared {
    fn unavailable(&self, reason: impl std::fmt::Display) -> PushError {
        PushError::Unavailable {
            reason: format!("{}: {reason}", self.address),
            retry_after: Duration::from_secs(1),
        }
    }

    /// The open session. While the peer is dialled for the first time it is waited for.
    async fn session(&self) -> Result<Session, PushError> {
        if self.silent.load(Ordering::Relaxed) {
            return Err(self.unavailable("does not answer"));
        }
        let mut state = self.state.subscribe();
        let wait = state.wait_for(|state| !matches!(state, State::Dialling));
        let state = match within(&*self.clock, self.settings.open_time_max, wait).await {
            Some(Ok(state)) => state.clone(),
            Some(Err(_)) | None => return Err(self.unavailable("is still being dialled")),
        };
        match state {
            State::Open(session) => Ok(session),
            State::Away(reason) => Err(self.unavailable(reason)),
            State::Dialling => Err(self.unavailable("is still being dialled")),
        }
    }

    async fn push(&self, batch: &WriteBatch, received: Timestamp) -> Result<WriteOutcome, PushError> {
        let session = self.session().await?;
        let begun = self.clock.monotonic();
        let waits = self.send_all(&session, batch, received)?;
        let mut outcome = WriteOutcome::default();
        let mut sent = 0;
        for mut wait in waits {
            let part = self.answer(session.life, &mut wait, begun).await?;
            sent += wait.sent.len();
            let part = part.of_whole(batch, &wait.sent);
            let part = part.ok_or_else(|| self.unavailable("judged samples that it was not given"))?;
            outcome.exceptions.extend(part.exceptions);
            outcome.unknown.extend(part.unknown);
            outcome.refs.extend(part.refs);
        }
        if sent < batch.series.len() {
            let life = session.life;
            let is_stale = |index: &u32| match &batch.series[*index as usize].id {
                SeriesId::Known(number) => PushClient::life_of(*number) != life,
                SeriesId::New(_) => false,
            };
            outcome.unknown.extend((0..batch.series.len() as u32).filter(is_stale));
        }
        Ok(outcome)
    }

    /// The answer to a message that was sent at `begun`, in the terms of the message, with numbers of our own.
    async fn answer(&self, life: u32, wait: &mut Wait, begun: Duration) -> Result<WriteOutcome, PushError> {
        let spent = self.clock.monotonic().saturating_sub(begun);
        let limit = self.answer_time().saturating_sub(spent);
        let mut outcome = match within(&*self.clock, limit, &mut wait.answer).await {
            Some(Ok(result)) => result?,
            Some(Err(_)) => return Err(self.unavailable("the session ended before the answer")),
            None => {
                // A peer that became slow for good is given more time from now on.
                self.latency.lock().observe(spent + limit);
                return Err(self.unavailable("no answer in time"));
            }
        };
        self.latency
            .lock()
            .observe(self.clock.monotonic().saturating_sub(begun));
        outcome.refs.retain_mut(|(_, reference)| {
            let number = reference.0;
            *reference = SeriesRef(u64::from(life) << 32 | number);
            number <= u64::from(u32::MAX)
        });
        Ok(outcome)
    }

    fn count_failure(&self, result: Result<WriteOutcome, PushError>) -> Result<WriteOutcome, PushError> {
        if result.is_err() {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    /// Writes the batch into messages and sends them.
    fn send_all(&self, session: &Session, batch: &WriteBatch, received: Timestamp) -> Result<Vec<Wait>, PushError> {
        let mut writer = self.writers.lock().pop().unwrap_or_default();
        let series = OfLife {
            batch,
            life: session.life,
        };
        let mut waits = Vec::with_capacity(1);
        let mut first = 0;
        loop {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let written = writer.write(id, batch, received, first, &series);
            first = written.next;
            if !written.sent.is_empty() || !batch.metadata.is_empty() {
                waits.push(self.send(session, id, written)?);
            }
            if first >= batch.series.len() {
                break;
            }
        }
        self.writers.lock().push(writer);
        let labels = batch
            .series
            .iter()
            .filter(|series| matches!(series.id, SeriesId::New(_)));
        self.count_sent(labels.count(), batch.floats.len() + batch.histograms.len());
        Ok(waits)
    }

    /// Writes some series into one message and sends it; `None` when they are not all in it.
    fn send_whole(
        &self,
        session: &Session,
        batch: &WriteBatch,
        received: Timestamp,
        part: &PartOfLife<'_>,
    ) -> Option<Result<Wait, PushError>> {
        let mut writer = self.writers.lock().pop().unwrap_or_default();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let written = writer.write(id, batch, received, 0, part);
        self.writers.lock().push(writer);
        if written.sent.len() < part.series.len() {
            return None;
        }
        let by_labels = part.numbers.iter().filter(|number| **number == BY_LABELS);
        let (samples, labels) = (written.samples, by_labels.count());
        let sent = self.send(session, id, written);
        if sent.is_ok() {
            self.count_sent(labels, samples);
        }
        Some(sent)
    }

    fn count_sent(&self, labels: usize, samples: usize) {
        self.counts.labels.fetch_add(labels as u64, Ordering::Relaxed);
        self.counts.samples.fetch_add(samples as u64, Ordering::Relaxed);
    }

    fn send(&self, session: &Session, id: u64, written: Written) -> Result<Wait, PushError> {
        let bytes = written.message.len();
        let max = self.settings.queue_bytes_max;
        let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if queued > max {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(self.unavailable(format_args!("{queued} bytes wait for it, at most {max} may")));
        }
        let (answered, answer) = oneshot::channel();
        let since = self.clock.monotonic();
        let waiting = Waiting { since, bytes, answered };
        self.waiting.lock().insert(id, waiting);
        if session.send.unbounded_send(written.message.into()).is_err() {
            drop(self.end_wait(id));
            return Err(self.unavailable("the session has ended"));
        }
        self.counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(Wait {
            answer,
            sent: written.sent,
        })
    }

    /// Takes a push off the list: it is answered, or never will be.
    fn end_wait(&self, id: u64) -> Option<Waiting> {
        let push = self.waiting.lock().remove(&id)?;
        self.queued_bytes.fetch_sub(push.bytes, Ordering::Relaxed);
        Some(push)
    }

    /// For how long the oldest push without an answer has been under way.
    fn unanswered_for(&self) -> Option<Duration> {
        let oldest = self.waiting.lock().first_key_value().map(|(_, push)| push.since)?;
        Some(self.clock.monotonic().saturating_sub(oldest))
    }

    fn answer_time(&self) -> Duration {
        let (least, most) = self.settings.answer_time;
        let usual = self.latency.lock().usual_max();
        usual.map_or(most, |usual| (usual * 8).clamp(least, most))
    }

    fn late_after(&self) -> Duration {
        let (least, most) = self.settings.late_after;
        let usual = self.latency.lock().usual_max();
        usual.map_or(most, |usual| (usual * 3).clamp(least, most))
    }

    /// Fails everything that waits.
    fn fail_all(&self, reason: &str) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for push in waiting.into_values() {
            self.queued_bytes.fetch_sub(push.bytes, Ordering::Relaxed);
            // Whoever waited may have gone.
            let _ = push.answered.send(Err(self.unavailable(reason)));
        }
    }
}
