//! Keeps what is known of the fewest nodes beside the data that it is about, and looks at the ring so that it is known without requests.

use super::LimitBook;
use super::fewest::TEXT_BYTES_MAX;
use anyhow::{Context, ensure};
use model::env::Env;
use std::{io, path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The file, in the data folder.
const FILE: &str = "ring-nodes";

/// How often the ring is looked at. A process that ends before it wrote down a change is taken to have ended before the change.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Reads what an earlier process knew, then follows the ring until `stop` is cancelled. A file that cannot be read or written is told in
/// the log and stops nothing: limits may be narrower for some hours.
pub(super) fn follow(book: &Arc<LimitBook>, data_dir: &Path, env: &Env, stop: CancellationToken) {
    let path = data_dir.join(FILE);
    match read(env, &path) {
        Ok(text) => {
            let mut fewest = book.fewest_nodes.lock();
            fewest.recall(&text, env.clock.monotonic(), env.clock.now());
        }
        Err(error) => tracing::warn!("what is known of nodes that joined lately is lost: {error:#}"),
    }
    let (book, world) = (Arc::clone(book), env.clone());
    let look = async move {
        let mut written = Vec::new();
        loop {
            if book.fewest_nodes().is_some() {
                save(&book, &path, &world, &mut written).await;
            }
            tokio::select! { () = world.clock.sleep(LOOK_EVERY) => {}, () = stop.cancelled() => return }
        }
    };
    env.spawn.task("ring-nodes", Box::pin(look));
}

fn read(env: &Env, path: &Path) -> anyhow::Result<String> {
    let shown = || format!("read {}", path.display());
    match env.fs.size(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        size => ensure!(
            size.with_context(shown)? <= TEXT_BYTES_MAX,
            "{} is no file of ours: it is too large",
            path.display()
        ),
    }
    String::from_utf8(env.fs.read(path).with_context(shown)?).with_context(shown)
}

/// Writes the file anew when what lasts is not what was `written`.
async fn save(book: &LimitBook, path: &Path, env: &Env, written: &mut Vec<(usize, Option<Duration>)>) {
    let (lasting, text) = {
        let fewest = book.fewest_nodes.lock();
        let text = fewest.text(env.clock.monotonic(), env.clock.now());
        (fewest.lasting(), text)
    };
    if lasting == *written {
        return;
    }
    let (fs, path) = (Arc::clone(&env.fs), path.to_owned());
    let work = move || {
        if let Err(error) = replace(&*fs, &path, text.as_bytes()) {
            tracing::warn!(%error, path = %path.display(), "cannot note how many nodes there are; tried again with the next change");
        }
    };
    env.spawn.blocking("ring-nodes", Box::new(work)).await;
    *written = lasting;
}

/// Puts a file in the place of an earlier one, never half: its bytes are safe before its name is. The name needs no sync: after a power
/// loss the earlier file says that the change was at the start, which is on the safe side.
fn replace(fs: &dyn model::env::Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    match fs.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs.create(&temporary)?;
    file.append(bytes)?;
    file.sync()?;
    fs.rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::env::{Fs, memory::MemoryFs};
    use std::path::PathBuf;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let fs = MemoryFs::new();
        let path = PathBuf::from("/data/ring-nodes");
        fs.create_dir(Path::new("/data")).unwrap();
        for text in ["3 1\n", "3 1\n4 2\n", "4 2\n"] {
            // Half of an attempt that a crash ended.
            let half = fs.create(&path.with_extension("tmp"));
            half.unwrap().append(b"half").unwrap();
            replace(&fs, &path, text.as_bytes()).unwrap();
            assert_eq!(fs.read(&path).unwrap(), text.as_bytes());
            assert_eq!(fs.list(Path::new("/data")).unwrap().len(), 1);
        }
    }
}
