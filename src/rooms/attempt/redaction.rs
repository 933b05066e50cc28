//! What a redaction does to the event that it names: whether a user may ask for it, and the new bytes.

use std::sync::Arc;

use ruma::OwnedEventId;

use super::{Attempt, FoundState};
use crate::{
    protocol::{
        authorisation::may_redact, event::Event, power_levels::PowerLevels,
        redaction::redact_event, state_key::StateLookup,
    },
    rooms::{
        append::AppendError,
        event_store::{StoredEvent, event_key},
        summary,
    },
    storage,
};

impl Attempt<'_> {
    /// What a user of this server asks for must have its effect. An event that is not here may be
    /// redacted by whoever may redact all: it may be elsewhere, or come later.
    pub(super) fn check_redaction(
        &self,
        target: &OwnedEventId,
        (redaction, by_administrator): (&Event, bool),
        state: &FoundState,
    ) -> Result<(), AppendError> {
        let target = self.known.targets.get(target);
        let sender = redaction.sender();
        // Before version 3 the authorisation rules ask for the power, whoever asks.
        let is_theirs = target.is_some_and(|target| {
            let is_ours = target.event.sender().server_name() == sender.server_name();
            target.event.sender() == sender || by_administrator && is_ours
        });
        if is_theirs {
            return Ok(());
        }
        let (create, power) =
            (state.find("m.room.create", ""), state.find("m.room.power_levels", ""));
        let levels = PowerLevels::from_events(create.as_deref(), power.as_deref(), self.rules);
        match levels.user(sender) >= levels.redact() {
            true => Ok(()),
            false if target.is_none() => Err(AppendError::RedactionTargetUnknown),
            false => Err(AppendError::RedactionForbidden),
        }
    }

    /// Replaces the redacted event's bytes in the same commit (client-server API, "Redactions"), if
    /// the redaction applies; one whose target is not here is kept in mind.
    pub(super) fn redact(&mut self, target_id: &OwnedEventId, redaction: &Arc<StoredEvent>) {
        let Some(target) = self.known.targets.get(target_id) else {
            let key = event_key(target_id);
            return storage::graph::insert_awaited_redaction(&mut self.tx, &key, redaction.nid);
        };
        let event = |kind| self.head.find_pinned(kind).map(|stored| &*stored.event);
        let (create, power) = (event("m.room.create"), event("m.room.power_levels"));
        let levels = PowerLevels::from_events(create, power, self.rules);
        let allowed =
            may_redact(redaction.event.sender(), target.event.sender(), &levels, self.rules);
        if target.is_redacted() || !allowed || target.event.kind() == "m.room.create" {
            return;
        }
        let event = redact_event(&target.event, self.rules);
        storage::events::redact(&mut self.tx, target.nid, event.json());
        self.engine.keep_original(&mut self.tx, &target.event, target.nid, redaction.nid);
        summary::delete_relation(&mut self.tx, target);
        let redacted = target.redacted(Arc::new(event), Arc::clone(redaction));
        self.redacted.push((Arc::new(redacted), self.events.len()));
    }
}
