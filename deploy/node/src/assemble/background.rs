//! Work that goes on in the background of a process: the bucket is searched, and readiness is found out.

use crate::ring::Membership;
use ingest::Ingester;
use model::env::Env;
use std::{sync::Arc, time::Duration};
use storage::gateway::Gateway;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How soon a bucket that could not be listed is tried again, at most.
const SYNC_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// How often a replay is asked whether it is over.
const READINESS_PAUSE: Duration = Duration::from_millis(20);

/// Turns true when the replay is over, the ring is known, and every part in `parts` is.
pub(super) fn follow_readiness(
    ingester: Option<Arc<Ingester>>,
    membership: Option<Arc<Membership>>,
    parts: Vec<watch::Receiver<bool>>,
    env: &Env,
    stop: CancellationToken,
) -> watch::Receiver<bool> {
    let is_ready = move || {
        let part_is_ready = |part: &watch::Receiver<bool>| *part.borrow();
        let placed = membership.as_ref().is_none_or(|membership| membership.is_placed());
        let replayed = ingester.as_ref().is_none_or(|ingester| ingester.is_ready());
        placed && replayed && parts.iter().all(part_is_ready)
    };
    let (told, ready) = watch::channel(is_ready());
    let clock = env.clock.clone();
    let follow = async move {
        while !is_ready() {
            tokio::select! { () = clock.sleep(READINESS_PAUSE) => {}, () = stop.cancelled() => return }
        }
        told.send_replace(true);
        // Dropping the sender would tell that nothing changes any more, which is true, but too early for late subscribers.
        stop.cancelled().await;
    };
    env.spawn.task("readiness", Box::pin(follow));
    ready
}

/// Looks for new blocks now and every `interval`; the answer turns true after the first time that went well.
pub(super) fn follow_bucket(
    gateway: Arc<Gateway>,
    interval: Duration,
    env: &Env,
    stop: CancellationToken,
) -> watch::Receiver<bool> {
    let (told, synced) = watch::channel(false);
    let clock = env.clock.clone();
    let follow = async move {
        loop {
            let pause = match gateway.sync().await {
                Ok(report) => {
                    told.send_replace(true);
                    // What the manifest says is served; now for what the bucket says.
                    if report.from_manifest { Duration::ZERO } else { interval }
                }
                Err(error) => {
                    tracing::warn!(%error, "the bucket could not be listed; blocks known so far are served");
                    interval.min(SYNC_RETRY_PAUSE)
                }
            };
            tokio::select! { () = clock.sleep(pause) => {}, () = stop.cancelled() => return }
        }
    };
    env.spawn.task("gateway-sync", Box::pin(follow));
    synced
}
