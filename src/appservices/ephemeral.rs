//! Typing, receipts and presence for services that want them (application-service API, "Pushing
//! ephemeral data"). What changed is noted per service in bounded memory, and written with the next
//! transaction as it is then.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};

use super::{
    Appservices, interest::Interests, registration::Service, tail::Feed, transaction::EPHEMERAL_MAX,
};
use crate::{
    ephemeral::EphemeralChange,
    rooms::{Room, write_json_string},
    storage::{RoomNid, StorageError, appservices},
};

/// Rooms or users whose changes are noted for one service; of further ones it does not learn.
const CHANGES_MAX: usize = 10_000;

/// What changed since the last transaction of a service.
#[derive(Default)]
pub struct Changes {
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    typing: HashMap<RoomNid, Arc<Room>>,
    receipts: HashMap<RoomNid, Arc<Room>>,
    presence: HashSet<OwnedUserId>,
}

/// Events for a transaction, each as JSON.
#[derive(Default)]
pub struct EphemeralNews(Vec<String>);

/// One service's view of what passes.
pub(super) struct Ephemerals {
    appservices: Appservices,
    service: Arc<Service>,
    changes: Arc<Changes>,
    feed: Arc<Feed>,
    /// Receipts up to this place in the stream were taken.
    receipts_upto: i64,
}

impl EphemeralNews {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn events(&self) -> &[String] {
        &self.0
    }
}

impl Changes {
    /// Notes a change, and has the service look.
    pub fn note(&self, change: EphemeralChange<'_>, feed: &Feed) {
        let mut noted = self.noted.lock();
        let noted = &mut *noted;
        let is_noted = match change {
            EphemeralChange::Typing(room) => note_room(&mut noted.typing, room),
            EphemeralChange::Receipts(room) => note_room(&mut noted.receipts, room),
            EphemeralChange::Presence(user) if noted.presence.len() < CHANGES_MAX => {
                noted.presence.insert(user.to_owned())
            }
            EphemeralChange::Presence(_) => false,
        };
        if is_noted {
            feed.bell.notify_one();
        }
    }

    /// Takes up to `limit` changes.
    fn take(&self, limit: usize) -> Noted {
        let mut noted = self.noted.lock();
        if noted.typing.len() + noted.receipts.len() + noted.presence.len() <= limit {
            return std::mem::take(&mut *noted);
        }
        let third = limit / 3;
        Noted {
            typing: take_some(&mut noted.typing, third),
            receipts: take_some(&mut noted.receipts, third),
            presence: {
                let some: HashSet<_> = noted.presence.iter().take(third).cloned().collect();
                noted.presence.retain(|user| !some.contains(user));
                some
            },
        }
    }

    fn is_empty(&self) -> bool {
        let noted = self.noted.lock();
        noted.typing.is_empty() && noted.receipts.is_empty() && noted.presence.is_empty()
    }

    fn has_receipts(&self) -> bool {
        !self.noted.lock().receipts.is_empty()
    }
}

impl Appservices {
    /// Begins to note what passes for a service. Receipts that it may have missed while this server
    /// was down are noted as well.
    pub(super) async fn open_ephemerals(
        &self,
        (service, feed): (&Arc<Service>, &Arc<Feed>),
        position: i64,
    ) -> Result<Ephemerals, StorageError> {
        let changes = self.0.changes.lock().entry(service.id.clone()).or_default().clone();
        let rooms = &self.0.rooms;
        let upto = rooms.writer().position();
        if position < upto {
            let range = (position, upto);
            let nids = appservices::list_rooms_with_receipts(rooms.database(), range).await?;
            for room in rooms.load_all(&nids).await? {
                note_room(&mut changes.noted.lock().receipts, &room);
            }
        }
        let (appservices, service, feed) = (self.clone(), service.clone(), feed.clone());
        Ok(Ephemerals { appservices, service, changes, feed, receipts_upto: position })
    }
}

impl Ephemerals {
    /// What is new, as far as it concerns the service and fits into one transaction.
    pub async fn take(&mut self, interests: &Interests) -> Result<EphemeralNews, StorageError> {
        let upto = self.appservices.0.rooms.writer().position();
        let noted = self.changes.take(EPHEMERAL_MAX);
        let ephemeral = self.appservices.0.ephemeral.clone();
        let mut news = EphemeralNews::default();
        for room in noted.typing.values() {
            let mut event = String::new();
            // From the first epoch on, so that it is told too that nobody types any more.
            if interests.is_in(room).await? && ephemeral.typing.write_since(&mut event, room, 1) {
                news.0.push(with_room_id(event, room));
            }
        }
        let is_ours = |user: &UserId| self.service.covers_user(user);
        for room in noted.receipts.values() {
            let mut event = String::new();
            let range = (self.receipts_upto, upto);
            if interests.is_in(room).await?
                && ephemeral.receipts.write_for(&mut event, room, &is_ours, range, i64::MIN).await?
            {
                news.0.push(with_room_id(event, room));
            }
        }
        if !self.changes.has_receipts() {
            self.receipts_upto = upto;
        }
        if !self.changes.is_empty() {
            self.feed.bell.notify_one();
        }
        for user in &noted.presence {
            if let Some(status) = ephemeral.presence.find(user)
                && interests.concerns_user(user).await?
            {
                let mut event = String::from(r#"{"content":{"#);
                status.write_json(&mut event);
                event.push_str(r#"},"sender":"#);
                write_json_string(&mut event, user.as_str());
                event.push_str(r#","type":"m.presence"}"#);
                news.0.push(event);
            }
        }
        Ok(news)
    }
}

fn note_room(noted: &mut HashMap<RoomNid, Arc<Room>>, room: &Arc<Room>) -> bool {
    if noted.len() >= CHANGES_MAX && !noted.contains_key(&room.nid) {
        return false;
    }
    noted.insert(room.nid, Arc::clone(room)).is_none()
}

fn take_some(noted: &mut HashMap<RoomNid, Arc<Room>>, limit: usize) -> HashMap<RoomNid, Arc<Room>> {
    let some: Vec<RoomNid> = noted.keys().take(limit).copied().collect();
    some.into_iter().filter_map(|nid| noted.remove_entry(&nid)).collect()
}

/// Adds the room to an event that `/sync` has in the section of its room.
fn with_room_id(mut event: String, room: &Room) -> String {
    event.truncate(event.len().saturating_sub(1));
    event.push_str(r#","room_id":"#);
    write_json_string(&mut event, room.room_id.as_str());
    event.push('}');
    event
}
