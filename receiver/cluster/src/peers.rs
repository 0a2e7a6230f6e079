//! How members talk: bytes there, bytes back. What carries them (gRPC) implements [`Peers`]; what they say is [`Request`] and [`Answer`].
//!
//! A request names the member that it is meant for, and another one refuses it: an address that was given to a node of another ring must
//! not lead that node to obey a strange leader. Messages are JSON; the group says little, and what it says can be read in a trace.

use crate::{
    document::{Command, Document, DocumentError},
    member::MemberId,
    store::TypeConfig,
};
use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::{
    error::{InstallSnapshotError, RaftError},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Largest message in either direction: the largest document and some.
pub const MESSAGE_BYTES_MAX: usize = crate::document::DOCUMENT_BYTES_MAX + (1 << 20);

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Which member; not known of a node that was only given by its address.
    pub id: Option<MemberId>,
    /// Where it is reached: `host:port`.
    pub address: String,
}

/// Why a message got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The other side was not reached, or did not answer in time.
    #[error("{0}")]
    Unreachable(String),
    /// The other side does not understand the message, or is not who it is for.
    #[error("{0}")]
    Refused(String),
}

/// Carries messages to other members. Messages to one member may overtake each other and may be carried at the same time. The caller
/// gives up by dropping the future.
pub trait Peers: Send + Sync + 'static {
    /// Sends a request and waits for the answer.
    fn send(&self, to: Destination, request: Bytes) -> BoxFuture<'static, Result<Bytes, PeerError>>;
}

/// A request and whom it is for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// The member that is to answer; anyone when it was not known.
    pub(crate) to: Option<MemberId>,
    pub(crate) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Entries of the log, or a sign of life, from the leader.
    Append(AppendEntriesRequest<TypeConfig>),
    /// A vote is asked for.
    Vote(VoteRequest<MemberId>),
    /// A piece of a snapshot from the leader.
    Snapshot(InstallSnapshotRequest<TypeConfig>),
    /// A change of the document; only the leader takes it.
    Propose(Command),
    /// The document, if it is newer than the asker's.
    Document { newer_than: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Append(Result<AppendEntriesResponse<MemberId>, RaftError<MemberId>>),
    Vote(Result<VoteResponse<MemberId>, RaftError<MemberId>>),
    Snapshot(Result<InstallSnapshotResponse<MemberId>, RaftError<MemberId, InstallSnapshotError>>),
    /// The epoch that the change led to, or why it does not fit.
    Proposed(Result<u64, DocumentError>),
    /// Not the leader, but perhaps that one is.
    NotLeader(Option<Destination>),
    /// No leader that could take the change, or it could not get it agreed on in time.
    NotAgreed(String),
    /// The document; none when the asker's is as new.
    Document(Option<Document>),
}

/// Writes a message.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, PeerError> {
    let bytes = serde_json::to_vec(message).map_err(|error| PeerError::Refused(format!("write a message: {error}")))?;
    match bytes.len() {
        0..=MESSAGE_BYTES_MAX => Ok(bytes.into()),
        length => Err(PeerError::Refused(format!(
            "a message of {length} bytes, at most {MESSAGE_BYTES_MAX} are sent"
        ))),
    }
}

/// Reads a message.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PeerError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        let length = bytes.len();
        return Err(PeerError::Refused(format!(
            "a message of {length} bytes, at most {MESSAGE_BYTES_MAX} are read"
        )));
    }
    serde_json::from_slice(bytes).map_err(|error| PeerError::Refused(format!("read a message: {error}")))
}
