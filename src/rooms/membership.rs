//! Changes of membership by users of this server (client-server API, "Room membership"): joins,
//! invitations, knocks, leaving, and what moderators do.

use std::sync::Arc;

use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value};

use super::{
    append::{AppendError, EventRequest},
    event_store::StoredEvent,
    registry::Rooms,
    room::Room,
    state_keys::MEMBER,
};
use crate::{
    protocol::{
        membership::Membership,
        power_levels::{NamedLevel, PowerLevels},
        room_content::{GuestAccess, JoinRule, JoinRules},
    },
    storage::StorageError,
};

/// The property that names who vouches for a restricted join.
const AUTHORISED_VIA: &str = "join_authorised_via_users_server";
/// Members looked at when somebody who can vouch for a join is sought.
const VOUCHERS_TRIED_MAX: usize = 1000;

/// What shall become of someone's membership.
#[derive(Clone, Debug)]
pub struct MemberChange {
    pub sender: OwnedUserId,
    pub target: OwnedUserId,
    pub membership: Membership,
    /// The content of the member event; `membership` is set here.
    pub content: Map<String, Value>,
    /// Whether the sender is a guest.
    pub is_guest: bool,
}

/// Why a membership did not change.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("this room does not take guests")]
    GuestsForbidden,
    #[error("only members of certain rooms may join this room, and you are in none of them")]
    InNoAllowedRoom,
    #[error("nobody of this server who is in the room can let you in")]
    NobodyCanVouch,
    #[error("the user is not banned from the room")]
    NotBanned,
    #[error("the user is not in the room")]
    NotInRoom,
    #[error("the user is banned; lift the ban instead")]
    Banned,
    #[error("the user's server cannot be reached")]
    RemoteUnreachable,
    #[error("the room knows no such third-party invitation, or it was made by another server")]
    UnknownThirdPartyInvite,
}

type Result<T> = std::result::Result<T, MembershipError>;

impl Rooms {
    /// Changes a membership. What is so already stays as it is: the event that made it so is
    /// returned.
    pub async fn change_membership(
        &self,
        room: &Arc<Room>,
        change: MemberChange,
    ) -> Result<Arc<StoredEvent>> {
        self.change_membership_at(room, change, None).await
    }

    /// As [`Rooms::change_membership`], with the time that an application service sets,
    /// milliseconds since the epoch.
    pub async fn change_membership_at(
        &self,
        room: &Arc<Room>,
        mut change: MemberChange,
        timestamp_ms: Option<u64>,
    ) -> Result<Arc<StoredEvent>> {
        let current = self.find_member(room, &change.target).await?;
        let membership = Membership::of_state(current.as_ref().map(|event| &*event.event));
        change.content.remove(AUTHORISED_VIA);
        match change.membership {
            Membership::Join => self.prepare_join(room, &mut change, membership).await?,
            Membership::Invite => self.check_reachable(&change.target)?,
            Membership::Knock | Membership::Leave | Membership::Ban => {}
        }
        let name = change.membership.as_str();
        change.content.insert("membership".to_owned(), name.into());
        if let Some(current) = current
            && change.is_done_by(&current)
        {
            return Ok(current);
        }
        let MemberChange { sender, target, content, .. } = change;
        let content = Value::Object(content);
        let request = EventRequest::state(sender, MEMBER, target.as_str(), content);
        let request = EventRequest { timestamp_ms, ..request };
        let mut events = self.append(room, &[request], None).await?;
        Ok(events.pop().ok_or(AppendError::Contended)?)
    }

    /// Joins; without effect for members.
    pub async fn join(&self, room: &Arc<Room>, change: MemberChange) -> Result<()> {
        match self.membership_of(room, &change.target).await? {
            Membership::Join => Ok(()),
            _ => self.change_membership(room, change).await.map(drop),
        }
    }

    /// Joins by an invitation to a third-party identifier: `signed` by the identity server.
    pub async fn join_by_third_party(
        &self,
        room: &Arc<Room>,
        mut change: MemberChange,
        signed: &Map<String, Value>,
    ) -> Result<()> {
        if self.membership_of(room, &change.target).await? == Membership::Join {
            return Ok(());
        }
        let token = signed.get("token").and_then(Value::as_str).unwrap_or_default();
        let invite = self.find_state_event(room, "m.room.third_party_invite", token).await?;
        let invite = invite.filter(|i| i.event.sender().server_name() == self.server_name());
        let invite = invite.ok_or(MembershipError::UnknownThirdPartyInvite)?;
        let shown: Map<String, Value> = invite.event.content_as().unwrap_or_default();
        let display_name = shown.get("display_name").cloned().unwrap_or_else(|| "".into());
        let content = serde_json::json!({
            "membership": "invite",
            "third_party_invite": { "display_name": display_name, "signed": signed },
        });
        self.prepare_join(room, &mut change, Membership::Invite).await?;
        change.content.insert("membership".to_owned(), "join".into());
        let requests = [
            EventRequest::state(invite.event.sender(), MEMBER, change.target.as_str(), content),
            EventRequest::state(
                change.sender,
                MEMBER,
                change.target.as_str(),
                Value::Object(change.content),
            ),
        ];
        self.append(room, &requests, None).await?;
        Ok(())
    }

    /// Invites; without effect for who is invited already.
    pub async fn invite(&self, room: &Arc<Room>, change: MemberChange) -> Result<()> {
        let invited = self.membership_of(room, &change.target).await? == Membership::Invite;
        if invited && self.membership_of(room, &change.sender).await? == Membership::Join {
            return Ok(());
        }
        self.change_membership(room, change).await.map(drop)
    }

    /// Leaves, rejects an invitation or takes a knock back; without effect for who has left.
    pub async fn leave(&self, room: &Arc<Room>, change: MemberChange) -> Result<()> {
        let current = self.find_member(room, &change.target).await?;
        match current.and_then(|event| Membership::of_event(&event.event)) {
            Some(Membership::Leave) => Ok(()),
            None => Err(MembershipError::NotInRoom),
            _ => self.change_membership(room, change).await.map(drop),
        }
    }

    /// Removes someone who is in the room, invited or knocking.
    pub async fn kick(&self, room: &Arc<Room>, change: MemberChange) -> Result<()> {
        match self.membership_of(room, &change.target).await? {
            Membership::Ban => Err(MembershipError::Banned),
            Membership::Leave => Err(MembershipError::NotInRoom),
            _ => self.change_membership(room, change).await.map(drop),
        }
    }

    /// Lifts a ban.
    pub async fn unban(&self, room: &Arc<Room>, change: MemberChange) -> Result<()> {
        match self.membership_of(room, &change.target).await? {
            Membership::Ban => self.change_membership(room, change).await.map(drop),
            _ => Err(MembershipError::NotBanned),
        }
    }

    async fn prepare_join(
        &self,
        room: &Arc<Room>,
        change: &mut MemberChange,
        membership: Membership,
    ) -> Result<()> {
        if change.sender != change.target {
            return Ok(());
        }
        let head = room.head();
        let guest_access = head.find_pinned("m.room.guest_access").map(|stored| &*stored.event);
        if change.is_guest && GuestAccess::of_state(guest_access) != GuestAccess::CanJoin {
            return Err(MembershipError::GuestsForbidden);
        }
        let rules = head.find_pinned("m.room.join_rules").map(|stored| &*stored.event);
        let rules = JoinRules::of_state(rules);
        let needs_voucher = rules.join_rule.is_restricted(room.rules)
            && matches!(membership, Membership::Leave | Membership::Knock);
        if !needs_voucher {
            return Ok(());
        }
        if !self.is_in_one_of(&rules, &change.target).await? {
            return Err(MembershipError::InNoAllowedRoom);
        }
        let voucher = self.find_voucher(room).await?.ok_or(MembershipError::NobodyCanVouch)?;
        change.content.insert(AUTHORISED_VIA.to_owned(), voucher.as_str().into());
        Ok(())
    }

    /// Whether the user is a member of one of the rooms whose members may join (client-server
    /// API, "Restricted rooms").
    pub async fn is_in_one_of(&self, rules: &JoinRules, user: &UserId) -> Result<bool> {
        for room_id in &rules.allow {
            // Of a room that this server has left, it is not known who is in it now.
            if let Some(room) = self.find(room_id).await?
                && self.is_server_in_room(&room, self.server_name()).await?
                && self.membership_of(&room, user).await? == Membership::Join
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the room's rules let a user (None: somebody unknown) join or knock uninvited.
    pub async fn may_enter(&self, room: &Room, user: Option<&UserId>) -> Result<bool> {
        let head = room.head();
        let rules = head.find_pinned("m.room.join_rules").map(|stored| &*stored.event);
        let rules = JoinRules::of_state(rules);
        if rules.join_rule == JoinRule::Public || rules.join_rule.allows_knocking(room.rules) {
            return Ok(true);
        }
        match user.filter(|_| rules.join_rule.is_restricted(room.rules)) {
            Some(user) => self.is_in_one_of(&rules, user).await,
            None => Ok(false),
        }
    }

    /// A member of this server with the power to invite: the mighty first, then anybody.
    pub async fn find_voucher(&self, room: &Arc<Room>) -> Result<Option<OwnedUserId>> {
        let power = room.power_levels();
        let powerful = list_powerful(&power);
        for user in powerful {
            if user.server_name() == self.server_name()
                && power.user(&user) >= power.invite()
                && self.membership_of(room, &user).await? == Membership::Join
            {
                return Ok(Some(user));
            }
        }
        if power.named(NamedLevel::UsersDefault) < power.invite() {
            return Ok(None);
        }
        let head = room.head();
        let members: Vec<_> = head.state.members().take(VOUCHERS_TRIED_MAX).collect();
        for (_, nid) in members {
            let member = self.events().load_one(room.facts(), nid).await?;
            let user = member.event.state_key().and_then(|key| <&UserId>::try_from(key).ok());
            if let Some(user) = user
                && user.server_name() == self.server_name()
                && Membership::of_event(&member.event) == Some(Membership::Join)
                && power.user(user) >= power.invite()
            {
                return Ok(Some(user.to_owned()));
            }
        }
        Ok(None)
    }

    fn check_reachable(&self, user: &UserId) -> Result<()> {
        match user.server_name() == self.server_name() {
            true => Ok(()),
            false => Err(MembershipError::RemoteUnreachable),
        }
    }
}

impl MemberChange {
    /// Whether this event says the same already.
    fn is_done_by(&self, current: &StoredEvent) -> bool {
        current.event.sender() == self.sender
            && current.event.content_as::<Map<String, Value>>().is_ok_and(|c| c == self.content)
    }
}

/// Creators and those whom the power levels name, the mightiest first.
fn list_powerful(power: &PowerLevels) -> Vec<OwnedUserId> {
    let creators = power.create().into_iter().flat_map(|create| {
        create.creator.iter().chain(&create.additional_creators).cloned().collect::<Vec<_>>()
    });
    let named = power.content().into_iter().flat_map(|content| content.users.keys());
    let named = named.filter_map(|user| UserId::parse(user.as_str()).ok());
    let mut users: Vec<_> = creators.chain(named).collect();
    users.sort_by_key(|user| std::cmp::Reverse(power.user(user)));
    users.truncate(VOUCHERS_TRIED_MAX);
    users
}
