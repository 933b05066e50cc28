//! Other servers' users join, leave and knock through this server (server-server API, "Joining
//! Rooms", "Leaving Rooms", "Knocking upon a room"): templates, and taking the signed events.

use std::sync::Arc;

use ruma::{EventId, OwnedUserId, RoomId, ServerName, UserId};
use serde_json::{Map, Value, json};

use super::{
    Federation, HandshakeError, events_answer::EventsAnswer, room_answer::answer_join,
    verify::verify_event,
};
use crate::{
    protocol::{
        event::Event,
        event_builder::countersign,
        membership::{MemberContent, Membership},
        room_content::JoinRules,
        room_version::RoomVersion,
        server_acl::is_server_allowed,
    },
    rooms::{EventRequest, MEMBER, Room, Taken},
};

/// The property that names who vouches for a restricted join.
const AUTHORISED_VIA: &str = "join_authorised_via_users_server";

/// The room versions that the other server has support for (`ver`).
#[derive(Clone, Debug)]
pub struct SupportedVersions(pub Vec<String>);

/// The answer of `make_join` and its like.
pub struct Template {
    pub version: RoomVersion,
    pub event: Map<String, Value>,
}

type Result<T> = std::result::Result<T, HandshakeError>;

impl SupportedVersions {
    fn check(&self, version: RoomVersion) -> Result<()> {
        match self.0.iter().any(|known| known == version.as_str()) {
            true => Ok(()),
            false => Err(HandshakeError::IncompatibleVersion(version)),
        }
    }
}

impl Federation {
    /// `GET /make_join/{roomId}/{userId}`
    pub async fn make_join(
        &self,
        origin: &ServerName,
        (room_id, user): (&RoomId, &UserId),
        versions: &SupportedVersions,
    ) -> Result<Template> {
        let room = self.find_whole_room(origin, room_id).await?;
        check_user(origin, user)?;
        versions.check(room.rules.version)?;
        let mut content = json!({ "membership": "join" });
        if let Some(voucher) = self.find_join_voucher(&room, user).await? {
            content[AUTHORISED_VIA] = voucher.as_str().into();
        }
        self.make_template(&room, user, content).await
    }

    /// `GET /make_leave/{roomId}/{userId}`
    pub async fn make_leave(
        &self,
        origin: &ServerName,
        (room_id, user): (&RoomId, &UserId),
    ) -> Result<Template> {
        let room = self.find_open_room(origin, room_id).await?;
        check_user(origin, user)?;
        self.make_template(&room, user, json!({ "membership": "leave" })).await
    }

    /// `GET /make_knock/{roomId}/{userId}`
    pub async fn make_knock(
        &self,
        origin: &ServerName,
        (room_id, user): (&RoomId, &UserId),
        versions: &SupportedVersions,
    ) -> Result<Template> {
        let room = self.find_whole_room(origin, room_id).await?;
        check_user(origin, user)?;
        versions.check(room.rules.version)?;
        self.make_template(&room, user, json!({ "membership": "knock" })).await
    }

    /// `PUT /send_join/{roomId}/{eventId}`. With `omit_members`, the answer leaves out what the
    /// other server can do without for a while.
    pub async fn take_join(
        &self,
        origin: &ServerName,
        (room_id, event_id): (&RoomId, &EventId),
        json: &str,
        omit_members: bool,
    ) -> Result<EventsAnswer> {
        let room = self.find_whole_room(origin, room_id).await?;
        let named = Event::parse(json, room.rules)?;
        check_event(origin, &named, event_id, Membership::Join)?;
        let signed = self.vouch(&room, named).await?;
        let event = verify_event(self.keys(), room.rules, signed.json()).await??;
        let taken = self.rooms().take_signed(origin, &room, event).await?;
        self.pass_on(&room, &taken, origin).await?;
        answer_join(self.rooms(), &room, taken, omit_members).await
    }

    /// `PUT /send_leave/{roomId}/{eventId}`
    pub async fn take_leave(
        &self,
        origin: &ServerName,
        place: (&RoomId, &EventId),
        json: &str,
    ) -> Result<()> {
        self.take_member(origin, place, json, Membership::Leave).await.map(drop)
    }

    /// `PUT /send_knock/{roomId}/{eventId}`; returns `knock_room_state`.
    pub async fn take_knock(
        &self,
        origin: &ServerName,
        place: (&RoomId, &EventId),
        json: &str,
    ) -> Result<Vec<Value>> {
        let (room, taken) = self.take_member(origin, place, json, Membership::Knock).await?;
        self.list_shown_state(&room, taken.event.sender()).await
    }

    /// The room, if this server is in it and `origin` may take part.
    pub async fn find_open_room(&self, origin: &ServerName, room_id: &RoomId) -> Result<Arc<Room>> {
        let room = self.find_own_room(room_id).await?.ok_or(HandshakeError::UnknownRoom)?;
        let head = room.head();
        let acl = head.find_pinned("m.room.server_acl").map(|stored| &*stored.event);
        match is_server_allowed(acl, origin) {
            true => Ok(room),
            false => Err(HandshakeError::ServerDenied),
        }
    }

    /// As [`Federation::find_open_room`], if its state is whole: who enters a room must get all of it, and
    /// bans must be known.
    async fn find_whole_room(&self, origin: &ServerName, room_id: &RoomId) -> Result<Arc<Room>> {
        let room = self.find_open_room(origin, room_id).await?;
        match room.head().partial() {
            None => Ok(room),
            Some(_) => Err(HandshakeError::RoomNotWhole),
        }
    }

    async fn take_member(
        &self,
        origin: &ServerName,
        (room_id, event_id): (&RoomId, &EventId),
        json: &str,
        membership: Membership,
    ) -> Result<(Arc<Room>, Taken)> {
        let room = match membership {
            Membership::Leave => self.find_open_room(origin, room_id).await?,
            _ => self.find_whole_room(origin, room_id).await?,
        };
        check_event(origin, &Event::parse(json, room.rules)?, event_id, membership)?;
        let event = verify_event(self.keys(), room.rules, json).await??;
        let taken = self.rooms().take_signed(origin, &room, event).await?;
        self.pass_on(&room, &taken, origin).await?;
        Ok((room, taken))
    }

    async fn pass_on(&self, room: &Arc<Room>, taken: &Taken, origin: &ServerName) -> Result<()> {
        let stored = self.rooms().find_any_event(room, taken.event.event_id()).await?;
        if let Some(stored) = stored {
            self.outbox().pass_on(room, &stored, origin).await?;
        }
        Ok(())
    }

    async fn make_template(
        &self,
        room: &Arc<Room>,
        user: &UserId,
        content: Value,
    ) -> Result<Template> {
        let request = EventRequest::state(user, MEMBER, user.as_str(), content);
        let mut event = self.rooms().make_template(room, &request).await?;
        event.insert("origin".to_owned(), self.server_name().as_str().into());
        Ok(Template { version: room.rules.version, event })
    }

    /// Who lets a user into a restricted room; `None` when nobody has to ("Restricted rooms").
    async fn find_join_voucher(
        &self,
        room: &Arc<Room>,
        user: &UserId,
    ) -> Result<Option<OwnedUserId>> {
        let head = room.head();
        let rules = head.find_pinned("m.room.join_rules").map(|stored| &*stored.event);
        let rules = JoinRules::of_state(rules);
        let membership = self.rooms().membership_of(room, user).await?;
        let needs_voucher = rules.join_rule.is_restricted(room.rules)
            && !matches!(membership, Membership::Join | Membership::Invite);
        if !needs_voucher {
            return Ok(None);
        }
        if !self.rooms().is_in_one_of(&rules, user).await? {
            // Whether it is somebody there can only be known by who is there too.
            let mut knows_all = true;
            for allowed in &rules.allow {
                knows_all &= self.find_own_room(allowed).await?.is_some();
            }
            return Err(match knows_all {
                true => HandshakeError::InNoAllowedRoom,
                false => HandshakeError::CannotCheckJoin,
            });
        }
        let voucher = self.rooms().find_voucher(room).await?;
        voucher.map(Some).ok_or(HandshakeError::NobodyCanVouch)
    }

    /// Adds our signature to a join for which one of our users vouches, if it is still in order.
    async fn vouch(&self, room: &Arc<Room>, event: Event) -> Result<Event> {
        let content: MemberContent = event.content_as().unwrap_or_default();
        let is_ours = |user: &OwnedUserId| user.server_name() == self.server_name();
        let voucher =
            content.authorising_user().filter(|user| room.rules.restricted && is_ours(user));
        if voucher.is_none() {
            return Ok(event);
        }
        self.find_join_voucher(room, event.sender()).await?;
        let key = &self.peers().signing_key();
        Ok(countersign(&event, room.rules, self.server_name(), key)?)
    }
}

fn check_user(origin: &ServerName, user: &UserId) -> Result<()> {
    match user.server_name() == origin {
        true => Ok(()),
        false => Err(HandshakeError::NotYourUser),
    }
}

/// "The receiving server MUST apply certain validation before accepting the event."
fn check_event(
    origin: &ServerName,
    event: &Event,
    event_id: &EventId,
    membership: Membership,
) -> Result<()> {
    let wrong = |what: &str| Err(HandshakeError::WrongEvent(what.to_owned()));
    if event.kind() != MEMBER {
        return wrong("it is not of the type m.room.member");
    }
    if Membership::of_event(event) != Some(membership) {
        return wrong("it sets another membership");
    }
    if event.sender().server_name() != origin {
        return wrong("its sender is not a user of your server");
    }
    if event.state_key() != Some(event.sender().as_str()) {
        return wrong("its state key is not its sender");
    }
    match event.event_id() == event_id {
        true => Ok(()),
        false => wrong("it has another ID than the path says"),
    }
}
