//! A static ring file in Thanos's schema: read at the start, and again whenever it changes.
//!
//! A file that cannot work stops the start; later it is an error in the log, and the ring stays what it was.

use super::Membership;
use crate::settings::Settings;
use anyhow::Context;
use receiver::ring::{
    NodeIndex, Placement,
    thanos::{Algorithm, Rings, file::config_hash},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What rings need besides the file.
#[derive(Clone, Copy)]
struct Defaults {
    algorithm: Algorithm,
    copies: usize,
}

impl Defaults {
    fn of(settings: &Settings) -> anyhow::Result<Self> {
        let name = &settings.ring_algorithm;
        let algorithm = name.parse().ok();
        Ok(Self {
            algorithm: algorithm.with_context(|| format!("--ring.algorithm {name:?}: hashmod or ketama"))?,
            copies: settings.cluster_replication_factor as usize,
        })
    }
}

/// Reads the file and places series by it.
pub(super) fn load(membership: &Membership, path: &Path, settings: &Settings) -> anyhow::Result<()> {
    let text = read(membership, path)?;
    place(membership, &text, Defaults::of(settings)?).with_context(|| format!("the ring file {}", path.display()))
}

/// Reads the file again when it changes.
pub(super) fn watch(membership: Arc<Membership>, path: PathBuf, settings: &Settings, stop: CancellationToken) {
    let Ok(defaults) = Defaults::of(settings) else { return };
    let spawn = membership.env.spawn.clone();
    let watch = async move {
        let mut known = read(&membership, &path).ok();
        loop {
            tokio::select! { () = membership.env.clock.sleep(LOOK_EVERY) => {}, () = stop.cancelled() => return }
            let text = match read(&membership, &path) {
                Ok(text) if known.as_ref() == Some(&text) => continue,
                Ok(text) => text,
                Err(error) => {
                    if known.take().is_some() {
                        tracing::error!(error = format!("{error:#}"), "the ring stays as it was");
                    }
                    continue;
                }
            };
            match place(&membership, &text, defaults) {
                Ok(()) => tracing::info!(file = %path.display(), "series are placed by a changed ring file"),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(file = %path.display(), error, "the ring stays as it was");
                }
            }
            known = Some(text);
        }
    };
    spawn.task("ring-file", Box::pin(watch));
}

fn read(membership: &Membership, path: &Path) -> anyhow::Result<String> {
    let bytes = membership.env.fs.read(path);
    let bytes = bytes.with_context(|| format!("read the ring file {}", path.display()))?;
    String::from_utf8(bytes).with_context(|| format!("the ring file {} is not UTF-8", path.display()))
}

fn place(membership: &Membership, text: &str, defaults: Defaults) -> anyhow::Result<()> {
    let rings = Rings::from_json(text, defaults.algorithm, defaults.copies)?;
    // 48 bits fit.
    membership.file_hash.set(config_hash(text) as i64);
    for warning in rings.warnings() {
        tracing::warn!(warning, "in the ring file");
    }
    let own = rings.nodes().iter().position(|node| node.address == membership.address);
    if own.is_none() {
        tracing::warn!(
            address = membership.address,
            "the ring file does not name this node: it routes and stores nothing (--cluster.advertise says who it is)"
        );
    }
    membership
        .replicator
        .follow(Arc::new(Placement::File(rings)), own.map(|own| own as NodeIndex));
    membership.tell_change();
    Ok(())
}
