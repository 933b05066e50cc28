//! What rooms need from other servers. Rooms own the trait, federation implements it, `app` wires
//! both. Not for deciding anything: what comes from there is judged like everything else.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, ServerName};
use tokio::sync::mpsc;

use crate::protocol::{event::Event, policy_server::PolicyServer, room_version::RoomRules};

/// Events asked for by ID in one call of [`EventSource::fetch_events`].
pub const FETCH_EVENTS_MAX: usize = 100;
/// Events that a gap may be filled with in one round (`limit` of `get_missing_events`).
pub const MISSING_EVENTS_MAX: usize = 20;

/// Which room is asked about, and whom to ask.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub room_id: &'a RoomId,
    pub rules: &'static RoomRules,
    /// The server that sent what made the question necessary. It is asked first.
    pub origin: &'a ServerName,
    /// Further servers in the room, to be asked where the origin does not answer. Never this server,
    /// at most [`OTHERS_MAX`].
    pub others: &'a [OwnedServerName],
}

/// Servers beside the origin that one question may go to.
pub const OTHERS_MAX: usize = 3;

/// The state before an event as another server tells it, by event ID (`GET /state_ids`).
#[derive(Clone, Debug, Default)]
pub struct StateIds {
    /// `pdu_ids`.
    pub state: Vec<OwnedEventId>,
    /// `auth_chain_ids`.
    pub auth_chain: Vec<OwnedEventId>,
}

/// The network. Every event that it hands over is of the room and its version, in the right format,
/// signed as it must be, and redacted where its content hash does not match
/// ([`ReceivedEvent::verify`](crate::protocol::event_signatures::ReceivedEvent::verify)); others are
/// left out. Answers may lack what was asked for and hold what was not: the caller looks. An
/// implementation bounds the size of answers and the time of each call, and never waits for rooms.
pub trait EventSource: Send + Sync {
    /// The events between `earliest` (known here) and `latest`, without both ends (`POST
    /// /get_missing_events`), at most [`MISSING_EVENTS_MAX`]. Empty when the origin answers that it has
    /// none, and nobody else has any either; None when it gives no such answer.
    fn fetch_missing<'a>(
        &'a self,
        question: Question<'a>,
        earliest: &'a [OwnedEventId],
        latest: &'a [OwnedEventId],
    ) -> BoxFuture<'a, Option<Vec<Arc<Event>>>>;

    /// Single events (`GET /event/{eventId}`), at most [`FETCH_EVENTS_MAX`].
    fn fetch_events<'a>(
        &'a self,
        question: Question<'a>,
        ids: &'a [OwnedEventId],
    ) -> BoxFuture<'a, Vec<Arc<Event>>>;

    /// The IDs of the state before an event (`GET /state_ids`). None when nobody answers.
    fn fetch_state_ids<'a>(
        &'a self,
        question: Question<'a>,
        at: &'a EventId,
    ) -> BoxFuture<'a, Option<StateIds>>;

    /// The state before an event and its authorisation chain as events (`GET /state`), in any order;
    /// asked where most of them are not known here. They are handed over in batches while the answer
    /// comes in, those of one server after those of another that broke off. Returns whether an answer came
    /// to its end.
    fn stream_state<'a>(
        &'a self,
        question: Question<'a>,
        at: &'a EventId,
        batches: mpsc::Sender<Vec<Arc<Event>>>,
    ) -> BoxFuture<'a, bool>;

    /// The authorisation chain of an event (`GET /event_auth`). Empty when nobody answers.
    fn fetch_event_auth<'a>(
        &'a self,
        question: Question<'a>,
        id: &'a EventId,
    ) -> BoxFuture<'a, Vec<Arc<Event>>>;

    /// The event with the signature of the room's policy server, if that recommends it ("Asking for a
    /// Policy Server signature on an event"). Not asked when the event carries it already.
    fn ask_policy_server<'a>(
        &'a self,
        question: Question<'a>,
        policy: &'a PolicyServer,
        event: &'a Event,
    ) -> BoxFuture<'a, Result<Arc<Event>, PolicyRefusal>>;
}

/// Why a policy server does not recommend an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefusal {
    /// What it said: the code and the sentence.
    #[error("{message}")]
    Refused { errcode: String, message: String },
    /// It gave no answer, or one that cannot be used.
    #[error("the room's policy server does not answer: {0}")]
    NoAnswer(String),
}
