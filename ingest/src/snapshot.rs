//! Snapshots: a copy of what is here, as Prometheus blocks in a folder of their own.
//!
//! Everything is written into a folder of a temporary name, which gets its own when all of it is durable.

use crate::{
    core::{Core, new_ulid},
    cut::{self, Job},
    ranks::Ranks,
};
use model::{env::Fs, tenant::Tenant, time::TimeRange};
use std::{
    io,
    path::{Path, PathBuf},
};

/// Folder of the snapshots in the data folder.
const SNAPSHOTS_DIR: &str = "snapshots";

/// Bytes copied at once.
const STEP_BYTES: usize = 1 << 20;

/// Makes a snapshot of a tenant and gives the name of its folder.
pub(crate) fn snapshot(core: &Core, tenant: &Tenant, skip_head: bool) -> Result<String, String> {
    let fs = &*core.env.fs;
    let name = new_ulid(core).to_string();
    let above = core.settings.dir.join(SNAPSHOTS_DIR);
    let unnamed = above.join(format!("{name}.tmp"));
    let written = fill(core, tenant, skip_head, &unnamed).and_then(|()| {
        let named = fs
            .sync_dir(&unnamed)
            .and_then(|()| fs.rename(&unnamed, &above.join(&name)))
            .and_then(|()| fs.sync_dir(&above));
        named.map_err(|error| error.to_string())
    });
    if let Err(reason) = written {
        // What cannot be removed has no final name, so nobody takes it for a snapshot.
        let _ = fs.remove_dir(&unnamed);
        return Err(format!("snapshot in {}: {reason}", above.display()));
    }
    Ok(name)
}

fn fill(core: &Core, tenant: &Tenant, skip_head: bool, folder: &Path) -> Result<(), String> {
    let fs = &*core.env.fs;
    fs.create_dir(folder).map_err(|error| error.to_string())?;
    for local in core.blocks.of(tenant, TimeRange::ALL) {
        let target = folder.join(local.ulid.to_string());
        copy_folder(fs, &core.blocks.dir(local.ulid), &target)
            .map_err(|error| format!("copy block {}: {error}", local.ulid))?;
    }
    if skip_head {
        return Ok(());
    }
    let mut ranks = Ranks::new(&core.head);
    let jobs = Job::of_tenant(core, tenant);
    jobs.iter().try_for_each(|job| cut::copy(core, job, &mut ranks, folder))
}

fn copy_folder(fs: &dyn Fs, from: &Path, to: &Path) -> io::Result<()> {
    fs.create_dir(to)?;
    for entry in fs.list(from)? {
        let (source, target): (PathBuf, PathBuf) = (from.join(&entry.name), to.join(&entry.name));
        if entry.is_dir {
            copy_folder(fs, &source, &target)?;
            continue;
        }
        let bytes = fs.map(&source)?;
        let mut file = fs.create(&target)?;
        for step in bytes.chunks(STEP_BYTES) {
            file.append(step)?;
        }
        file.sync()?;
    }
    fs.sync_dir(to)
}
