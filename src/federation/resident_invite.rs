//! Invitations of our users by other servers' users (server-server API, "Inviting to a room"). The
//! invited server checks and signs what it was sent, and keeps it for its user.

use std::sync::Arc;

use ruma::{EventId, OwnedUserId, RoomId, ServerName, UserId};
use serde_json::{Map, Value};

use super::{
    Federation, HandshakeError,
    verify::{verify_event, verify_events},
};
use crate::{
    protocol::{
        event::Event, event_builder::countersign, membership::Membership,
        room_version::RoomVersion, server_acl::is_server_allowed,
    },
    rooms::{MEMBER, OutlierMember, StrippedStateError, check_stripped_state},
};

/// Entries of `invite_room_state` that are looked at.
const STATE_EVENTS_MAX: usize = 100;

/// An invitation as it was sent.
pub struct ArrivedInvite {
    pub version: RoomVersion,
    /// The event's JSON.
    pub event: String,
    pub invite_room_state: Vec<Value>,
}

type Result<T> = std::result::Result<T, HandshakeError>;

impl Federation {
    /// The user of this server whom an invitation is for, if it is one, and who invites them.
    pub async fn find_invited(
        &self,
        origin: &ServerName,
        place: (&RoomId, &EventId),
        invite: &ArrivedInvite,
    ) -> Result<(OwnedUserId, OwnedUserId)> {
        let named = Event::parse(&invite.event, invite.version.rules())?;
        let target = self.check_invite(origin, &named, place)?;
        let account = self.accounts().find_account(&target).await?;
        match account.is_some_and(|account| !account.flags.is_deactivated()) {
            true => Ok((target, named.sender().to_owned())),
            false => Err(HandshakeError::UnknownUser),
        }
    }

    /// Takes an invitation for whom [`Federation::find_invited`] found, and returns it with our
    /// signature.
    pub async fn take_invite(
        &self,
        origin: &ServerName,
        (room_id, event_id): (&RoomId, &EventId),
        invite: ArrivedInvite,
    ) -> Result<Arc<Event>> {
        let rules = invite.version.rules();
        self.check_invite(origin, &Event::parse(&invite.event, rules)?, (room_id, event_id))?;
        let own_room = self.find_own_room(room_id).await?;
        if let Some(room) = &own_room {
            let head = room.head();
            let acl = head.find_pinned("m.room.server_acl").map(|stored| &*stored.event);
            if !is_server_allowed(acl, origin) {
                return Err(HandshakeError::ServerDenied);
            }
        }
        let event = verify_event(self.keys(), rules, &invite.event).await??;
        let key = &self.peers().signing_key();
        let signed = Arc::new(countersign(&event, rules, self.server_name(), key)?);
        // Where this server is in the room already, the event comes again in a transaction.
        if own_room.is_none() {
            let state = self.keep_good_state(&invite, room_id).await?;
            let member = OutlierMember {
                room_id: room_id.to_owned(),
                version: invite.version,
                event: Arc::clone(&signed),
                stripped_state: state,
            };
            self.rooms().store_outlier_member(member).await?;
        }
        Ok(signed)
    }

    fn check_invite(
        &self,
        origin: &ServerName,
        event: &Event,
        (room_id, event_id): (&RoomId, &EventId),
    ) -> Result<OwnedUserId> {
        let wrong = |what: &str| HandshakeError::WrongEvent(what.to_owned());
        if event.kind() != MEMBER {
            return Err(wrong("it is not of the type m.room.member"));
        }
        if Membership::of_event(event) != Some(Membership::Invite) {
            return Err(wrong("it is no invitation"));
        }
        if event.sender().server_name() != origin {
            return Err(wrong("its sender is not a user of your server"));
        }
        if event.event_id() != event_id || event.room_id() != room_id {
            return Err(wrong("it has another ID or room than the path says"));
        }
        let target = event.state_key().and_then(|user| UserId::parse(user).ok());
        let target = target.filter(|user| user.server_name() == self.server_name());
        target.ok_or_else(|| wrong("its state key is not a user of this server"))
    }

    /// Checks the state that came along: strictly from version 12 on; before, what is no event is
    /// reduced to its stripped form, as long as servers send that ("servers SHOULD warn").
    async fn keep_good_state(
        &self,
        invite: &ArrivedInvite,
        room_id: &RoomId,
    ) -> Result<Vec<Value>> {
        let entries = invite.invite_room_state.iter().take(STATE_EVENTS_MAX);
        let entries: Vec<Value> = entries.cloned().collect();
        match check_stripped_state(&entries, room_id, invite.version) {
            Ok(events) => {
                let rules = invite.version.rules();
                let texts = events.iter().map(|event| event.json().to_owned()).collect();
                let verified = verify_events(self.keys(), rules, texts).await?;
                let all_good = verified.iter().all(std::result::Result::is_ok);
                match all_good || invite.version < RoomVersion::V12 {
                    true => Ok(verified.iter().flatten().map(|event| strip(event)).collect()),
                    false => Err(StrippedStateError::Malformed("a signature".to_owned()).into()),
                }
            }
            Err(error) if invite.version >= RoomVersion::V12 => Err(error.into()),
            Err(error) => {
                tracing::debug!(room.id = %room_id, %error, "an invitation came with poor state");
                Ok(entries.iter().filter_map(strip_value).collect())
            }
        }
    }
}

/// Stripped state (client-server API, "Stripped state").
pub fn strip(event: &Event) -> Value {
    let mut stripped = serde_json::json!({
        "type": event.kind(),
        "state_key": event.state_key(),
        "sender": event.sender(),
        "content": event.content_as::<Map<String, Value>>().unwrap_or_default(),
    });
    // Clients get this one in full (MSC4311).
    if event.kind() == "m.room.create" {
        stripped["origin_server_ts"] = event.origin_server_ts().into();
        stripped["event_id"] = event.event_id().as_str().into();
    }
    stripped
}

/// The same of an entry that may be no event; `None` when something is missing.
pub fn strip_value(entry: &Value) -> Option<Value> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    UserId::parse(text("sender")?).ok()?;
    Some(serde_json::json!({
        "type": text("type")?,
        "state_key": text("state_key")?,
        "sender": text("sender")?,
        "content": entry.get("content")?.as_object()?,
    }))
}
