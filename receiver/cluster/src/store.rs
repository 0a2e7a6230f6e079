//! What a member of the group remembers: log, vote, and the document that the log leads to.
//!
//! openraft calls it and promises to write one thing at a time. Everything that it must not forget is on the disk before a call returns
//! or its callback is called. The work blocks and therefore runs where `Spawn::blocking` puts it; reads are small and done in place.
//! The document is stored with each change of it and needs no replay at start-up; a snapshot is a document with its place in the log.

use crate::{
    disk::{Disk, DiskError},
    document::{Command, DOCUMENT_BYTES_MAX, Document, DocumentError},
    member::MemberId,
};
use model::env::{Rng, Spawn};
use openraft::{
    BasicNode, CommittedLeaderId, Entry, EntryPayload, ErrorSubject, ErrorVerb, LogId, LogState, RaftLogReader,
    RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership, Vote,
    storage::{LogFlushed, RaftLogStorage, RaftStateMachine},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    io::Cursor,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::Arc,
};
use tokio::sync::{oneshot, watch};

openraft::declare_raft_types!(
    /// The types of the group: its log carries commands, and a command gives the epoch that it led to or why it did not fit.
    pub TypeConfig:
        D = Command,
        R = Result<u64, DocumentError>,
        NodeId = MemberId,
        Node = BasicNode,
);

type Membership = StoredMembership<MemberId, BasicNode>;

/// Bytes of one value in the database, which keeps larger ones as files of their own.
const VALUE_BYTES_MAX: usize = 128 << 10;

/// How far the document has come in the log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Applied {
    log_id: Option<LogId<MemberId>>,
    membership: Membership,
}

/// The database and where work on it runs.
#[derive(Clone)]
struct Handle {
    disk: Arc<Disk>,
    spawn: Arc<dyn Spawn>,
}

/// The log and the vote.
#[derive(Clone)]
pub(crate) struct LogStore(Handle);

/// The document as far as the log is agreed on.
pub(crate) struct DocumentStore {
    handle: Handle,
    applied: Applied,
    published: watch::Sender<Arc<Document>>,
}

/// Makes a snapshot of the document as it was when it was asked for.
pub(crate) struct SnapshotBuilder {
    handle: Handle,
    applied: Applied,
    document: Arc<Document>,
}

/// What [`open`] finds.
pub(crate) struct Opened {
    /// Who this member is.
    pub(crate) id: MemberId,
    pub(crate) log: LogStore,
    pub(crate) documents: DocumentStore,
    /// The document, and those that follow.
    pub(crate) published: watch::Receiver<Arc<Document>>,
}

/// Opens the memory of a member; the first time it gets an id at random.
pub(crate) async fn open(path: &Path, spawn: Arc<dyn Spawn>, rng: &dyn Rng) -> Result<Opened, DiskError> {
    let fresh = MemberId::from_random(rng.next_u64());
    let path = path.to_owned();
    let (disk, id, applied, document) = blocking(&*spawn, move || {
        let disk = Disk::open(&path)?;
        let id = disk.identity(fresh)?;
        let applied = disk.get("applied")?.unwrap_or_default();
        let document = disk.get_document("document")?.unwrap_or_default();
        Ok((disk, id, applied, document))
    })
    .await?;
    let handle = Handle {
        disk: Arc::new(disk),
        spawn,
    };
    let (sender, published) = watch::channel(Arc::new(document));
    let documents = DocumentStore {
        handle: handle.clone(),
        applied,
        published: sender,
    };
    Ok(Opened {
        id,
        log: LogStore(handle),
        documents,
        published,
    })
}

/// Makes this member the only voter, in its closed database, so that it can lead without the others: they are lost. What it knew and was
/// not agreed on yet will be. Members that live on learn from it, and what they knew beyond it is dropped.
pub(crate) async fn make_sole_voter(path: &Path, spawn: &dyn Spawn) -> Result<MemberId, DiskError> {
    let path = path.to_owned();
    blocking(spawn, move || {
        let disk = Disk::open(&path)?;
        let Some(id) = disk.get::<MemberId>("id")? else {
            return Err(disk.malformed("no id", "there was never a member here"));
        };
        let applied: Applied = disk.get("applied")?.unwrap_or_default();
        let last = disk.last_log_id()?.max(applied.log_id);
        let Some(last) = last else {
            return Err(disk.malformed("no log", "this node never belonged to a ring"));
        };
        let vote: Vote<MemberId> = disk.get("vote")?.unwrap_or_default();
        // A term that nobody has used: what others have agreed on without this member is older than it.
        let term = vote.leader_id().get_term().max(last.leader_id.get_term()) + TERMS_AHEAD;
        let nodes: BTreeMap<MemberId, BasicNode> = applied
            .membership
            .nodes()
            .map(|(id, node)| (*id, node.clone()))
            .collect();
        let nodes = if nodes.contains_key(&id) {
            nodes
        } else {
            BTreeMap::from([(id, BasicNode::default())])
        };
        let entry = Entry::<TypeConfig> {
            log_id: LogId::new(CommittedLeaderId::new(term, id), last.index + 1),
            payload: EntryPayload::Membership(openraft::Membership::new(vec![BTreeSet::from([id])], nodes)),
        };
        let value = serde_json::to_vec(&entry).map_err(|error| disk.malformed("an entry of the log", error))?;
        disk.log
            .insert(entry.log_id.index.to_be_bytes(), value)
            .map_err(|error| disk.error("write", error))?;
        disk.put("vote", &Vote::new(term, id))?;
        disk.sync()?;
        Ok(id)
    })
    .await
}

/// How far the term of a member that is made the only voter jumps ahead, past elections that it has not heard of.
const TERMS_AHEAD: u64 = 1_000_000;

/// Runs work that blocks and waits for what it gives.
async fn blocking<T: Send + 'static>(
    spawn: &dyn Spawn,
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    let (sender, receiver) = oneshot::channel();
    spawn
        .blocking("cluster-store", Box::new(move || drop(sender.send(work()))))
        .await;
    receiver.await.unwrap_or_else(|_| {
        let error = std::io::Error::other("the work was dropped: the process is stopping");
        Err(DiskError::Io {
            verb: "work on",
            path: "the cluster's database".into(),
            error,
        })
    })
}

impl Handle {
    /// Runs work on the database and makes it durable.
    async fn write<T: Send + 'static>(
        &self,
        subject: ErrorSubject<MemberId>,
        work: impl FnOnce(&Disk) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, StorageError<MemberId>> {
        let disk = Arc::clone(&self.disk);
        let work = move || {
            let result = work(&disk)?;
            disk.sync()?;
            Ok(result)
        };
        blocking(&*self.spawn, work)
            .await
            .map_err(|error| failed(subject, ErrorVerb::Write, &error))
    }
}

fn failed(subject: ErrorSubject<MemberId>, verb: ErrorVerb, error: &DiskError) -> StorageError<MemberId> {
    StorageIOError::new(subject, verb, openraft::AnyError::new(error)).into()
}

fn unread(subject: ErrorSubject<MemberId>) -> impl Fn(DiskError) -> StorageError<MemberId> {
    move |error| failed(subject.clone(), ErrorVerb::Read, &error)
}

impl Disk {
    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, DiskError> {
        let value = self.state.get(key).map_err(|error| self.error("read", error))?;
        value
            .map(|value| serde_json::from_slice(&value).map_err(|error| self.malformed(key, error)))
            .transpose()
    }

    fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<(), DiskError> {
        let value = serde_json::to_vec(value).map_err(|error| self.malformed(key, error))?;
        self.state
            .insert(key, value)
            .map(drop)
            .map_err(|error| self.error("write", error))
    }

    fn identity(&self, fresh: MemberId) -> Result<MemberId, DiskError> {
        if let Some(id) = self.get::<u64>("id")? {
            return MemberId::new(id).ok_or_else(|| self.malformed("an id", id));
        }
        self.put("id", &fresh)?;
        self.sync()?;
        Ok(fresh)
    }

    /// The document stored in pieces under a name.
    fn get_document(&self, name: &str) -> Result<Option<Document>, DiskError> {
        let mut bytes = Vec::new();
        for piece in self.state.scan_prefix(format!("{name}/")) {
            let (_, value) = piece.map_err(|error| self.error("read", error))?;
            if bytes.len() + value.len() > DOCUMENT_BYTES_MAX {
                return Err(self.malformed(name, format!("more than {DOCUMENT_BYTES_MAX} bytes")));
            }
            bytes.extend_from_slice(&value);
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        Document::from_json(&bytes)
            .map(Some)
            .map_err(|error| self.malformed(name, error))
    }

    /// Adds to `batch` what replaces the document stored under a name.
    fn replace_document(&self, batch: &mut sled::Batch, name: &str, json: &[u8]) -> Result<(), DiskError> {
        for key in self.state.scan_prefix(format!("{name}/")).keys() {
            batch.remove(key.map_err(|error| self.error("read", error))?);
        }
        for (number, piece) in json.chunks(VALUE_BYTES_MAX).enumerate() {
            batch.insert(format!("{name}/{number:06}").as_bytes(), piece);
        }
        Ok(())
    }

    /// Writes several values of the state in one step.
    fn write_state<T: Serialize>(&self, values: &[(&str, &T)], documents: &[(&str, &[u8])]) -> Result<(), DiskError> {
        let mut batch = sled::Batch::default();
        for (key, value) in values {
            batch.insert(
                *key,
                serde_json::to_vec(value).map_err(|error| self.malformed(*key, error))?,
            );
        }
        for (name, json) in documents {
            self.replace_document(&mut batch, name, json)?;
        }
        self.state
            .apply_batch(batch)
            .map_err(|error| self.error("write", error))
    }

    fn entry(&self, value: &[u8]) -> Result<Entry<TypeConfig>, DiskError> {
        serde_json::from_slice(value).map_err(|error| {
            let why = format!("{error} (an entry of a newer version is read after an upgrade of this node)");
            self.malformed("an entry of the log", why)
        })
    }

    /// The last entry of the log, or where it was cut when nothing is left of it.
    fn last_log_id(&self) -> Result<Option<LogId<MemberId>>, DiskError> {
        match self.log.last().map_err(|error| self.error("read", error))? {
            Some((_, value)) => Ok(Some(self.entry(&value)?.log_id)),
            None => self.get("purged"),
        }
    }

    /// Removes the log entries in a range.
    fn remove_entries(&self, range: impl RangeBounds<[u8; 8]>) -> Result<(), DiskError> {
        let mut batch = sled::Batch::default();
        for key in self.log.range(range).keys() {
            batch.remove(key.map_err(|error| self.error("read", error))?);
        }
        self.log.apply_batch(batch).map_err(|error| self.error("write", error))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<TypeConfig>>, StorageError<MemberId>> {
        let disk = &self.0.disk;
        let bound = |bound: Bound<&u64>| bound.map(|index| index.to_be_bytes());
        let mut entries = Vec::new();
        for item in disk
            .log
            .range::<[u8; 8], _>((bound(range.start_bound()), bound(range.end_bound())))
        {
            let entry = item
                .map_err(|error| disk.error("read", error))
                .and_then(|(_, value)| disk.entry(&value));
            entries.push(entry.map_err(unread(ErrorSubject::Logs))?);
        }
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<MemberId>> {
        let disk = &self.0.disk;
        let read = || -> Result<_, DiskError> {
            Ok(LogState {
                last_purged_log_id: disk.get("purged")?,
                last_log_id: disk.last_log_id()?,
            })
        };
        read().map_err(unread(ErrorSubject::Logs))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<MemberId>) -> Result<(), StorageError<MemberId>> {
        let vote = *vote;
        self.0
            .write(ErrorSubject::Vote, move |disk| disk.put("vote", &vote))
            .await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<MemberId>>, StorageError<MemberId>> {
        self.0.disk.get("vote").map_err(unread(ErrorSubject::Vote))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError<MemberId>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + Send,
    {
        let entries: Vec<Entry<TypeConfig>> = entries.into_iter().collect();
        let written = self.0.write(ErrorSubject::Logs, move |disk| {
            let mut batch = sled::Batch::default();
            for entry in entries {
                let value = serde_json::to_vec(&entry).map_err(|error| disk.malformed("an entry of the log", error))?;
                batch.insert(&entry.log_id.index.to_be_bytes(), value);
            }
            disk.log
                .apply_batch(batch)
                .map_err(|error| disk.error("append to the log in", error))
        });
        written.await?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<MemberId>) -> Result<(), StorageError<MemberId>> {
        let first = log_id.index.to_be_bytes();
        self.0
            .write(ErrorSubject::Log(log_id), move |disk| disk.remove_entries(first..))
            .await
    }

    async fn purge(&mut self, log_id: LogId<MemberId>) -> Result<(), StorageError<MemberId>> {
        // A log whose beginning is missing must say so, hence this first and durable before the entries go.
        self.0
            .write(ErrorSubject::Log(log_id), move |disk| disk.put("purged", &log_id))
            .await?;
        let last = log_id.index.to_be_bytes();
        self.0
            .write(ErrorSubject::Log(log_id), move |disk| disk.remove_entries(..=last))
            .await
    }
}

impl RaftStateMachine<TypeConfig> for DocumentStore {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId<MemberId>>, Membership), StorageError<MemberId>> {
        Ok((self.applied.log_id, self.applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Result<u64, DocumentError>>, StorageError<MemberId>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let before = Arc::clone(&self.published.borrow());
        let mut document = Arc::clone(&before);
        let mut applied = self.applied.clone();
        let mut answers = Vec::new();
        for entry in entries {
            applied.log_id = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Ok(document.epoch),
                EntryPayload::Membership(membership) => {
                    applied.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Ok(document.epoch)
                }
                EntryPayload::Normal(command) => document.apply(&command).map(|next| {
                    document = Arc::new(next);
                    document.epoch
                }),
            });
        }
        let json = (document.epoch != before.epoch).then(|| document.to_json());
        let stored = applied.clone();
        let write = self.handle.write(ErrorSubject::StateMachine, move |disk| {
            let documents = json.as_deref().map(|json| ("document", json));
            disk.write_state(&[("applied", &stored)], documents.as_slice())
        });
        write.await?;
        self.applied = applied;
        // Published only now: whoever acts on a document must find it again after a crash.
        self.published.send_if_modified(|published| {
            let changed = published.epoch != document.epoch;
            *published = document;
            changed
        });
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let document = Arc::clone(&self.published.borrow());
        SnapshotBuilder {
            handle: self.handle.clone(),
            applied: self.applied.clone(),
            document,
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<MemberId>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<MemberId, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<MemberId>> {
        let json = snapshot.into_inner();
        let document = Document::from_json(&json).map_err(|error| {
            let error = self.handle.disk.malformed("a snapshot from the leader", error);
            failed(ErrorSubject::Snapshot(Some(meta.signature())), ErrorVerb::Read, &error)
        })?;
        let applied = Applied {
            log_id: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        let (stored, meta) = (applied.clone(), meta.clone());
        let write = self.handle.write(ErrorSubject::StateMachine, move |disk| {
            disk.write_state(&[("applied", &stored)], &[("document", &json)])?;
            disk.write_state(&[("snapshot", &meta)], &[("snapshot", &json)])
        });
        write.await?;
        self.applied = applied;
        self.published.send_replace(Arc::new(document));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<MemberId>> {
        let disk = &self.handle.disk;
        let read = || -> Result<_, DiskError> {
            let Some(meta) = disk.get("snapshot")? else {
                return Ok(None);
            };
            let Some(document) = disk.get_document("snapshot")? else {
                return Ok(None);
            };
            Ok(Some(Snapshot {
                meta,
                snapshot: Box::new(Cursor::new(document.to_json())),
            }))
        };
        read().map_err(unread(ErrorSubject::Snapshot(None)))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<MemberId>> {
        let place = self
            .applied
            .log_id
            .map_or_else(|| "start".into(), |log_id| log_id.to_string());
        let meta = SnapshotMeta {
            last_log_id: self.applied.log_id,
            last_membership: self.applied.membership.clone(),
            snapshot_id: format!("{}-{place}", self.document.epoch),
        };
        let json = self.document.to_json();
        let (stored, bytes) = (meta.clone(), json.clone());
        let write = self
            .handle
            .write(ErrorSubject::Snapshot(Some(meta.signature())), move |disk| {
                disk.write_state(&[("snapshot", &stored)], &[("snapshot", &bytes)])
            });
        write.await?;
        Ok(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(json)),
        })
    }
}

#[cfg(test)]
mod tests;
