//! Carries openraft's messages over [`Peers`].
//!
//! A peer that does not answer is always reported as unreachable: any other failure openraft repeats at once and without end.

use crate::{
    document::Document,
    member::MemberId,
    peers::{Answer, Destination, Envelope, PeerError, Peers, Request, decode, encode},
    store::TypeConfig,
};
use futures::future::{Either, select};
use model::env::Clock;
use openraft::{
    AnyError, BasicNode, RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::sync::watch;

/// Pauses between attempts to reach a peer: from the first, doubling, to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(2);

/// Asks members, given a way to reach them.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where members are now; the group's own list may have old addresses.
    pub(crate) document: watch::Receiver<Arc<Document>>,
}

/// Asks one member.
pub(crate) struct Line {
    network: Network,
    id: MemberId,
    /// Where it was when it came into the group.
    address: String,
}

/// What `future` gives, unless it takes longer than `limit`.
pub(crate) async fn within<T>(clock: &dyn Clock, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(std::pin::pin!(future), clock.sleep(limit)).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

impl Network {
    /// Sends one request and waits for the answer, no longer than `limit`.
    pub(crate) async fn ask(&self, to: Destination, request: Request, limit: Duration) -> Result<Answer, PeerError> {
        let envelope = encode(&Envelope { to: to.id, request })?;
        let address = to.address.clone();
        match within(&*self.clock, limit, self.peers.send(to, envelope)).await {
            Some(answer) => decode(&answer?),
            None => Err(PeerError::Unreachable(format!(
                "{address} did not answer within {limit:?}"
            ))),
        }
    }

    /// Where a member is reached: as the document says, or as it said when it came.
    pub(crate) fn destination(&self, id: MemberId, fallback: &str) -> Destination {
        let known = self.document.borrow().member(id).map(|member| member.address.clone());
        Destination {
            id: Some(id),
            address: known.unwrap_or_else(|| fallback.to_owned()),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Line;

    async fn new_client(&mut self, target: MemberId, node: &BasicNode) -> Line {
        Line {
            network: self.clone(),
            id: target,
            address: node.addr.clone(),
        }
    }
}

type Failure<E> = RPCError<MemberId, BasicNode, RaftError<MemberId, E>>;

impl Line {
    async fn ask<E: std::error::Error>(&self, request: Request, option: &RPCOption) -> Result<Answer, Failure<E>> {
        let to = self.network.destination(self.id, &self.address);
        let answer = self.network.ask(to, request, option.soft_ttl()).await;
        answer.map_err(|error| unreachable(&error))
    }

    #[expect(clippy::result_large_err, reason = "openraft's type")]
    fn remote<T, E: std::error::Error>(&self, result: Result<T, RaftError<MemberId, E>>) -> Result<T, Failure<E>> {
        result.map_err(|error| RPCError::RemoteError(RemoteError::new(self.id, error)))
    }
}

fn unreachable<E: std::error::Error>(error: &PeerError) -> Failure<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn unexpected<E: std::error::Error>(answer: &Answer) -> Failure<E> {
    let error = AnyError::error(format!("an answer to another question: {answer:?}"));
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetwork<TypeConfig> for Line {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<MemberId>, Failure<openraft::error::Infallible>> {
        match self.ask(Request::Append(request), &option).await? {
            Answer::Append(result) => self.remote(result),
            other => Err(unexpected(&other)),
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<MemberId>, Failure<InstallSnapshotError>> {
        match self.ask(Request::Snapshot(request), &option).await? {
            Answer::Snapshot(result) => self.remote(result),
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<MemberId>,
        option: RPCOption,
    ) -> Result<VoteResponse<MemberId>, Failure<openraft::error::Infallible>> {
        match self.ask(Request::Vote(request), &option).await? {
            Answer::Vote(result) => self.remote(result),
            other => Err(unexpected(&other)),
        }
    }

    fn backoff(&self) -> Backoff {
        let doubled = std::iter::successors(Some(PAUSE_FIRST), |pause| Some((*pause * 2).min(PAUSE_LAST)));
        Backoff::new(doubled)
    }
}
