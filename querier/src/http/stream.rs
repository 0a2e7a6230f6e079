//! Bodies that are written while the client reads them.
//!
//! A few pieces wait at most. A client that stops reading, or reads too slowly, gets a broken answer after the time for sending, and
//! what was left of the result is freed; one that leaves ends the writing at once.

use crate::querier::Querier;
use axum::body::Body;
use bytes::Bytes;
use futures::{
    StreamExt,
    future::{Either, select},
    stream,
};
use std::{future::Future, io, pin::pin, sync::Arc};
use tokio::sync::mpsc;

/// Pieces of an answer that wait for the client.
const PIECES_MAX: usize = 2;

/// What travels to the client's side.
enum Piece {
    Bytes(Bytes),
    /// All was written. Without it the answer is torn, and the client must not take it for whole.
    End,
}

/// Where a writer puts the pieces.
pub(super) struct Pieces {
    sender: mpsc::Sender<Piece>,
}

/// Why a body ends early.
pub(super) enum Torn {
    /// The client left.
    Gone,
    /// The rest could not be made.
    Failed(String),
}

impl Pieces {
    /// Waits until there is room for `bytes` and puts them there.
    pub(super) async fn send(&self, bytes: Vec<u8>) -> Result<(), Torn> {
        let piece = Piece::Bytes(Bytes::from(bytes));
        self.sender.send(piece).await.map_err(|_| Torn::Gone)
    }
}

/// A body that `write` fills.
pub(super) fn body<W, F>(querier: &Arc<Querier>, write: W) -> Body
where
    W: FnOnce(Arc<Pieces>) -> F,
    F: Future<Output = Result<(), Torn>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let pieces = Arc::new(Pieces { sender: sender.clone() });
    let writing = write(pieces);
    let owner = querier.clone();
    let bounded = async move {
        let (writing, left) = (pin!(writing), pin!(sender.closed()));
        let work = owner.within(owner.settings.send_timeout, select(writing, left));
        let written = match work.await {
            Some(Either::Left((written, _))) => written,
            Some(Either::Right(_)) => Err(Torn::Gone),
            None => Err(Torn::Failed("it was not read in time".to_owned())),
        };
        match written {
            // The client is at the last pieces; whether it leaves now makes no difference.
            Ok(()) => drop(owner.within(owner.settings.send_timeout, sender.send(Piece::End)).await),
            Err(Torn::Gone) => {}
            Err(Torn::Failed(reason)) => tracing::info!(reason, "an answer is broken off; so is its connection"),
        }
    };
    querier.env.spawn.task("send answer", Box::pin(bounded));
    // Compression asks once more after the end.
    Body::from_stream(stream::unfold(Some(receiver), next_piece).fuse())
}

/// The next piece; an error when the writer gave up before the last one.
async fn next_piece(
    receiver: Option<mpsc::Receiver<Piece>>,
) -> Option<(io::Result<Bytes>, Option<mpsc::Receiver<Piece>>)> {
    let mut receiver = receiver?;
    match receiver.recv().await {
        Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(receiver))),
        Some(Piece::End) => None,
        None => {
            let text = "the answer was not read in time, or its rest could not be made";
            Some((Err(io::Error::new(io::ErrorKind::BrokenPipe, text)), None))
        }
    }
}
