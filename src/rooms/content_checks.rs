//! What a server asks of its own clients' events beyond the authorisation rules: relations that
//! make sense, aliases that lead here, encryption that stays on. Events of other servers are
//! judged by the authorisation rules alone.

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, OwnedRoomAliasId, RoomAliasId};
use serde_json::{Map, Value};

use super::{
    aliases::ALIAS_BYTES_MAX, append::EventRequest, event_store::event_key, registry::Rooms,
    room::Room, summary::relation_of,
};
use crate::storage::{self, StorageError};

/// Earlier annotations by the same user of the same event that are compared.
const ANNOTATIONS_MAX: usize = 1000;

/// What is wrong with an event of one of our users.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error("a redaction needs `redacts`, the ID of an event")]
    RedactsMissing,
    #[error("a thread cannot begin at an event that itself relates to another one")]
    BadThreadRoot,
    #[error("you have annotated this event with the same key already")]
    DuplicateAnnotation,
    #[error("`{0}` is no valid alias")]
    InvalidAlias(String),
    #[error("the alias {0} does not lead to this room")]
    BadAlias(String),
    #[error("encryption cannot be switched off or weakened once it is on")]
    EncryptionDowngrade,
    #[error("the room holds as many state events as it may")]
    TooMuchState,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Rooms {
    /// Checks a message event, and moves `redacts` to where it belongs.
    pub async fn check_message(
        &self,
        room: &Room,
        request: &mut EventRequest,
    ) -> Result<(), ContentError> {
        if request.kind == "m.room.redaction" {
            request.redacts = Some(take_redacts(&mut request.content)?);
        }
        let Some(relation) = request.content.get("m.relates_to").and_then(Value::as_object) else {
            return Ok(());
        };
        let text = |key: &str| relation.get(key).and_then(Value::as_str);
        let target = text("event_id").and_then(|id| EventId::parse(id).ok());
        match (text("rel_type"), target) {
            (Some("m.thread"), Some(target)) => self.check_thread_root(room, &target).await,
            (Some("m.annotation"), Some(target)) => match text("key") {
                Some(key) => self.check_annotation(room, request, &target, key).await,
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Checks a state event. `state_events_max` bounds the room.
    pub async fn check_state(
        &self,
        room: &Arc<Room>,
        request: &EventRequest,
        state_events_max: usize,
    ) -> Result<(), ContentError> {
        let state_key = request.state_key.as_deref().unwrap_or_default();
        let current = self.find_state_event(room, &request.kind, state_key).await?;
        if current.is_none() && room.head().state.len() >= state_events_max {
            return Err(ContentError::TooMuchState);
        }
        let before: Map<String, Value> =
            current.and_then(|event| event.event.content_as().ok()).unwrap_or_default();
        match request.kind.as_str() {
            "m.room.canonical_alias" if state_key.is_empty() => {
                self.check_canonical_alias(room, &before, &request.content).await
            }
            "m.room.encryption" if state_key.is_empty() => {
                let algorithm = before.get("algorithm").filter(|value| value.is_string());
                match algorithm.is_some() && request.content.get("algorithm") != algorithm {
                    true => Err(ContentError::EncryptionDowngrade),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Client-server API, "Validation of `m.thread` relationships".
    async fn check_thread_root(&self, room: &Room, target: &EventId) -> Result<(), ContentError> {
        let root = self.find_event(room, target).await?;
        match root.is_some_and(|root| relation_of(&root.event).is_some()) {
            true => Err(ContentError::BadThreadRoot),
            false => Ok(()),
        }
    }

    /// Client-server API, "Avoiding duplicate annotations".
    async fn check_annotation(
        &self,
        room: &Room,
        request: &EventRequest,
        target: &EventId,
        key: &str,
    ) -> Result<(), ContentError> {
        let target = event_key(target);
        let of = (room.nid, target.as_slice());
        let by = (request.kind.as_str(), request.sender.as_str());
        let limit = ANNOTATIONS_MAX;
        let nids = storage::relations::list_annotations(self.database(), of, by, limit).await?;
        for event in self.events().load(room.facts(), &nids).await? {
            let content: Value = event.event.content_as().unwrap_or_default();
            if content["m.relates_to"]["key"] == key {
                return Err(ContentError::DuplicateAnnotation);
            }
        }
        Ok(())
    }

    /// New aliases must be valid and lead to the room; what was there before is not looked at.
    async fn check_canonical_alias(
        &self,
        room: &Room,
        before: &Map<String, Value>,
        content: &Value,
    ) -> Result<(), ContentError> {
        let known = list_aliases(before);
        let content = content.as_object().cloned().unwrap_or_default();
        check_alias_types(&content)?;
        for alias in list_aliases(&content).into_iter().filter(|alias| !known.contains(alias)) {
            let found = self.find_by_alias(&parse_alias(&alias)?).await?;
            if found.is_none_or(|found| found.nid != room.nid) {
                return Err(ContentError::BadAlias(alias));
            }
        }
        Ok(())
    }
}

/// Checks the `m.room.canonical_alias` with which a room shall begin. No alias leads to a room that is not
/// there yet, but the one that it is made with.
pub fn check_first_aliases(
    content: &Map<String, Value>,
    own: Option<&RoomAliasId>,
) -> Result<(), ContentError> {
    check_alias_types(content)?;
    for alias in list_aliases(content) {
        if own != Some(&parse_alias(&alias)?) {
            return Err(ContentError::BadAlias(alias));
        }
    }
    Ok(())
}

fn check_alias_types(content: &Map<String, Value>) -> Result<(), ContentError> {
    for property in ["alias", "alt_aliases"] {
        let fits = match content.get(property) {
            None | Some(Value::Null) => true,
            Some(value) if property == "alias" => value.is_string(),
            Some(value) => value.as_array().is_some_and(|v| v.iter().all(Value::is_string)),
        };
        if !fits {
            return Err(ContentError::InvalidAlias(property.to_owned()));
        }
    }
    Ok(())
}

fn parse_alias(alias: &str) -> Result<OwnedRoomAliasId, ContentError> {
    let parsed = RoomAliasId::parse(alias).ok().filter(|_| alias.len() <= ALIAS_BYTES_MAX);
    parsed.ok_or_else(|| ContentError::InvalidAlias(alias.to_owned()))
}

/// The aliases that an `m.room.canonical_alias` names. An empty one means none.
fn list_aliases(content: &Map<String, Value>) -> Vec<String> {
    let main = content.get("alias").and_then(Value::as_str);
    let others = content.get("alt_aliases").and_then(Value::as_array).into_iter().flatten();
    let all = main.into_iter().chain(others.filter_map(Value::as_str));
    all.filter(|alias| !alias.is_empty()).map(str::to_owned).collect()
}

/// The builder puts it back where the room version wants it.
fn take_redacts(content: &mut Value) -> Result<OwnedEventId, ContentError> {
    let redacts = content.as_object_mut().and_then(|content| content.remove("redacts"));
    let redacts = redacts.as_ref().and_then(Value::as_str);
    redacts.and_then(|id| EventId::parse(id).ok()).ok_or(ContentError::RedactsMissing)
}
