//! What rooms lack, asked of other servers: the implementation of the rooms' [`EventSource`].

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use hyper::StatusCode;
use ruma::{EventId, OwnedEventId, ServerName};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use tokio::sync::mpsc;

use super::{
    event_stream::{StreamError, StreamedAnswer},
    peers::{PeerError, PeerRequest, Peers, path},
    server_keys::ServerKeys,
    verify::{keep_verified, to_texts},
};
use crate::{
    protocol::{event::Event, policy_server::PolicyServer},
    rooms::{EventSource, MISSING_EVENTS_MAX, PolicyRefusal, Question, StateIds},
};

/// Single events that are fetched at the same time.
const FETCHES_AT_ONCE_MAX: usize = 8;
const SMALL_TIMEOUT: Duration = Duration::from_secs(15);
const SMALL_BYTES_MAX: usize = 4 << 20;
/// The state of a large room: 100,000 IDs, or as many events.
const STATE_TIMEOUT: Duration = Duration::from_secs(60);
const STATE_IDS_BYTES_MAX: usize = 32 << 20;
const STATE_BYTES_MAX: usize = 256 << 20;
/// The state of a large room is stored as it comes, which may take a while.
const STREAM_TIMEOUT: Duration = Duration::from_secs(15 * 60);
const STREAM_BYTES_MAX: usize = 1 << 30;
/// The arrays of an answer of `GET /state`.
const STATE_ARRAYS: [&str; 2] = ["auth_chain", "pdus"];

/// Asks for events.
#[derive(Clone)]
pub struct PeerSource {
    peers: Peers,
    keys: ServerKeys,
}

#[derive(Deserialize)]
struct MissingEvents {
    #[serde(default)]
    events: Vec<Box<RawValue>>,
}

/// An answer of `GET /event` and `GET /backfill`.
#[derive(Deserialize)]
pub struct PduTransaction {
    pub pdus: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct StateIdsAnswer {
    pdu_ids: Vec<OwnedEventId>,
    auth_chain_ids: Vec<OwnedEventId>,
}

#[derive(Deserialize)]
struct AuthAnswer {
    auth_chain: Vec<Box<RawValue>>,
}

impl PeerSource {
    pub fn new(peers: Peers, keys: ServerKeys) -> Self {
        Self { peers, keys }
    }

    /// Asks the origin, then the others, until one answers with something.
    async fn ask_each<T: serde::de::DeserializeOwned>(
        &self,
        question: Question<'_>,
        request: &PeerRequest,
        is_useful: impl Fn(&T) -> bool,
    ) -> Option<T> {
        for server in self.list_asked(question) {
            match self.peers.ask::<T>(server, request.clone()).await {
                Ok(answer) if is_useful(&answer) => return Some(answer),
                Ok(_) => {}
                Err(error) => note(question, &error),
            }
        }
        None
    }

    /// The origin, then the others.
    fn list_asked<'a>(&self, question: Question<'a>) -> Vec<&'a ServerName> {
        let own = self.peers.server_name();
        let others = question.others.iter().map(|server| &**server);
        let others = others.filter(|server| *server != question.origin);
        let servers = std::iter::once(question.origin).chain(others);
        servers.filter(|server| *server != own).collect()
    }

    async fn keep(&self, question: Question<'_>, events: Vec<Box<RawValue>>) -> Vec<Arc<Event>> {
        let kept = keep_verified(&self.keys, question.rules, question.room_id, to_texts(events));
        kept.await.unwrap_or_else(|error| {
            tracing::warn!(room.id = %question.room_id, %error, "events could not be checked");
            Vec::new()
        })
    }

    async fn fetch_event(&self, question: Question<'_>, id: &EventId) -> Option<Arc<Event>> {
        let path = path("/_matrix/federation/v1/event", [id.as_str()], &[]);
        let request = PeerRequest::get(path).limited(SMALL_TIMEOUT, SMALL_BYTES_MAX);
        let useful = |answer: &PduTransaction| !answer.pdus.is_empty();
        let mut answer = self.ask_each::<PduTransaction>(question, &request, useful).await?;
        answer.pdus.truncate(1);
        let events = self.keep(question, answer.pdus).await;
        events.into_iter().find(|event| event.event_id() == id)
    }
}

impl EventSource for PeerSource {
    fn fetch_missing<'a>(
        &'a self,
        question: Question<'a>,
        earliest: &'a [OwnedEventId],
        latest: &'a [OwnedEventId],
    ) -> BoxFuture<'a, Option<Vec<Arc<Event>>>> {
        Box::pin(async move {
            let room = [question.room_id.as_str()];
            let path = path("/_matrix/federation/v1/get_missing_events", room, &[]);
            let body = json!({
                "earliest_events": earliest,
                "latest_events": latest,
                "limit": MISSING_EVENTS_MAX,
                "min_depth": 0,
            });
            let request = PeerRequest::post(path, &body).limited(SMALL_TIMEOUT, SMALL_BYTES_MAX);
            let mut is_denied = false;
            for server in self.list_asked(question) {
                match self.peers.ask::<MissingEvents>(server, request.clone()).await {
                    Ok(mut answer) if !answer.events.is_empty() => {
                        answer.events.truncate(MISSING_EVENTS_MAX);
                        let kept = self.keep(question, answer.events).await;
                        return (!kept.is_empty()).then_some(kept);
                    }
                    Ok(_) => is_denied |= server == question.origin,
                    Err(error) => {
                        is_denied |= server == question.origin && is_denial(&error);
                        note(question, &error);
                    }
                }
            }
            is_denied.then(Vec::new)
        })
    }

    fn fetch_events<'a>(
        &'a self,
        question: Question<'a>,
        ids: &'a [OwnedEventId],
    ) -> BoxFuture<'a, Vec<Arc<Event>>> {
        Box::pin(async move {
            let fetch = |id: &'a OwnedEventId| -> BoxFuture<'a, Option<Arc<Event>>> {
                Box::pin(self.fetch_event(question, id))
            };
            let fetches: Vec<_> = ids.iter().map(fetch).collect();
            let fetched = stream::iter(fetches).buffer_unordered(FETCHES_AT_ONCE_MAX);
            fetched.filter_map(|event| async { event }).collect().await
        })
    }

    fn fetch_state_ids<'a>(
        &'a self,
        question: Question<'a>,
        at: &'a EventId,
    ) -> BoxFuture<'a, Option<StateIds>> {
        Box::pin(async move {
            let room = [question.room_id.as_str()];
            let query = [("event_id", at.as_str())];
            let path = path("/_matrix/federation/v1/state_ids", room, &query);
            let request = PeerRequest::get(path).limited(STATE_TIMEOUT, STATE_IDS_BYTES_MAX);
            let useful = |answer: &StateIdsAnswer| !answer.pdu_ids.is_empty();
            let answer = self.ask_each::<StateIdsAnswer>(question, &request, useful).await?;
            Some(StateIds { state: answer.pdu_ids, auth_chain: answer.auth_chain_ids })
        })
    }

    fn stream_state<'a>(
        &'a self,
        question: Question<'a>,
        at: &'a EventId,
        batches: mpsc::Sender<Vec<Arc<Event>>>,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let room = [question.room_id.as_str()];
            let path = path("/_matrix/federation/v1/state", room, &[("event_id", at.as_str())]);
            let request = PeerRequest::get(path).limited(STREAM_TIMEOUT, STREAM_BYTES_MAX);
            for server in self.list_asked(question) {
                let (room_id, rules) = (question.room_id, question.rules);
                let answer = StreamedAnswer { server, room_id, rules, arrays: &STATE_ARRAYS };
                let hand_over = |_, events| {
                    let batches = batches.clone();
                    async move { batches.send(events).await.map_err(|_| StreamError::Unwanted) }
                };
                let asked =
                    self.peers.ask_for_events(&self.keys, answer, request.clone(), hand_over);
                match asked.await {
                    Ok(_) => return true,
                    Err(error) => {
                        tracing::info!(room.id = %question.room_id, server.name = %server, %error, "a state did not come");
                    }
                }
            }
            false
        })
    }

    fn fetch_event_auth<'a>(
        &'a self,
        question: Question<'a>,
        id: &'a EventId,
    ) -> BoxFuture<'a, Vec<Arc<Event>>> {
        Box::pin(async move {
            let segments = [question.room_id.as_str(), id.as_str()];
            let path = path("/_matrix/federation/v1/event_auth", segments, &[]);
            let request = PeerRequest::get(path).limited(STATE_TIMEOUT, STATE_BYTES_MAX);
            let useful = |answer: &AuthAnswer| !answer.auth_chain.is_empty();
            match self.ask_each::<AuthAnswer>(question, &request, useful).await {
                Some(answer) => self.keep(question, answer.auth_chain).await,
                None => Vec::new(),
            }
        })
    }

    fn ask_policy_server<'a>(
        &'a self,
        question: Question<'a>,
        policy: &'a PolicyServer,
        event: &'a Event,
    ) -> BoxFuture<'a, Result<Arc<Event>, PolicyRefusal>> {
        Box::pin(async move {
            let event_json: Value = Value::Object(event.to_object());
            let path = "/_matrix/policy/v1/sign".to_owned();
            let request = PeerRequest::post(path, &event_json);
            let request = request.limited(SMALL_TIMEOUT, SMALL_BYTES_MAX);
            // Also when it does not answer: "If the event still does not have a valid Policy Server
            // signature, the event is *not* recommended".
            let answer = self.peers.ask::<Map<String, Value>>(&policy.via, request).await;
            let answer = answer.map_err(|error| {
                note(question, &error);
                PolicyRefusal::from(error)
            })?;
            let bad = |error: &dyn std::fmt::Display| PolicyRefusal::NoAnswer(error.to_string());
            let signed = policy.add_signature(event, &answer, question.rules);
            let signed = signed.map_err(|error| bad(&error))?;
            policy.check(&signed, question.rules).map_err(|error| bad(&error))?;
            Ok(Arc::new(signed))
        })
    }
}

impl From<PeerError> for PolicyRefusal {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::Refused { errcode, message, .. } => Self::Refused { errcode, message },
            error => Self::NoAnswer(error.to_string()),
        }
    }
}

/// Whether a server says that it will not tell, now or later.
fn is_denial(error: &PeerError) -> bool {
    let denials = [StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
    error.refusal().is_some_and(|(status, _)| denials.contains(&status))
}

fn note(question: Question<'_>, error: &PeerError) {
    tracing::debug!(room.id = %question.room_id, %error, "another server does not help");
}
