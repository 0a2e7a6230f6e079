//! The life of the sessions of a push client: opened, watched for silence, given up, opened again.

use super::{Session, Shared, State};
use crate::{
    grpc::{causes, endpoint, push_server::PATH, raw::Raw},
    push::{MESSAGE_BYTES_MAX, PROTOCOL_VERSION, ServerMessage, read_server_message, write_ping},
};
use bytes::Bytes;
use futures::{
    StreamExt,
    channel::mpsc::{UnboundedSender, unbounded},
    future::{Either, select},
};
use http::uri::PathAndQuery;
use model::env::Clock;
use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};
use tonic::{Code, Request, Status, Streaming, client::Grpc};

/// What `future` gives, unless it takes longer than `limit`.
pub(super) async fn within<T>(clock: &dyn Clock, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), clock.sleep(limit)).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

/// Keeps a session open until the client is dropped.
pub(super) async fn keep_open(weak: Weak<Shared>, clock: Arc<dyn Clock>) {
    let mut pause = None;
    loop {
        let Some(shared) = weak.upgrade() else { return };
        let (first, last) = (shared.settings.pause_first, shared.settings.pause_last);
        let reason = match open(&shared).await {
            Ok((session, messages)) => {
                tracing::info!(peer = shared.address, "push session open");
                shared.counts.sessions.fetch_add(1, Ordering::Relaxed);
                shared.silent.store(false, Ordering::Relaxed);
                let send = session.send.clone();
                // What came too late for the end of the session before.
                shared.fail_all("the session ended before the answer");
                shared.state.send_replace(State::Open(session));
                pause = None;
                let settings = shared.settings.clone();
                drop(shared);
                listen(&weak, &*clock, &settings, messages, send).await
            }
            Err(reason) => {
                drop(shared);
                reason
            }
        };
        let Some(shared) = weak.upgrade() else { return };
        if !matches!(*shared.state.borrow(), State::Away(_)) {
            tracing::warn!(peer = shared.address, reason, "push session lost; dialling again");
        }
        shared.state.send_replace(State::Away(reason.as_str().into()));
        shared.fail_all(&reason);
        drop(shared);
        let next = pause.map_or(first, |pause: Duration| (pause * 2).min(last));
        pause = Some(next);
        clock.sleep(next).await;
    }
}

/// Opens a session and waits for its hello.
async fn open(shared: &Shared) -> Result<(Session, Streaming<Bytes>), String> {
    let opening = async {
        let connector = shared.settings.security.connector();
        let channel = endpoint(&shared.address)?.connect_with_connector(connector).await;
        let channel = channel.map_err(|error| causes(&error))?;
        let (send, outgoing) = unbounded();
        let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|error| causes(&error))?;
        let path = PathAndQuery::from_static(PATH);
        let answer = grpc.streaming(Request::new(outgoing), path, Raw).await;
        // A server says so at once, or, when something stands before it, with the end of the stream.
        let refused = |status: Status| {
            let is_foreign = status.code() == Code::Unimplemented;
            shared.foreign.store(is_foreign, Ordering::Relaxed);
            causes(&status)
        };
        let mut messages = answer.map_err(refused)?.into_inner();
        let hello = messages.message().await.map_err(refused)?;
        shared.foreign.store(false, Ordering::Relaxed);
        let hello = hello.ok_or("the session ended before it began")?;
        let process = match read_server_message(&hello) {
            Ok(ServerMessage::Hello { version, process }) if version >= PROTOCOL_VERSION => process,
            Ok(ServerMessage::Hello { version, .. }) => {
                return Err(format!(
                    "speaks version {version} of the protocol, {PROTOCOL_VERSION} is needed"
                ));
            }
            Ok(_) => return Err("began with something other than hello".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        let life = shared.lives.next().ok_or("too many sessions; restart this process")?;
        let process = Some(process).filter(|process| *process != 0);
        Ok((Session { life, process, send }, messages))
    };
    let limit = shared.settings.open_time_max;
    let opened = within(&*shared.clock, limit, opening).await;
    opened.unwrap_or_else(|| Err(format!("no session within {limit:?}")))
}

/// How often silence is looked at.
const TICK: Duration = Duration::from_millis(200);

/// Silence after which the peer is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_millis(500);

/// Hands answers to those who wait, until the session ends; gives the reason.
async fn listen(
    weak: &Weak<Shared>,
    clock: &dyn Clock,
    settings: &super::PushClientSettings,
    mut messages: Streaming<Bytes>,
    send: UnboundedSender<Bytes>,
) -> String {
    let mut heard = clock.monotonic();
    // When a sign of life was asked for, as long as none came.
    let mut asked: Option<Duration> = None;
    let mut tick = clock.sleep(TICK);
    loop {
        let message = match select(messages.next(), &mut tick).await {
            Either::Left((message, _)) => Some(message),
            Either::Right(_) => {
                tick = clock.sleep(TICK);
                None
            }
        };
        let Some(shared) = weak.upgrade() else {
            return "not needed any more".to_owned();
        };
        let now = clock.monotonic();
        match message {
            Some(Some(Ok(message))) => {
                heard = now;
                asked = None;
                shared.silent.store(false, Ordering::Relaxed);
                if let Err(error) = shared.dispatch(&message) {
                    return error;
                }
            }
            Some(Some(Err(status))) => return causes(&status),
            Some(None) => return "the peer ended the session".to_owned(),
            None => {}
        }
        if let Some(time) = shared.unanswered_for().filter(|time| *time > settings.unanswered_max) {
            return format!("left a push unanswered for {time:?}");
        }
        match asked {
            None if now.saturating_sub(heard) > PING_AFTER => {
                let mut ping = Vec::new();
                write_ping(0, &mut ping);
                asked = Some(now);
                if send.unbounded_send(ping.into()).is_err() {
                    return "the session has ended".to_owned();
                }
            }
            Some(asked) if now.saturating_sub(asked) > settings.silence_max => {
                if !shared.silent.swap(true, Ordering::Relaxed) {
                    tracing::warn!(peer = shared.address, "does not answer; writes go elsewhere");
                }
                shared.fail_all("does not answer");
                if now.saturating_sub(asked) > settings.session_silence_max {
                    return format!("silent for {:?}", now.saturating_sub(heard));
                }
            }
            _ => {}
        }
    }
}

impl Shared {
    fn dispatch(&self, message: &[u8]) -> Result<(), String> {
        match read_server_message(message).map_err(|error| error.to_string())? {
            ServerMessage::Outcome { id, result } => {
                if let Some(push) = self.end_wait(id) {
                    // Whoever waited may have gone.
                    let _ = push.answered.send(result);
                }
                Ok(())
            }
            ServerMessage::Pong { .. } => Ok(()),
            ServerMessage::Hello { .. } => Err("said hello twice".to_owned()),
        }
    }
}
