//! New rooms: from what a client asks for to the first events, in the order of the specification
//! (client-server API, "Creation").

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    aliases::ReservedAlias,
    append::{AppendError, EventRequest},
    registry::Rooms,
    room::Room,
};
use crate::{
    protocol::{
        authorisation::AuthRejection,
        event_builder::SealError,
        room_version::{RoomRules, RoomVersion},
    },
    storage::{RoomNid, StorageError, WriteTx, directory},
};

/// Random letters of a room ID, before room version 12.
const ROOM_ID_LENGTH: usize = 18;
/// The power of creators where they are listed.
const CREATOR_LEVEL: i64 = 100;
/// From version 12 on creators stand above every level, and only they replace a room.
const TOMBSTONE_LEVEL_ABOVE_ADMINS: i64 = 150;

/// A bundle of rules for a new room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    PrivateChat,
    TrustedPrivateChat,
    PublicChat,
}

/// Whether a room is in the public directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectoryVisibility {
    Public,
    #[default]
    Private,
}

/// A state event that the client wants in the new room.
#[derive(Clone, Debug, Deserialize)]
pub struct InitialState {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub state_key: String,
    pub content: Map<String, Value>,
}

/// Everything about a new room.
#[derive(Clone, Debug)]
pub struct NewRoom {
    pub creator: OwnedUserId,
    pub version: RoomVersion,
    pub visibility: DirectoryVisibility,
    /// By the visibility when None.
    pub preset: Option<Preset>,
    pub name: Option<String>,
    pub topic: Option<String>,
    /// Whom to invite, with the content of their member event less `membership`.
    pub invites: Vec<(OwnedUserId, Map<String, Value>)>,
    /// The creator's member event less `membership`.
    pub creator_profile: Map<String, Value>,
    pub creation_content: Map<String, Value>,
    pub initial_state: Vec<InitialState>,
    pub power_level_content_override: Map<String, Value>,
}

/// Why no room was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateRoomError {
    /// One of the events is not allowed after those before it.
    #[error("the room cannot begin like this: {0}")]
    InvalidState(AuthRejection),
    #[error(transparent)]
    Unsealable(SealError),
    #[error(transparent)]
    Append(AppendError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<AppendError> for CreateRoomError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Rejected(rejection) => Self::InvalidState(rejection),
            AppendError::Unsealable(error) => Self::Unsealable(error),
            AppendError::Storage(error) => Self::Storage(error),
            error => Self::Append(error),
        }
    }
}

impl Rooms {
    /// Makes a room with all its first events, its alias and its place in the directory, in one
    /// commit.
    pub async fn create(
        &self,
        new: &NewRoom,
        alias: Option<&ReservedAlias>,
    ) -> Result<Arc<Room>, CreateRoomError> {
        let rules = new.version.rules();
        let requests = new.list_events(alias);
        let add_rows = |tx: &mut WriteTx, room: RoomNid| {
            if let Some(alias) = alias {
                alias.save(tx, room, &new.creator);
            }
            if new.visibility == DirectoryVisibility::Public {
                directory::publish(tx, room);
            }
        };
        let room_id = self.new_room_id(rules);
        Ok(self.append_new_room(rules, room_id, &requests, Some(&add_rows)).await?)
    }

    /// A random ID where the create event does not imply one.
    pub(super) fn new_room_id(&self, rules: &RoomRules) -> Option<OwnedRoomId> {
        if rules.room_id_is_create_hash {
            return None;
        }
        let random = self.clock().random_text(ROOM_ID_LENGTH);
        let room_id = RoomId::parse(format!("!{random}:{}", self.server_name()));
        Some(room_id.expect("letters and a server name make a room ID"))
    }
}

impl NewRoom {
    fn preset(&self) -> Preset {
        self.preset.unwrap_or(match self.visibility {
            DirectoryVisibility::Public => Preset::PublicChat,
            DirectoryVisibility::Private => Preset::PrivateChat,
        })
    }

    /// The first events, in the order of the specification.
    pub(super) fn list_events(&self, alias: Option<&ReservedAlias>) -> Vec<EventRequest> {
        let mut events = vec![
            self.state("m.room.create", "", self.create_content()),
            self.member(&self.creator, "join", &self.creator_profile),
            self.state("m.room.power_levels", "", self.power_levels_content()),
        ];
        if let Some(alias) = alias {
            let content = json!({ "alias": alias.alias });
            events.push(self.state("m.room.canonical_alias", "", content));
        }
        let is_given = |kind: &str| {
            self.initial_state.iter().any(|state| state.kind == kind && state.state_key.is_empty())
        };
        let by_preset = self.preset().list_state().into_iter();
        let by_preset = by_preset.filter(|(kind, _)| !is_given(kind));
        events.extend(by_preset.map(|(kind, content)| self.state(kind, "", content)));
        // `name` and `topic` overwrite what `initial_state` says of them.
        let is_overwritten = |state: &InitialState| {
            state.state_key.is_empty()
                && (state.kind == "m.room.name" && self.name.is_some()
                    || state.kind == "m.room.topic" && self.topic.is_some())
        };
        let initial = self.initial_state.iter().filter(|state| !is_overwritten(state));
        events.extend(initial.map(|state| {
            self.state(&state.kind, &state.state_key, Value::Object(state.content.clone()))
        }));
        if let Some(name) = &self.name {
            events.push(self.state("m.room.name", "", json!({ "name": name })));
        }
        if let Some(topic) = &self.topic {
            events.push(self.state("m.room.topic", "", topic_content(topic)));
        }
        // Those of other servers are invited when the room is there.
        let own_name = self.creator.server_name();
        let invites = self.invites.iter().filter(|(user, _)| user.server_name() == own_name);
        events.extend(invites.map(|(user, content)| self.member(user, "invite", content)));
        events
    }

    fn state(&self, kind: &str, state_key: &str, content: Value) -> EventRequest {
        EventRequest::state(self.creator.clone(), kind, state_key, content)
    }

    fn member(
        &self,
        user: &UserId,
        membership: &str,
        content: &Map<String, Value>,
    ) -> EventRequest {
        let mut content = content.clone();
        content.insert("membership".to_owned(), membership.into());
        self.state("m.room.member", user.as_str(), Value::Object(content))
    }

    fn create_content(&self) -> Value {
        let mut content = self.creation_content.clone();
        let rules = self.version.rules();
        content.insert("room_version".to_owned(), self.version.as_str().into());
        if rules.creator_in_content {
            content.insert("creator".to_owned(), self.creator.as_str().into());
        } else {
            content.remove("creator");
        }
        // "the server SHOULD combine `additional_creators` and the `invite` array".
        if rules.creators_privileged && self.preset() == Preset::TrustedPrivateChat {
            let given = content.get("additional_creators").cloned().unwrap_or_else(|| json!([]));
            // What is no list is left to the rules, which refuse it.
            if let Value::Array(mut creators) = given {
                creators.extend(self.invites.iter().map(|(user, _)| Value::from(user.as_str())));
                let mut seen = BTreeSet::from([self.creator.to_string()]);
                creators.retain(|user| user.as_str().is_none_or(|user| seen.insert(user.into())));
                content.insert("additional_creators".to_owned(), creators.into());
            }
        }
        Value::Object(content)
    }

    fn power_levels_content(&self) -> Value {
        let rules = self.version.rules();
        let mut users = Map::new();
        if !rules.creators_privileged {
            users.insert(self.creator.to_string(), CREATOR_LEVEL.into());
            if self.preset() == Preset::TrustedPrivateChat {
                let invited = self.invites.iter();
                users.extend(invited.map(|(user, _)| (user.to_string(), CREATOR_LEVEL.into())));
            }
        }
        let tombstone = match rules.creators_privileged {
            true => TOMBSTONE_LEVEL_ABOVE_ADMINS,
            false => CREATOR_LEVEL,
        };
        let invite = if self.preset() == Preset::PublicChat { 50 } else { 0 };
        let mut content = json!({
            "ban": 50, "kick": 50, "redact": 50, "invite": invite, "historical": 100,
            "events_default": 0, "state_default": 50, "users_default": 0, "users": users,
            "events": {
                "m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.encryption": 100,
                "m.room.history_visibility": 100, "m.room.name": 50, "m.room.power_levels": 100,
                "m.room.server_acl": 100, "m.room.tombstone": tombstone,
            },
        });
        if let Value::Object(content) = &mut content {
            content.extend(self.power_level_content_override.clone());
        }
        content
    }
}

impl Preset {
    fn list_state(self) -> Vec<(&'static str, Value)> {
        let (join_rule, takes_guests) = match self {
            Self::PublicChat => ("public", false),
            Self::PrivateChat | Self::TrustedPrivateChat => ("invite", true),
        };
        let mut state = vec![
            ("m.room.join_rules", json!({ "join_rule": join_rule })),
            ("m.room.history_visibility", json!({ "history_visibility": "shared" })),
        ];
        // Without the event, guests are forbidden to join (`m.room.guest_access`).
        if takes_guests {
            state.push(("m.room.guest_access", json!({ "guest_access": "can_join" })));
        }
        state
    }
}

/// A topic in its old and its new form (`m.room.topic`).
fn topic_content(topic: &str) -> Value {
    json!({
        "topic": topic,
        "m.topic": { "m.text": [{ "body": topic, "mimetype": "text/plain" }] },
    })
}
