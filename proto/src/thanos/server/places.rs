//! How many answers with series are given at the same time.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// So many times as many calls wait for their turn.
const WAITING_PER_PLACE: usize = 10;

/// A bound on the answers with series that are given at the same time, and on the calls that wait.
#[derive(Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// Places in the queue, those of calls that are answered included.
    queue: Arc<Semaphore>,
    count: usize,
}

/// The right to answer.
pub(super) struct Place {
    _free: OwnedSemaphorePermit,
    _queue: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        let count = count.max(1);
        Self {
            free: Arc::new(Semaphore::new(count)),
            queue: Arc::new(Semaphore::new(count + count * WAITING_PER_PLACE)),
            count,
        }
    }

    /// Waits for the turn of a call. Who waits too long goes away by itself: gRPC carries the caller's deadline.
    pub(super) async fn enter(&self) -> Result<Place, Status> {
        let queue = self.queue.clone().try_acquire_owned();
        let queue = queue.map_err(|_| {
            let (count, waiting) = (self.count, self.count * WAITING_PER_PLACE);
            let text = format!("{count} answers are being given and {waiting} calls wait (--store.concurrency)");
            Status::resource_exhausted(format!("{text}; try again later"))
        })?;
        let free = self.free.clone().acquire_owned().await;
        Ok(Place {
            _free: free.map_err(|_| Status::unavailable("the process is stopping"))?,
            _queue: queue,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[tokio::test]
    async fn some_are_answered_some_wait_and_others_are_told_why_not() {
        let places = Places::new(2);
        let first = places.enter().await.unwrap();
        let _second = places.enter().await.unwrap();
        let mut waiting: Vec<_> = (0..20).map(|_| Box::pin(places.enter())).collect();
        assert!(waiting.iter_mut().all(|call| call.now_or_never().is_none()));
        let refusal = places.enter().await.err().unwrap();
        assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
        assert!(refusal.message().contains("--store.concurrency"), "{refusal}");
        drop(first);
        let turn = waiting.remove(0).await.unwrap();
        drop((turn, waiting));
        let again = places.enter().await;
        assert!(again.is_ok(), "who goes away leaves the queue");
    }
}
