//! The members' agreement on the ring document, as the rest of the node sees it.
//!
//! A node opens its [`Group`] at start-up, founds a ring or joins one, and from then on has the current document at hand: [`Group::document`]
//! and [`Group::watch`] answer from memory, with or without a leader. Changes are proposed by [`Group::propose`] and agreed on by up to
//! five voters. Who votes and who learns follows the document: the leader sees to it.
//!
//! openraft runs its own tasks and timers on tokio; everything else goes by the clock and the tasks that are handed in.

mod caretaker;

use crate::{
    disk::DiskError,
    document::{Command, Document, DocumentError, Newcomer},
    member::{MemberError, MemberId, check_address},
    metrics::Metrics,
    network::{Network, within},
    peers::{Answer, Destination, Envelope, PeerError, Peers, Request, decode, encode},
    store::{self, TypeConfig},
};
use bytes::Bytes;
use model::env::{Clock, Rng, Spawn};
use openraft::{
    BasicNode, Raft, ServerState, SnapshotPolicy,
    error::{ClientWriteError, InitializeError, RaftError},
    raft::InstallSnapshotRequest,
};
use prometheus_client::registry::Registry;
use std::{
    collections::{BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Changes after which the log is cut and a snapshot taken.
const SNAPSHOT_AFTER: u64 = 1000;

/// Entries that stay in the log behind a snapshot, for members that are a little behind.
const ENTRIES_KEPT: u64 = 500;

/// Bytes of a snapshot in one message; as JSON they take about four times as many.
const SNAPSHOT_PIECE_BYTES: u64 = 256 << 10;

/// Pauses between attempts to get a change agreed on: from the first, doubling, to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// How a group works.
#[derive(Debug, Clone)]
pub struct GroupSettings {
    /// The folder of the group's database; it belongs to the group alone.
    pub dir: PathBuf,
    /// How often the leader gives a sign of life. A message and a disk write must fit into it.
    pub heartbeat: Duration,
    /// How long members wait for one before they elect another leader: a random time from this to twice this.
    pub election: Duration,
    /// How long a change may take to be agreed on.
    pub propose_limit: Duration,
}

impl GroupSettings {
    /// Settings for a group in `dir`: a lost leader is replaced within some eight seconds, during which only changes of the ring wait.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            heartbeat: Duration::from_millis(500),
            election: Duration::from_secs(2),
            propose_limit: Duration::from_secs(15),
        }
    }
}

/// What a group takes from its surroundings.
#[derive(Clone)]
pub struct GroupEnv {
    /// Background work.
    pub spawn: Arc<dyn Spawn>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub rng: Arc<dyn Rng>,
    /// The way to other members.
    pub peers: Arc<dyn Peers>,
}

/// Why a group cannot work.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Its database cannot be used.
    #[error("{0}")]
    Disk(#[from] DiskError),
    /// Its settings make no sense.
    #[error("settings of the cluster: {0}")]
    Settings(String),
    /// It stopped, for instance because its disk failed; it says so in the log, and the node must be started again.
    #[error("the cluster stopped on this node: {0}")]
    Stopped(String),
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It does not fit the document.
    #[error("{0}")]
    Refused(#[from] DocumentError),
    /// It was not agreed on in time. It may still be; asking again is safe.
    #[error("the change was not agreed on within {limit:?}: {reason}")]
    NotAgreed {
        /// How long was tried.
        limit: Duration,
        /// What the last attempt met.
        reason: String,
    },
}

/// How the group stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// This member.
    pub id: MemberId,
    /// The leader, if this member knows one.
    pub leader: Option<MemberId>,
    /// Members that decide.
    pub voters: BTreeSet<MemberId>,
    /// Members that learn.
    pub learners: BTreeSet<MemberId>,
    /// Counts the elections.
    pub term: u64,
    /// Why the group stopped on this node, if it did.
    pub stopped: Option<String>,
}

/// A member's part in the group. Clones are the same member.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    id: MemberId,
    raft: Raft<TypeConfig>,
    network: Network,
    document: watch::Receiver<Arc<Document>>,
    settings: GroupSettings,
    metrics: Metrics,
    /// Ends the caretaker when it becomes true or is dropped.
    stop: watch::Sender<bool>,
}

impl Group {
    /// Opens the group's database and takes part in the group that it belongs to, if it belongs to one.
    pub async fn open(settings: GroupSettings, env: GroupEnv, registry: &mut Registry) -> Result<Self, GroupError> {
        let config = raft_config(&settings)?;
        let opened = store::open(&settings.dir, Arc::clone(&env.spawn), &*env.rng).await?;
        let document = opened.published;
        let network = Network {
            peers: env.peers,
            clock: env.clock,
            document: document.clone(),
        };
        let raft = Raft::new(
            opened.id,
            Arc::new(config),
            network.clone(),
            opened.log,
            opened.documents,
        )
        .await;
        let raft = raft.map_err(|error| GroupError::Stopped(error.to_string()))?;
        let metrics = Metrics::register(registry);
        let (stop, stopped) = watch::channel(false);
        let inner = Arc::new(Inner {
            id: opened.id,
            raft,
            network,
            document,
            settings,
            metrics,
            stop,
        });
        caretaker::start(&inner, stopped, &*env.spawn);
        Ok(Self { inner })
    }

    /// After the loss of so many voters that the ring can never change again: lets this member go on alone, which must not be running.
    /// Done on more than one member it makes as many rings. Afterwards it is started as ever, leads, and the lost members are removed by
    /// force; members that live on follow it.
    pub async fn recover(dir: &Path, spawn: &dyn Spawn) -> Result<MemberId, GroupError> {
        Ok(store::make_sole_voter(dir, spawn).await?)
    }

    /// This member's id; it stays as long as its database.
    pub fn id(&self) -> MemberId {
        self.inner.id
    }

    /// The newest document that this member knows; the one of epoch 0 before it belongs to a ring.
    pub fn document(&self) -> Arc<Document> {
        Arc::clone(&self.inner.document.borrow())
    }

    /// The newest document and those that follow.
    pub fn watch(&self) -> watch::Receiver<Arc<Document>> {
        self.inner.document.clone()
    }

    /// Founds a ring with this member as its first.
    pub async fn found(&self, address: &str, zone: &str, weight: u32, factor: u32) -> Result<u64, ProposeError> {
        check_address(address).map_err(DocumentError::from)?;
        let node = BasicNode::new(address);
        match self
            .inner
            .raft
            .initialize(std::collections::BTreeMap::from([(self.inner.id, node)]))
            .await
        {
            // Not allowed when it was done before: by a start that ended between the two steps.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(self.inner.not_agreed(error.to_string())),
        }
        let member = self.newcomer(address, zone, weight);
        self.propose(Command::Found {
            member,
            replication_factor: factor,
        })
        .await
    }

    /// Announces this member to the ring that the members at `seeds` belong to, or to its own after a restart. It is JOINING afterwards
    /// if it was not in the ring; its share of the series comes with [`Command::Activate`].
    pub async fn join(&self, seeds: &[String], address: &str, zone: &str, weight: u32) -> Result<u64, ProposeError> {
        self.inner
            .propose(
                Command::Join {
                    member: self.newcomer(address, zone, weight),
                },
                seeds,
            )
            .await
    }

    fn newcomer(&self, address: &str, zone: &str, weight: u32) -> Newcomer {
        Newcomer {
            id: self.inner.id,
            address: address.to_owned(),
            zone: zone.to_owned(),
            weight,
        }
    }

    /// Gets a change agreed on and gives the epoch of the document with it. Any member can ask; this one's own document may follow a
    /// moment later ([`Group::wait_for`]).
    pub async fn propose(&self, command: Command) -> Result<u64, ProposeError> {
        self.inner.propose(command, &[]).await
    }

    /// Waits until this member's document has reached an epoch; `None` when that takes longer than `limit`.
    pub async fn wait_for(&self, epoch: u64, limit: Duration) -> Option<Arc<Document>> {
        let mut document = self.watch();
        let reached = document.wait_for(|document| document.epoch >= epoch);
        let reached = within(&*self.inner.network.clock, limit, reached).await?;
        reached.ok().map(|document| Arc::clone(&document))
    }

    /// Answers a request of another member that came over [`Peers`].
    pub async fn answer(&self, request: &[u8]) -> Result<Bytes, PeerError> {
        let envelope: Envelope = decode(request)?;
        let id = self.inner.id;
        if let Some(other) = envelope.to.filter(|to| *to != id) {
            return Err(PeerError::Refused(format!("this is member {id}, not {other}")));
        }
        encode(&self.inner.answer(envelope).await?)
    }

    /// How the group stands.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        GroupStatus {
            id: self.inner.id,
            leader: metrics.current_leader,
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            term: metrics.current_term,
            stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Ends this member's part in the group and closes its database.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "stop the cluster group");
        }
    }
}

fn raft_config(settings: &GroupSettings) -> Result<openraft::Config, GroupError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: "narthex".into(),
        heartbeat_interval: millis(settings.heartbeat),
        election_timeout_min: millis(settings.election),
        election_timeout_max: millis(settings.election).saturating_mul(2),
        install_snapshot_timeout: 20_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_AFTER),
        snapshot_max_chunk_size: SNAPSHOT_PIECE_BYTES,
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        ..openraft::Config::default()
    };
    config
        .validate()
        .map_err(|error| GroupError::Settings(error.to_string()))
}

impl Inner {
    fn not_agreed(&self, reason: String) -> ProposeError {
        ProposeError::NotAgreed {
            limit: self.settings.propose_limit,
            reason,
        }
    }

    async fn propose(&self, command: Command, seeds: &[String]) -> Result<u64, ProposeError> {
        self.metrics.proposals.inc();
        let mut reason = "no member of the ring is known".to_owned();
        let trying = self.try_until_agreed(command, seeds, &mut reason);
        let result = within(&*self.network.clock, self.settings.propose_limit, trying).await;
        let result = result.unwrap_or_else(|| Err(self.not_agreed(reason)));
        if result.is_err() {
            self.metrics.proposals_failed.inc();
        }
        result
    }

    /// Asks one member after the other, the likely leader first, until one has got the change agreed on or refuses it.
    async fn try_until_agreed(
        &self,
        command: Command,
        seeds: &[String],
        reason: &mut String,
    ) -> Result<u64, ProposeError> {
        let mut pause = PAUSE_FIRST;
        let mut told = String::new();
        loop {
            let mut candidates = self.candidates(seeds);
            let mut asked = 0;
            while let Some(candidate) = candidates.pop_front() {
                // Hints lead from one to the next; more than this many lead in a circle.
                asked += 1;
                if asked > 20 {
                    break;
                }
                match self.propose_to(&candidate, command.clone()).await {
                    Ok(Answer::Proposed(result)) => return result.map_err(ProposeError::from),
                    Ok(Answer::NotLeader(Some(leader))) if leader != candidate => candidates.push_front(leader),
                    Ok(Answer::NotLeader(_)) => *reason = format!("{} knows no leader", candidate.address),
                    Ok(Answer::NotAgreed(why)) => *reason = format!("{}: {why}", candidate.address),
                    Ok(_) => *reason = format!("{} answered another question", candidate.address),
                    Err(error) => *reason = format!("{}: {error}", candidate.address),
                }
            }
            // Who starts a node that may not join wants to know why at once, not when all attempts are over.
            if *reason != told {
                tracing::info!(reason, "a change of the ring is not agreed on yet; it is tried again");
                told.clone_from(reason);
            }
            self.network.clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }

    /// Whom to ask for a change: the leader, this member, the other voters, the seeds.
    fn candidates(&self, seeds: &[String]) -> VecDeque<Destination> {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let address = |id: MemberId| membership.get_node(&id).map_or("", |node| node.addr.as_str());
        let mut ids: Vec<MemberId> = metrics.current_leader.into_iter().collect();
        ids.extend(membership.voter_ids());
        let mut candidates: VecDeque<Destination> = VecDeque::new();
        let known = ids.into_iter().map(|id| self.network.destination(id, address(id)));
        let seeds = seeds.iter().map(|address| Destination {
            id: None,
            address: address.clone(),
        });
        for candidate in known.chain(seeds) {
            if !candidates.iter().any(|other| other.address == candidate.address) {
                candidates.push_back(candidate);
            }
        }
        candidates
    }

    async fn propose_to(&self, candidate: &Destination, command: Command) -> Result<Answer, PeerError> {
        if candidate.id == Some(self.id) {
            return Ok(self.propose_here(command).await);
        }
        // Long enough to commit, short enough to ask another one when this one hangs.
        let limit = self.settings.propose_limit / 3;
        self.network
            .ask(candidate.clone(), Request::Propose(command), limit)
            .await
    }

    /// Gets a change agreed on if this member leads.
    async fn propose_here(&self, command: Command) -> Answer {
        let write = within(
            &*self.network.clock,
            self.settings.propose_limit / 4,
            self.raft.client_write(command),
        );
        match write.await {
            Some(Ok(response)) => Answer::Proposed(response.data),
            Some(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(leader)))) => {
                let address = leader.leader_node.map(|node| node.addr).unwrap_or_default();
                Answer::NotLeader(leader.leader_id.map(|id| self.network.destination(id, &address)))
            }
            Some(Err(error)) => Answer::NotAgreed(error.to_string()),
            None => Answer::NotAgreed("too few voters answer".into()),
        }
    }

    async fn answer(&self, envelope: Envelope) -> Result<Answer, PeerError> {
        let meant = envelope.to.is_some();
        Ok(match envelope.request {
            Request::Append(_) | Request::Vote(_) | Request::Snapshot(_) if !meant => {
                return Err(PeerError::Refused("a message of the group that names no member".into()));
            }
            Request::Append(request) => Answer::Append(self.raft.append_entries(request).await),
            Request::Vote(request) => Answer::Vote(self.raft.vote(request).await),
            Request::Snapshot(request) => {
                check_piece(&request)?;
                Answer::Snapshot(self.raft.install_snapshot(request).await)
            }
            Request::Propose(command) => self.propose_here(command).await,
            Request::Document { newer_than } => {
                let document = Arc::clone(&self.document.borrow());
                Answer::Document((document.epoch > newer_than).then(|| (*document).clone()))
            }
        })
    }

    fn is_leader(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader
    }
}

/// A snapshot is put together in memory at the offsets that its pieces name.
fn check_piece(piece: &InstallSnapshotRequest<TypeConfig>) -> Result<(), PeerError> {
    let end = piece.offset.saturating_add(piece.data.len() as u64);
    match end <= crate::document::DOCUMENT_BYTES_MAX as u64 {
        true => Ok(()),
        false => Err(PeerError::Refused(format!(
            "a snapshot of {end} bytes is larger than any document"
        ))),
    }
}

impl From<MemberError> for ProposeError {
    fn from(error: MemberError) -> Self {
        ProposeError::Refused(error.into())
    }
}

#[cfg(test)]
mod tests;
