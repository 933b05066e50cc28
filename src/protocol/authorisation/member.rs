//! Rule 5: membership.

use ruma::UserId;
use serde_json::{Map, Value};

use super::{AuthRejection, Candidate, Judge};
use crate::protocol::{
    event::Event,
    membership::{MemberContent, Membership},
    room_content::{CreateContent, JoinRule, JoinRules},
    third_party_invite::is_signed_by_inviter,
};

pub(super) fn check(
    judge: &Judge<'_>,
    event: &impl Candidate,
    create: &Event,
) -> Result<(), AuthRejection> {
    // Rule 5.1: if there is no `state_key`, or no `membership` in `content`, reject.
    let state_key = event.state_key().ok_or(AuthRejection::MemberStateKeyMissing)?;
    let content: MemberContent = event.read_content().unwrap_or_default();
    if content.membership.is_none() {
        return Err(AuthRejection::MembershipMissing);
    }
    // Rules 5.3 to 5.8 compare the state key with users, so nothing else can pass them.
    let target =
        <&UserId>::try_from(state_key).map_err(|_| AuthRejection::MemberStateKeyNotUser)?;
    // Rule 5.2: the signature of `join_authorised_via_users_server`'s server is checked with all other
    // signatures; what names no user can have none.
    if judge.rules.restricted
        && content.join_authorised_via_users_server.is_some()
        && content.authorising_user().is_none()
    {
        return Err(AuthRejection::JoinNotAuthorised);
    }
    let request = MemberChange { judge, event, target, content: &content };
    match content.membership() {
        Some(Membership::Join) => request.check_join(create),
        Some(Membership::Invite) => request.check_invite(),
        Some(Membership::Leave) => request.check_leave(),
        Some(Membership::Ban) => request.check_ban(),
        Some(Membership::Knock) if judge.rules.knock => request.check_knock(),
        // Rule 5.8: otherwise, the membership is unknown. Reject.
        _ => Err(AuthRejection::UnknownMembership),
    }
}

struct MemberChange<'a, C> {
    judge: &'a Judge<'a>,
    event: &'a C,
    target: &'a UserId,
    content: &'a MemberContent,
}

impl<C: Candidate> MemberChange<'_, C> {
    /// Rule 5.3: if `membership` is `join`.
    fn check_join(&self, create: &Event) -> Result<(), AuthRejection> {
        // Rule 5.3.1: if the only previous event is the create event and the target its creator, allow.
        if self.event.follows_only(create.event_id()) {
            let creator = CreateContent::of_event(create, self.judge.rules).creator;
            if creator.as_deref() == Some(self.target) {
                return Ok(());
            }
        }
        // Rule 5.3.2: if the sender does not match `state_key`, reject.
        if self.event.sender() != self.target {
            return Err(AuthRejection::JoinForAnotherUser);
        }
        // Rule 5.3.3: if the sender is banned, reject.
        let membership = self.target_membership();
        if membership == Membership::Ban {
            return Err(AuthRejection::UserBanned);
        }
        let invited = matches!(membership, Membership::Invite | Membership::Join);
        match self.join_rule() {
            // Rule 5.3.4: by `invite` or `knock`, those may join who are invited or joined.
            JoinRule::Invite if invited => Ok(()),
            JoinRule::Knock if invited && self.judge.rules.knock => Ok(()),
            // Rule 5.3.5: if the join rule is `restricted` or `knock_restricted`.
            rule if rule.is_restricted(self.judge.rules) => {
                // Rule 5.3.5.1: if membership state is `join` or `invite`, allow.
                if invited { Ok(()) } else { self.check_authorising_user() }
            }
            // Rule 5.3.6: if the join rule is `public`, allow.
            JoinRule::Public => Ok(()),
            // Rule 5.3.7: otherwise, reject.
            _ => Err(AuthRejection::NotInvited),
        }
    }

    /// Rules 5.3.5.2 and 5.3.5.3: the user who vouches must be joined and able to invite.
    fn check_authorising_user(&self) -> Result<(), AuthRejection> {
        let authoriser = self.content.authorising_user().ok_or(AuthRejection::JoinNotAuthorised)?;
        let power = self.judge.power();
        let may_invite = self.judge.membership(&authoriser) == Membership::Join
            && power.user(&authoriser) >= power.invite();
        if may_invite { Ok(()) } else { Err(AuthRejection::JoinNotAuthorised) }
    }

    /// Rule 5.4: if `membership` is `invite`.
    fn check_invite(&self) -> Result<(), AuthRejection> {
        // Rule 5.4.1: if `content` has a `third_party_invite` property.
        if let Some(invite) = &self.content.third_party_invite {
            return self.check_third_party_invite(invite);
        }
        // Rule 5.4.2: if the sender's membership state is not `join`, reject.
        self.check_sender_joined()?;
        // Rule 5.4.3: if the target is joined or banned, reject.
        match self.target_membership() {
            Membership::Join => return Err(AuthRejection::TargetAlreadyJoined),
            Membership::Ban => return Err(AuthRejection::UserBanned),
            _ => {}
        }
        // Rules 5.4.4 and 5.4.5: allow if the sender's level is at least the invite level.
        let power = self.judge.power();
        if power.user(self.event.sender()) >= power.invite() {
            Ok(())
        } else {
            Err(AuthRejection::CannotInvite)
        }
    }

    fn check_third_party_invite(&self, invite: &Value) -> Result<(), AuthRejection> {
        // Rule 5.4.1.1: if the target is banned, reject.
        if self.target_membership() == Membership::Ban {
            return Err(AuthRejection::UserBanned);
        }
        // Rule 5.4.1.2: if there is no `signed` property, reject.
        let signed = invite.get("signed").ok_or(AuthRejection::ThirdPartyUnsigned)?;
        let signed: &Map<String, Value> =
            signed.as_object().ok_or(AuthRejection::ThirdPartyMalformed)?;
        // Rule 5.4.1.3: if `signed` does not have `mxid` and `token`, reject.
        let text = |key| signed.get(key).and_then(Value::as_str);
        let (Some(mxid), Some(token)) = (text("mxid"), text("token")) else {
            return Err(AuthRejection::ThirdPartyMalformed);
        };
        // Rule 5.4.1.4: if `mxid` does not match `state_key`, reject.
        if self.target != mxid {
            return Err(AuthRejection::ThirdPartyForAnotherUser);
        }
        // Rule 5.4.1.5: if the state has no such `m.room.third_party_invite`, reject.
        let room_invite = self.judge.state.find("m.room.third_party_invite", token);
        let room_invite = room_invite.ok_or(AuthRejection::ThirdPartyUnknown)?;
        // Rule 5.4.1.6: if the senders do not match, reject.
        if room_invite.sender() != self.event.sender() {
            return Err(AuthRejection::ThirdPartyOfAnotherSender);
        }
        // Rules 5.4.1.7 and 5.4.1.8: allow if any signature matches any public key.
        if is_signed_by_inviter(signed, &room_invite) {
            Ok(())
        } else {
            Err(AuthRejection::ThirdPartySignatureInvalid)
        }
    }

    /// Rule 5.5: if `membership` is `leave`.
    fn check_leave(&self) -> Result<(), AuthRejection> {
        let membership = self.target_membership();
        // Rule 5.5.1: who leaves must be invited or joined, or (version 7) have knocked.
        if self.event.sender() == self.target {
            return match membership {
                Membership::Invite | Membership::Join => Ok(()),
                Membership::Knock if self.judge.rules.knock => Ok(()),
                _ => Err(AuthRejection::NothingToLeave),
            };
        }
        // Rule 5.5.2: if the sender's membership state is not `join`, reject.
        self.check_sender_joined()?;
        let power = self.judge.power();
        let sender_level = power.user(self.event.sender());
        // Rule 5.5.3: if the target is banned and the sender's level below the ban level, reject.
        if membership == Membership::Ban && sender_level < power.ban() {
            return Err(AuthRejection::CannotUnban);
        }
        // Rules 5.5.4 and 5.5.5: the kick level, and the target below the sender.
        if sender_level >= power.kick() && power.user(self.target) < sender_level {
            Ok(())
        } else {
            Err(AuthRejection::CannotKick)
        }
    }

    /// Rule 5.6: if `membership` is `ban`.
    fn check_ban(&self) -> Result<(), AuthRejection> {
        // Rule 5.6.1: if the sender's membership state is not `join`, reject.
        self.check_sender_joined()?;
        // Rules 5.6.2 and 5.6.3: the ban level, and the target below the sender.
        let power = self.judge.power();
        let sender_level = power.user(self.event.sender());
        if sender_level >= power.ban() && power.user(self.target) < sender_level {
            Ok(())
        } else {
            Err(AuthRejection::CannotBan)
        }
    }

    /// Rule 5.7: if `membership` is `knock`.
    fn check_knock(&self) -> Result<(), AuthRejection> {
        // Rule 5.7.1: if the join rule is neither `knock` nor `knock_restricted`, reject.
        if !self.join_rule().allows_knocking(self.judge.rules) {
            return Err(AuthRejection::KnockingNotAllowed);
        }
        // Rule 5.7.2: if the sender does not match `state_key`, reject.
        if self.event.sender() != self.target {
            return Err(AuthRejection::KnockForAnotherUser);
        }
        // Rules 5.7.3 and 5.7.4: allow unless banned, invited or joined.
        match self.target_membership() {
            Membership::Ban => Err(AuthRejection::UserBanned),
            Membership::Invite | Membership::Join => Err(AuthRejection::NoNeedToKnock),
            Membership::Knock | Membership::Leave => Ok(()),
        }
    }

    fn check_sender_joined(&self) -> Result<(), AuthRejection> {
        if self.judge.membership(self.event.sender()) == Membership::Join {
            Ok(())
        } else {
            Err(AuthRejection::SenderNotInRoom)
        }
    }

    fn target_membership(&self) -> Membership {
        self.judge.membership(self.target)
    }

    fn join_rule(&self) -> JoinRule {
        let event = self.judge.state.find("m.room.join_rules", "");
        JoinRules::of_state(event.as_deref()).join_rule
    }
}
