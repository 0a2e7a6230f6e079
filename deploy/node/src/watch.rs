//! Files that an operator may change while the process runs: read at the start, and again when they change.
//!
//! What cannot work stops the start; later it is an error in the log, and what was there before stays.

use anyhow::Context;
use model::env::Env;
use std::{path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Larger files are refused.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads a file of text.
pub fn read(env: &Env, path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let size = env.fs.size(path).with_context(|| format!("read {shown}"))?;
    anyhow::ensure!(
        size <= FILE_BYTES_MAX,
        "{shown} has {size} bytes, more than the {FILE_BYTES_MAX} that are read"
    );
    let bytes = env.fs.read(path).with_context(|| format!("read {shown}"))?;
    String::from_utf8(bytes).with_context(|| format!("{shown} is not UTF-8"))
}

/// Hands what `read` gives to `apply`, now and whenever it changes, until `stop` is cancelled. `what` names it in messages.
pub fn follow(
    what: &'static str,
    env: &Env,
    read: impl Fn(&Env) -> anyhow::Result<String> + Send + Sync + 'static,
    apply: impl Fn(&str) -> anyhow::Result<()> + Send + Sync + 'static,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let text = read(env).with_context(|| what.to_owned())?;
    apply(&text).with_context(|| what.to_owned())?;
    let (clock, world) = (Arc::clone(&env.clock), env.clone());
    let watch = async move {
        let mut known = Ok(text);
        loop {
            tokio::select! { () = clock.sleep(LOOK_EVERY) => {}, () = stop.cancelled() => return }
            let found = read(&world).map_err(|error| format!("{error:#}"));
            if found == known {
                continue;
            }
            let applied = match &found {
                Ok(text) => apply(text).map_err(|error| format!("{error:#}")),
                Err(error) => Err(error.clone()),
            };
            match applied {
                Ok(()) => tracing::info!("{what}: a changed file is in use"),
                Err(error) => tracing::error!(error, "{what}: a changed file cannot be used, all stays as it was"),
            }
            known = found;
        }
    };
    env.spawn.task("watch-file", Box::pin(watch));
    Ok(())
}
