//! The real world: the clock of the machine, random numbers of the kernel, threads of tokio, files of the disk.
#![expect(
    clippy::disallowed_methods,
    reason = "this is what the injected environment stands for in production"
)]

use futures::future::BoxFuture;
use model::{
    env::{Clock, Env, Rng, Spawn},
    time::Timestamp,
};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::runtime::Handle;

/// The environment of a production process; tasks run on `runtime`.
pub fn real(runtime: Handle) -> Env {
    Env {
        clock: Arc::new(SystemClock { begin: Instant::now() }),
        rng: Arc::new(KernelRng),
        fs: Arc::new(storage::disk::Disk),
        spawn: Arc::new(TokioSpawn { runtime }),
    }
}

struct SystemClock {
    begin: Instant,
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_millis() as Timestamp,
            Err(before) => -(before.duration().as_millis() as Timestamp),
        }
    }

    fn monotonic(&self) -> Duration {
        self.begin.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

struct KernelRng;

impl Rng for KernelRng {
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

struct TokioSpawn {
    runtime: Handle,
}

impl Spawn for TokioSpawn {
    fn task(&self, name: &str, task: BoxFuture<'static, ()>) {
        tracing::trace!(name, "task starts");
        self.runtime.spawn(task);
    }

    fn blocking(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let name = name.to_owned();
        let handle = self.runtime.spawn_blocking(work);
        Box::pin(async move {
            if let Err(error) = handle.await {
                tracing::error!(name, %error, "blocking work ended early");
            }
        })
    }

    fn thread(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
    }
}
