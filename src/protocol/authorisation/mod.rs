//! The authorisation rules of every room version: whether an event is allowed, given a state.
//!
//! Not for signatures and hashes (`event_signatures`, `event_hash`), and not for choosing the state: the
//! caller asks once per state that the specification names. Rules are numbered as in room version 12;
//! earlier versions lack rule 2 there, and have the rules that the table of versions gives them.
//!
//! Source: specification, content/rooms/, "Authorisation rules" of each version.

mod auth_events;
mod candidate;
mod create;
mod member;
mod power_levels;
mod rejection;

use std::{cell::OnceCell, sync::Arc};

use ruma::{EventId, UserId};

pub use self::{
    auth_events::{
        AuthEvent, auth_event_keys, check_auth_events, list_auth_event_keys, list_judging_keys,
    },
    candidate::Candidate,
    rejection::AuthRejection,
};
use super::{
    event::Event,
    membership::Membership,
    power_levels::{PowerLevel, PowerLevels},
    room_content::CreateContent,
    room_version::RoomRules,
    state_key::StateLookup,
};

/// Judges `event` by `state`. The rules about `auth_events` (2 and 3) do not depend on a state and are
/// in [`check_auth_events`]; signatures (rule 5.2) must have been verified.
pub fn authorise(
    event: &impl Candidate,
    rules: &RoomRules,
    state: &dyn StateLookup,
) -> Result<(), AuthRejection> {
    Judge { rules, state, known_power: None, power: OnceCell::new() }.judge(event)
}

/// As [`authorise`], for a caller that keeps the power levels of `state` and so spares reading them.
pub fn authorise_with(
    event: &impl Candidate,
    rules: &RoomRules,
    state: &dyn StateLookup,
    power: &PowerLevels,
) -> Result<(), AuthRejection> {
    Judge { rules, state, known_power: Some(power), power: OnceCell::new() }.judge(event)
}

/// Whether the redaction by `sender` applies to an event of `original_sender` (content/rooms/,
/// "Handling redactions", from version 3 on; before, the authorisation rules have decided).
pub fn may_redact(
    sender: &UserId,
    original_sender: &UserId,
    power: &PowerLevels,
    rules: &RoomRules,
) -> bool {
    rules.redactions_authorised
        || power.user(sender) >= power.redact()
        || sender.server_name() == original_sender.server_name()
}

/// A state, and what is read from it at most once while an event is judged.
struct Judge<'a> {
    rules: &'a RoomRules,
    state: &'a dyn StateLookup,
    known_power: Option<&'a PowerLevels>,
    power: OnceCell<PowerLevels>,
}

impl Judge<'_> {
    fn judge(&self, event: &impl Candidate) -> Result<(), AuthRejection> {
        // Rule 1: if type is `m.room.create`.
        if event.kind() == "m.room.create" {
            return create::check(event, self.rules);
        }
        let create = self.find_create().ok_or(AuthRejection::CreateMissing)?;
        self.check_federation(event, &create)?;

        // Versions 1 to 5, rule 4: if type is `m.room.aliases`.
        if self.rules.aliases_authorised && event.kind() == "m.room.aliases" {
            return check_aliases(event);
        }
        // Rule 5: if type is `m.room.member`.
        if event.kind() == "m.room.member" {
            return member::check(self, event, &create);
        }
        // Rule 6: if the sender's current membership state is not `join`, reject.
        if self.membership(event.sender()) != Membership::Join {
            return Err(AuthRejection::SenderNotInRoom);
        }
        let sender_level = self.power().user(event.sender());
        // Rule 7: if type is `m.room.third_party_invite`, the invite level decides alone.
        if event.kind() == "m.room.third_party_invite" {
            return if sender_level >= self.power().invite() {
                Ok(())
            } else {
                Err(AuthRejection::CannotInvite)
            };
        }
        // Rule 8: if the required level is greater than the sender's level, reject.
        let required = self.power().to_send(event.kind(), event.state_key().is_some());
        if sender_level < required {
            return Err(AuthRejection::PowerTooLow { required });
        }
        // Rule 9: if the state key starts with `@` and is not the sender, reject.
        self.check_owner(event, sender_level)?;
        // Rule 10: if type is `m.room.power_levels`.
        if event.kind() == "m.room.power_levels" {
            return power_levels::check(event, self.power(), self.rules);
        }
        // Versions 1 and 2, rule 11: if type is `m.room.redaction`.
        if self.rules.redactions_authorised && event.kind() == "m.room.redaction" {
            return check_redaction(event, sender_level, self.power().redact(), self.rules);
        }
        // Rule 11: otherwise, allow.
        Ok(())
    }

    /// Rule 9, and what MSC3757 makes of it.
    fn check_owner(
        &self,
        event: &impl Candidate,
        sender_level: PowerLevel,
    ) -> Result<(), AuthRejection> {
        let state_key = event.state_key().unwrap_or_default();
        if !state_key.starts_with('@') || state_key == event.sender().as_str() {
            return Ok(());
        }
        if !self.rules.owned_state {
            return Err(AuthRejection::StateKeyOfAnotherUser);
        }
        let owner = find_owner(state_key).ok_or(AuthRejection::StateKeyOfNoUser)?;
        if owner == event.sender() || sender_level > self.power().user(owner) {
            return Ok(());
        }
        Err(AuthRejection::StateKeyOfAnotherUser)
    }

    /// Rule 4: if `m.federate` is false and the sender's server is not the creator's, reject.
    fn check_federation(
        &self,
        event: &impl Candidate,
        create: &Event,
    ) -> Result<(), AuthRejection> {
        let is_local = event.sender().server_name() == create.sender().server_name();
        if is_local || CreateContent::of_event(create, self.rules).federate {
            Ok(())
        } else {
            Err(AuthRejection::RoomNotFederated)
        }
    }

    fn find_create(&self) -> Option<Arc<Event>> {
        self.state.find("m.room.create", "")
    }

    /// The current membership of `user`.
    fn membership(&self, user: &UserId) -> Membership {
        Membership::of_state(self.state.find("m.room.member", user.as_str()).as_deref())
    }

    fn power(&self) -> &PowerLevels {
        self.known_power.unwrap_or_else(|| {
            self.power.get_or_init(|| {
                let power = self.state.find("m.room.power_levels", "");
                PowerLevels::from_events(
                    self.find_create().as_deref(),
                    power.as_deref(),
                    self.rules,
                )
            })
        })
    }
}

/// The user at the beginning of a state key: all of it, or what stands before the first `_` of the
/// server's name (MSC3757).
fn find_owner(state_key: &str) -> Option<&UserId> {
    let colon = state_key.find(':')?;
    let end = state_key[colon..].find('_').map_or(state_key.len(), |at| colon + at);
    <&UserId>::try_from(&state_key[..end]).ok()
}

fn check_aliases(event: &impl Candidate) -> Result<(), AuthRejection> {
    // Rule 4.1: if the event has no `state_key`, reject.
    let state_key = event.state_key().ok_or(AuthRejection::StateKeyMissing)?;
    // Rule 4.2: if the sender's domain does not match `state_key`, reject.
    if event.sender().server_name() != state_key {
        return Err(AuthRejection::AliasesOfAnotherServer);
    }
    // Rule 4.3: otherwise, allow.
    Ok(())
}

fn check_redaction(
    event: &impl Candidate,
    sender_level: PowerLevel,
    redact_level: i64,
    rules: &RoomRules,
) -> Result<(), AuthRejection> {
    // Rule 11.1: if the sender's level is at least the redact level, allow.
    if sender_level >= redact_level {
        return Ok(());
    }
    // Rule 11.2: if the redacted event's ID is of the same domain as this event's, allow.
    let redacts = event.redacts(rules);
    let redacted_server = redacts.as_deref().and_then(EventId::server_name);
    if redacted_server.is_some() && redacted_server == event.event_id_server() {
        return Ok(());
    }
    // Rule 11.3: otherwise, reject.
    Err(AuthRejection::CannotRedact)
}
