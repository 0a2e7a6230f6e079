//! Time, chance and tasks for the tests of this crate.
#![expect(clippy::disallowed_methods, reason = "the tests' own clock and tasks")]

use futures::future::BoxFuture;
use model::{
    env::{Clock, Rng, Spawn},
    time::Timestamp,
};
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

pub(crate) struct TestSpawn;

impl Spawn for TestSpawn {
    fn task(&self, _name: &str, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn blocking(&self, _name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        Box::pin(async { drop(tokio::task::spawn_blocking(work).await) })
    }

    fn thread(&self, _name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        std::thread::spawn(work);
        Ok(())
    }
}

/// Numbers that look random and are the same in each run.
pub(crate) struct TestRng(AtomicU64);

impl TestRng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Rng for TestRng {
    fn next_u64(&self) -> u64 {
        let mut bits = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

/// The real time, for deadlines of tests.
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) struct TestClock(Instant);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(now())
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as i64)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}
