//! Invitations to mail addresses, once an address has become somebody's (server-server API,
//! "Third-party invites"): the invited user's server hears of it from the identity server, and has the
//! inviter's server make a real invitation of it.

use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    Federation, HandshakeError, IdentityServers, InviteKey,
    peers::{PeerRequest, path},
};
use crate::{
    protocol::{membership::Membership, third_party_invite::find_signer},
    rooms::{EventRequest, MEMBER},
};

/// Invitations of one notice that are looked at.
pub const BOUND_INVITES_MAX: usize = 50;
/// The type of the events that wait for somebody to prove an address.
pub const THIRD_PARTY_INVITE: &str = "m.room.third_party_invite";

/// An invitation that has found its user (`/3pid/onbind`).
#[derive(Clone, Debug, Deserialize)]
pub struct BoundInvite {
    /// Who has proven the address.
    pub mxid: OwnedUserId,
    pub room_id: OwnedRoomId,
    /// Who sent the invitation.
    pub sender: OwnedUserId,
    /// `mxid`, `token` and the signatures of the identity server.
    pub signed: Map<String, Value>,
}

type Result<T> = std::result::Result<T, HandshakeError>;

impl Federation {
    /// Has an invitation to an address of one of our users become an invitation of the user.
    pub async fn take_bound_invite(
        &self,
        identity_servers: &IdentityServers,
        invite: &BoundInvite,
    ) -> Result<()> {
        if invite.mxid.server_name() != self.server_name() {
            return Err(HandshakeError::UnknownUser);
        }
        let account = self.accounts().find_account(&invite.mxid).await?;
        if account.is_none_or(|account| account.flags.is_deactivated()) {
            return Err(HandshakeError::UnknownUser);
        }
        let inviter = invite.sender.server_name();
        if inviter == self.server_name() {
            return self.exchange_invite(identity_servers, invite).await;
        }
        if !self.is_enabled() {
            return Err(HandshakeError::Disabled);
        }
        let prefix = "/_matrix/federation/v1/exchange_third_party_invite";
        let body = json!({
            "type": MEMBER,
            "room_id": invite.room_id,
            "sender": invite.sender,
            "state_key": invite.mxid,
            "content": {
                "membership": "invite",
                // Only the room knows it; whoever makes the event takes it from there.
                "third_party_invite": { "display_name": "", "signed": invite.signed },
            },
        });
        let request = PeerRequest::put(path(prefix, [invite.room_id.as_str()], &[]), &body);
        self.peers().ask_raw(inviter, request).await?;
        Ok(())
    }

    /// Makes the invitation, in the name of our user who invited the address. The identity server's
    /// signature and key are checked first.
    pub async fn exchange_invite(
        &self,
        identity_servers: &IdentityServers,
        invite: &BoundInvite,
    ) -> Result<()> {
        let BoundInvite { mxid: target, room_id, sender, signed } = invite;
        let wrong = |what: &str| HandshakeError::WrongEvent(what.to_owned());
        let room = self.find_own_room(room_id).await?.ok_or(HandshakeError::UnknownRoom)?;
        if sender.server_name() != self.server_name() {
            return Err(HandshakeError::NotYourUser);
        }
        if signed.get("mxid").and_then(Value::as_str) != Some(target.as_str()) {
            return Err(wrong("the identity server has signed for another user"));
        }
        let token = signed.get("token").and_then(Value::as_str).unwrap_or_default();
        let waiting = self.rooms().find_state_event(&room, THIRD_PARTY_INVITE, token).await?;
        let waiting = waiting.filter(|waiting| waiting.event.sender() == *sender);
        let waiting = waiting.ok_or_else(|| wrong("the room knows no such invitation"))?;
        let signer = find_signer(signed, &waiting.event);
        let signer =
            signer.ok_or_else(|| wrong("it is not signed with a key of the invitation"))?;
        // Whoever is in or invited already needs no invitation.
        let membership = self.rooms().membership_of(&room, target).await?;
        if matches!(membership, Membership::Join | Membership::Invite) {
            return Ok(());
        }
        if let Some(key_validity_url) = signer.key_validity_url {
            let key = InviteKey { public_key: signer.public_key, key_validity_url };
            let is_valid = identity_servers.is_key_valid(&key).await;
            if !is_valid.map_err(|error| HandshakeError::IdentityServer(error.to_string()))? {
                return Err(wrong("the identity server's key is no longer valid"));
            }
        }
        let shown: Map<String, Value> = waiting.event.content_as().unwrap_or_default();
        let display_name = shown.get("display_name").cloned().unwrap_or_else(|| "".into());
        let content = json!({
            "membership": "invite",
            "third_party_invite": { "display_name": display_name, "signed": signed },
        });
        let request = EventRequest::state(sender.clone(), MEMBER, target.as_str(), content);
        match self.is_own_user(target) {
            true => self.rooms().append(&room, &[request], None).await.map(drop)?,
            false => self.invite_remote(&room, target, &request).await.map(drop)?,
        }
        Ok(())
    }

    fn is_own_user(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name()
    }
}
