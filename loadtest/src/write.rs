//! The write loop: pushes a [`Workload`] through several connections, scrape after scrape, as real senders do.
//!
//! Each connection owns a part of the series, so the samples of a series always travel in order, and has one request in
//! flight. A request that fails in a way that may pass (5xx, 429, connection lost) is sent again with the same body, with
//! growing pauses, as the remote write protocol asks. Whoever needs to know the fate of each sample gives an
//! [`Observer`].

use crate::{
    http::{Client, Url},
    outcome::{Outcome, Tally},
    population::{Workload, mix},
    template::Template,
    wire::{Body, LabelTable, Protocol, check_timestamps},
};
use anyhow::ensure;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// In which order a connection sends its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The same in every scrape, as Prometheus does between reshardings.
    Steady,
    /// Another one in every scrape: the worst case for a receiver that predicts.
    Shuffled,
}

/// Samples on top of the scrapes, in time between two of them, that are sent when they are old: what agents with bad
/// connections do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Late {
    /// Share of the series that has such a sample in a scrape, 0 to 1.
    pub share: f64,
    /// The oldest are this many milliseconds old when they are sent, others three, two and one quarter of it.
    pub age_max: i64,
}

impl Late {
    /// How many ages there are.
    const AGES: u64 = 4;

    /// The scrapes by which the late samples of an age lag behind.
    fn lag(self, age: u64, step: i64) -> u64 {
        (self.age_max / step) as u64 * (age + 1) / Self::AGES
    }

    /// The scrape just before which the late sample lies that a series sends together with scrape `scrape`, if any.
    pub fn scrape(self, series: usize, scrape: u64, step: i64) -> Option<u64> {
        let random = mix(series as u64 ^ scrape << 40);
        let is_late = ((random >> 32) as f64) < self.share * f64::from(u32::MAX);
        let age = mix(series as u64) % Self::AGES;
        is_late.then(|| scrape.checked_sub(self.lag(age, step))).flatten()
    }
}

/// How bodies are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snappy {
    /// Anew for each scrape, as senders do.
    Standard,
    /// Once, with values and timestamps overwritten for each scrape: costs the generator little.
    Patched,
}

/// What to send and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to; the path is that of the write endpoint.
    pub url: Url,
    /// Headers on every request (tenant, credentials).
    pub headers: Vec<(String, String)>,
    /// Scrapes to send.
    pub scrapes: u64,
    /// Timestamp of scrape 0 in milliseconds.
    pub start: i64,
    /// Milliseconds between scrapes.
    pub step: i64,
    /// Samples per request at most.
    pub batch: usize,
    /// Scrapes that travel in one request (a sender that catches up sends several samples per series).
    pub samples_each: usize,
    /// Connections, each with its own share of the series.
    pub connections: usize,
    /// Samples per second over all connections; `None` sends as fast as answers come.
    pub rate: Option<f64>,
    /// Order of the series.
    pub order: Order,
    /// Samples that arrive long after those around them.
    pub late: Option<Late>,
    /// Header that carries the tenant of a workload with several.
    pub tenant_header: String,
    /// Message type.
    pub protocol: Protocol,
    /// How bodies are compressed.
    pub snappy: Snappy,
    /// How often a request is sent again before its samples are given up.
    pub retries: u32,
    /// Longest pause before sending again.
    pub backoff_max: Duration,
    /// Bound for connecting and for each wait for an answer.
    pub timeout: Duration,
}

impl Plan {
    /// A plan with the defaults of a benchmark: 200 scrapes every 15 s up to now, 2,000 samples per request, four
    /// connections, as fast as possible, 1.0 messages in steady order.
    pub fn new(url: Url, now: i64) -> Self {
        let (scrapes, step) = (200, 15_000);
        Self {
            url,
            headers: Vec::new(),
            scrapes,
            start: last_scrapes_start(now, scrapes, step),
            step,
            batch: 2_000,
            samples_each: 1,
            connections: 4,
            rate: None,
            order: Order::Steady,
            late: None,
            tenant_header: "THANOS-TENANT".to_owned(),
            protocol: Protocol::V1,
            snappy: Snappy::Standard,
            retries: 10,
            backoff_max: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.step > 0, "the step between scrapes must be positive");
        ensure!(
            self.batch > 0 && self.connections > 0,
            "batch and connections must be at least 1"
        );
        ensure!(
            (1..=self.batch).contains(&self.samples_each),
            "samples per series ({}) must be between 1 and the batch ({})",
            self.samples_each,
            self.batch
        );
        ensure!(self.rate.is_none_or(|rate| rate > 0.0), "the rate must be positive");
        ensure!(
            self.late
                .is_none_or(|late| (0.0..=1.0).contains(&late.share) && late.age_max > 0),
            "late samples are a share of the series, from 0 to 100 %, and at least 1 ms late"
        );
        check_timestamps(
            self.start,
            self.start.saturating_add(self.step.saturating_mul(self.scrapes as i64)),
        )
    }
}

/// Start such that the last of `scrapes` lies just before `now`. It is 7 ms past a multiple of the step, so that no
/// sample falls on the edge of a query's window, where versions of Prometheus differ.
pub fn last_scrapes_start(now: i64, scrapes: u64, step: i64) -> i64 {
    (now / step - scrapes as i64) * step + 7
}

/// Like [`last_scrapes_start`], but earlier if that keeps all scrapes inside one two-hour window: a benchmark then makes
/// one block whenever it runs.
pub fn one_window_start(now: i64, scrapes: u64, step: i64) -> i64 {
    const WINDOW_MS: i64 = 2 * 60 * 60 * 1000;
    let start = last_scrapes_start(now, scrapes, step);
    let span = scrapes as i64 * step;
    let into_window = (start + span).rem_euclid(WINDOW_MS);
    if span > WINDOW_MS || into_window >= span {
        start
    } else {
        last_scrapes_start(now - into_window, scrapes, step)
    }
}

/// A request, as its observer sees it: these series, each with the scrapes from `first_scrape` on.
pub struct Part<'a> {
    /// Numbers of the series.
    pub series: &'a [usize],
    /// First scrape in the request.
    pub first_scrape: u64,
    /// Number of scrapes in the request.
    pub scrapes: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// 2xx: the server promised to keep it.
    Acknowledged,
    /// The server said that it will never take all of it; what part it took is not known.
    Refused,
    /// Given up after errors that might have passed; the server may hold it or not.
    Unknown,
}

/// Learns the fate of each sample. Called by several threads, each for its own series.
pub trait Observer: Sync {
    /// The request is about to leave for the first time.
    fn sending(&self, part: &Part<'_>);

    /// Nothing more will happen to the request.
    fn ended(&self, part: &Part<'_>, ending: Ending);
}

/// The observer that looks away.
impl Observer for () {
    fn sending(&self, _part: &Part<'_>) {}

    fn ended(&self, _part: &Part<'_>, _ending: Ending) {}
}

/// Sends `workload` as `plan` says until it is done or `stop` is set. `progress` hears the number of samples of each
/// request that ended.
pub fn write<W: Workload>(
    plan: &Plan,
    workload: &W,
    observer: &dyn Observer,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> anyhow::Result<Outcome> {
    plan.check()?;
    let lanes: Vec<Lane<'_, W>> = (0..plan.connections)
        .map(|lane| Lane::new(plan, workload, lane, observer, stop, progress))
        .collect();
    let started = Instant::now();
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let threads: Vec<_> = lanes
            .into_iter()
            .map(|lane| scope.spawn(move || lane.run(started)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a connection's thread does not panic"))
            .collect()
    });
    let mut total = Tally::new();
    for tally in tallies {
        total.join(tally);
    }
    Ok(total.outcome(started.elapsed()))
}

/// One connection with its share of the series.
struct Lane<'a, W> {
    plan: &'a Plan,
    workload: &'a W,
    observer: &'a dyn Observer,
    stop: &'a AtomicBool,
    progress: &'a (dyn Fn(u64) + Sync),
    number: usize,
    /// Numbers of its series in the workload, and the labels of their first generation in the same order.
    series: Vec<usize>,
    labels: LabelTable,
    /// When the first request of the run was due, and samples per second of this connection.
    started: Instant,
    rate: Option<f64>,
    sent: u64,
    client: Client,
    encoder: snap::raw::Encoder,
    compressed: Vec<u8>,
    tally: Tally,
}

/// A request body, compressed ahead if possible, and the generations of its series it was made for.
struct Ready {
    body: Body,
    template: Option<Template>,
    generations: u64,
}

/// Values and timestamps of a request, in the order of its samples.
struct Samples<'a, W> {
    workload: &'a W,
    part: &'a Part<'a>,
    /// Timestamp of scrape 0.
    start: i64,
    step: i64,
}

impl<W: Workload> Samples<'_, W> {
    /// Hands each sample to `set`.
    #[inline]
    fn each(&self, mut set: impl FnMut(usize, f64, i64)) {
        let mut sample = 0;
        for &series in self.part.series {
            let start = self.start + self.workload.delay(series);
            for scrape in self.part.first_scrape..self.part.first_scrape + self.part.scrapes {
                let timestamp = start + scrape as i64 * self.step;
                set(sample, self.workload.value(series, scrape, timestamp), timestamp);
                sample += 1;
            }
        }
    }
}

impl<'a, W: Workload> Lane<'a, W> {
    fn new(
        plan: &'a Plan,
        workload: &'a W,
        number: usize,
        observer: &'a dyn Observer,
        stop: &'a AtomicBool,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Self {
        // Whole batches, or tenants, go round the connections, so that batches stay full.
        let per_batch = plan.batch / plan.samples_each;
        let unit = |series: usize| workload.tenant(series).unwrap_or(series / per_batch);
        let series: Vec<usize> = (0..workload.series())
            .filter(|&series| unit(series) % plan.connections == number)
            .collect();
        let first = series
            .iter()
            .map(|&series| workload.labels(series, workload.generation(series, 0)));
        let share = series.len() as f64 / workload.series().max(1) as f64;
        Self {
            plan,
            workload,
            observer,
            stop,
            progress,
            number,
            labels: LabelTable::new(plan.protocol, first),
            series,
            started: Instant::now(),
            rate: plan.rate.map(|rate| rate * share),
            sent: 0,
            client: Client::new(&plan.url, &plan.headers, plan.timeout),
            encoder: snap::raw::Encoder::new(),
            compressed: Vec::new(),
            tally: Tally::new(),
        }
    }

    fn run(mut self, started: Instant) -> Tally {
        self.started = started;
        let mut members: Vec<u32> = (0..self.series.len() as u32).collect();
        let mut ready: Vec<Ready> = Vec::new();
        for first_scrape in (0..self.plan.scrapes).step_by(self.plan.samples_each) {
            let scrapes = (self.plan.samples_each as u64).min(self.plan.scrapes - first_scrape);
            if self.plan.order == Order::Shuffled {
                shuffle(&mut members, mix(first_scrape ^ (self.number as u64) << 48));
                // Whole batches stay together when tenants must not mix in a request.
                members.sort_by_key(|&member| self.tenant(member));
            }
            if self.plan.order == Order::Shuffled || scrapes != self.plan.samples_each as u64 {
                ready.clear();
            }
            for (number, range) in self.batches(&members).into_iter().enumerate() {
                if !self.send_batch(&members[range], number, first_scrape, scrapes, &mut ready) {
                    return self.tally;
                }
            }
            if !self.send_late(first_scrape) {
                return self.tally;
            }
        }
        self.tally
    }

    /// Cuts the members into requests: full ones, none with two tenants.
    fn batches(&self, members: &[u32]) -> Vec<std::ops::Range<usize>> {
        let per_batch = self.plan.batch / self.plan.samples_each;
        let (mut batches, mut start) = (Vec::new(), 0);
        for end in 1..=members.len() {
            let full = end - start == per_batch || end == members.len();
            if full || self.tenant(members[end]) != self.tenant(members[start]) {
                batches.push(start..end);
                start = end;
            }
        }
        batches
    }

    fn tenant(&self, member: u32) -> Option<usize> {
        self.workload.tenant(self.series[member as usize])
    }

    /// Sends a batch of a scrape, its body made anew only if it changed; `false` when the run is to stop.
    fn send_batch(
        &mut self,
        members: &[u32],
        number: usize,
        first_scrape: u64,
        scrapes: u64,
        ready: &mut Vec<Ready>,
    ) -> bool {
        let generations = self.generations(members, first_scrape);
        if ready.get(number).is_none_or(|ready| ready.generations != generations) {
            let body = self.body(members, first_scrape, scrapes as usize, generations);
            let patched = self.plan.snappy == Snappy::Patched;
            let template = patched.then(|| Template::new(&body));
            let made = Ready {
                body,
                template,
                generations,
            };
            match ready.get_mut(number) {
                Some(old) => *old = made,
                None => ready.push(made),
            }
        }
        let numbers: Vec<usize> = members.iter().map(|&member| self.series[member as usize]).collect();
        let part = Part {
            series: &numbers,
            first_scrape,
            scrapes,
        };
        self.deliver(&mut ready[number], &part, true)
    }

    /// Sends the samples that come late with a scrape; `false` when the run is to stop.
    fn send_late(&mut self, scrape: u64) -> bool {
        let Some(late) = self.plan.late else { return true };
        // One round for each age, so that a request holds one moment.
        for age in 0..Late::AGES {
            let Some(old) = scrape.checked_sub(late.lag(age, self.plan.step)) else {
                continue;
            };
            let members: Vec<u32> = (0..self.series.len() as u32)
                .filter(|&member| late.scrape(self.series[member as usize], scrape, self.plan.step) == Some(old))
                .collect();
            for range in self.batches(&members) {
                let members = &members[range];
                let generations = self.generations(members, old);
                let mut ready = Ready {
                    body: self.body(members, old, 1, generations),
                    template: None,
                    generations,
                };
                let numbers: Vec<usize> = members.iter().map(|&member| self.series[member as usize]).collect();
                let part = Part {
                    series: &numbers,
                    first_scrape: old,
                    scrapes: 1,
                };
                if !self.deliver(&mut ready, &part, false) {
                    return false;
                }
            }
        }
        true
    }

    /// A number that differs when any of the series was replaced.
    fn generations(&self, members: &[u32], scrape: u64) -> u64 {
        members
            .iter()
            .map(|&member| self.workload.generation(self.series[member as usize], scrape))
            .sum()
    }

    fn body(&self, members: &[u32], scrape: u64, scrapes: usize, generations: u64) -> Body {
        if generations == self.generations(members, 0) {
            return self.labels.body(members, scrapes);
        }
        let labels = members.iter().map(|&member| {
            let series = self.series[member as usize];
            self.workload.labels(series, self.workload.generation(series, scrape))
        });
        let all: Vec<u32> = (0..members.len() as u32).collect();
        LabelTable::new(self.plan.protocol, labels).body(&all, scrapes)
    }

    /// Sends one request when it is due, until it is answered for good, refused, or given up; `false` when the run is to
    /// stop. A regular one is part of the scrapes and the observer hears of it; the others lie between two scrapes.
    fn deliver(&mut self, ready: &mut Ready, part: &Part<'_>, regular: bool) -> bool {
        let passed = self.rate.map(|rate| Duration::from_secs_f64(self.sent as f64 / rate));
        let due = passed.map_or_else(Instant::now, |passed| self.started + passed);
        if !self.wait_until(due) {
            return false;
        }
        self.fill(ready, part, if regular { 0 } else { -self.plan.step / 2 });
        let compressed = std::mem::take(&mut self.compressed);
        let body = ready.template.as_ref().map_or(&compressed[..], Template::bytes);
        let samples = ready.body.samples() as u64;
        self.sent += samples;
        self.tally.message_bytes += ready.body.bytes().len() as u64;
        self.tally.body_bytes += body.len() as u64;
        if regular {
            self.observer.sending(part);
        }
        let tenant = part.series.first().and_then(|&series| self.workload.tenant(series));
        let ending = self.attempt_all(body, tenant);
        if regular {
            self.observer.ended(part, ending);
        }
        self.compressed = compressed;
        self.tally_ending(ending, samples, due);
        true
    }

    /// Puts values and timestamps in and, unless that was done ahead, compresses; `shift` moves all samples in time.
    fn fill(&mut self, ready: &mut Ready, part: &Part<'_>, shift: i64) {
        let samples = Samples {
            workload: self.workload,
            part,
            start: self.plan.start + shift,
            step: self.plan.step,
        };
        if let Some(template) = &mut ready.template {
            return samples.each(|sample, value, timestamp| template.set(sample, value, timestamp));
        }
        samples.each(|sample, value, timestamp| ready.body.set(sample, value, timestamp));
        let message = ready.body.bytes();
        self.compressed.resize(snap::raw::max_compress_len(message.len()), 0);
        let length = self
            .encoder
            .compress(message, &mut self.compressed)
            .expect("the buffer is large enough");
        self.compressed.truncate(length);
    }

    fn tally_ending(&mut self, ending: Ending, samples: u64, due: Instant) {
        match ending {
            Ending::Acknowledged => {
                self.tally.samples += samples;
                let waited = due.elapsed().as_micros() as u64;
                self.tally.acks.record(waited).expect("the histogram grows as needed");
            }
            Ending::Refused => self.tally.refused += samples,
            Ending::Unknown => self.tally.unknown += samples,
        }
        (self.progress)(samples);
    }

    fn attempt_all(&mut self, body: &[u8], tenant: Option<usize>) -> Ending {
        let mut pause = Duration::from_millis(30);
        let mut always = self.plan.protocol.headers().to_owned();
        if let Some(tenant) = tenant {
            always.push_str(&format!("{}: {}\r\n", self.plan.tenant_header, tenant_name(tenant)));
        }
        for attempt in 0..=self.plan.retries {
            let mut headers = always.clone();
            if attempt > 0 {
                headers.push_str(&format!("Retry-Attempt: {attempt}\r\n"));
            }
            let answer = self.client.post(&self.plan.url.path, &headers, body);
            let mut wait = pause;
            match answer {
                Ok(answer) if (200..300).contains(&answer.status) => return Ending::Acknowledged,
                Ok(answer) if answer.status >= 500 || answer.status == 429 => {
                    self.tally.count_error(answer.status.to_string());
                    let asked = answer.header("retry-after").and_then(|value| value.parse().ok());
                    wait = asked.map_or(pause, Duration::from_secs).min(self.plan.backoff_max);
                }
                Ok(answer) => {
                    self.tally.count_error(answer.status.to_string());
                    self.tally.first_refusal.get_or_insert_with(|| answer.text());
                    return Ending::Refused;
                }
                Err(error) => self.tally.count_error(format!("connection: {}", error.kind())),
            }
            if attempt == self.plan.retries || !self.wait_until(Instant::now() + wait) {
                break;
            }
            pause = (pause * 2).min(self.plan.backoff_max);
        }
        Ending::Unknown
    }

    /// Waits; `false` when the run is to stop.
    fn wait_until(&self, due: Instant) -> bool {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// What a tenant is called on the wire.
pub fn tenant_name(number: usize) -> String {
    format!("tenant-{number:05}")
}

/// Puts `members` in an order that depends on `seed` alone (Fisher-Yates).
fn shuffle(members: &mut [u32], seed: u64) {
    for last in (1..members.len()).rev() {
        let other = mix(seed.wrapping_add(last as u64)) % (last as u64 + 1);
        members.swap(last, other as usize);
    }
}

#[cfg(test)]
mod tests;
