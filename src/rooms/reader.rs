//! Events for one reader: with memberships, replaced state and aggregations, for whole batches at
//! once. Which events the reader may see is decided before (`visibility`).

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedUserId, UserId};

use super::{
    bundle::Bundles,
    client_event::{EventView, write_client_event},
    event_store::StoredEvent,
    registry::Rooms,
    visibility::Viewer,
};
use crate::{protocol::membership::Membership, storage::StorageError};

/// Who reads events, and in which form.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub user_id: &'a UserId,
    pub device_id: Option<&'a str>,
    /// Whose events do not count in aggregations.
    pub ignored: &'a HashSet<OwnedUserId>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    pub with_room_id: bool,
}

impl<'a> Reader<'a> {
    /// What the reader alone determines.
    pub fn view(&self) -> EventView<'a> {
        EventView {
            user_id: Some(self.user_id),
            device_id: self.device_id,
            now_ms: self.now_ms,
            with_room_id: self.with_room_id,
            ..EventView::default()
        }
    }

    /// Whether the reader gets the event at all: of ignored users state only (client-server API,
    /// "Ignoring users").
    pub fn takes(&self, event: &StoredEvent) -> bool {
        event.event.is_state() || !self.ignored.contains(event.event.sender())
    }
}

/// The reader's memberships over time, from the newest back, as far as they were asked for.
struct MembershipLine<'a> {
    viewer: &'a Viewer,
    events: Vec<Arc<StoredEvent>>,
    reaches_start: bool,
}

impl<'a> MembershipLine<'a> {
    fn new(viewer: &'a Viewer) -> Self {
        let events: Vec<_> = viewer.member_event().cloned().into_iter().collect();
        Self { viewer, reaches_start: events.is_empty(), events }
    }

    /// The membership at an event, including what the event changes (MSC4115).
    async fn at(&mut self, event: &StoredEvent) -> Result<Membership, StorageError> {
        loop {
            let held = |member: &&Arc<StoredEvent>| member.ordering() <= event.ordering();
            if let Some(member) = self.events.iter().find(held) {
                return Ok(Membership::of_state(Some(&member.event)));
            }
            let Some(oldest) = self.events.last().filter(|_| !self.reaches_start) else {
                return Ok(Membership::Leave);
            };
            match self.viewer.find_replaced(oldest).await? {
                Some(earlier) => self.events.push(earlier),
                None => self.reaches_start = true,
            }
        }
    }
}

impl Rooms {
    /// Appends the events, which the viewer may see, as a JSON array.
    pub async fn write_events(
        &self,
        out: &mut String,
        viewer: &Viewer,
        reader: &Reader<'_>,
        events: &[Arc<StoredEvent>],
    ) -> Result<(), StorageError> {
        let events = &*viewer.shown(events).await?;
        let bundles = self.bundle(viewer, reader, events).await?;
        let mut line = MembershipLine::new(viewer);
        out.push('[');
        for (number, event) in events.iter().enumerate() {
            if number > 0 {
                out.push(',');
            }
            self.write_one(out, (viewer, &mut line), reader, event, &bundles).await?;
        }
        out.push(']');
        Ok(())
    }

    /// Appends one event, which the viewer may see.
    pub async fn write_event(
        &self,
        out: &mut String,
        viewer: &Viewer,
        reader: &Reader<'_>,
        event: &Arc<StoredEvent>,
    ) -> Result<(), StorageError> {
        let shown = viewer.shown(std::slice::from_ref(event)).await?;
        let [event] = &*shown else { return Ok(()) };
        let bundles = self.bundle(viewer, reader, &shown).await?;
        let mut line = MembershipLine::new(viewer);
        self.write_one(out, (viewer, &mut line), reader, event, &bundles).await
    }

    async fn write_one(
        &self,
        out: &mut String,
        (viewer, line): (&Viewer, &mut MembershipLine<'_>),
        reader: &Reader<'_>,
        event: &Arc<StoredEvent>,
        bundles: &Bundles,
    ) -> Result<(), StorageError> {
        let prev = viewer.find_replaced(event).await?;
        let prev_is_hidden = match &prev {
            Some(prev) => !viewer.sees(prev).await?,
            None => false,
        };
        // What has no place in the room was at no moment of it.
        let is_placed = event.ordering() != 0 || event.event.sticky_ms().is_none();
        let view = EventView {
            membership: if is_placed { Some(line.at(event).await?) } else { None },
            prev: prev.as_deref(),
            prev_is_hidden,
            relations: bundles.get(&event.nid).map(String::as_str),
            sticky_ttl_ms: self.sticky_ttl_ms(event, reader.now_ms),
            ..reader.view()
        };
        write_client_event(out, event, &view);
        Ok(())
    }
}
