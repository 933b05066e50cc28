//! Fills the index of the search behind the stream, so that sending waits for nothing. What a search
//! needs and is not there yet is indexed before it answers.

use std::{sync::Arc, time::Duration};

use ruma::UserId;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{
    event_store::StoredEvent, registry::Rooms, room::Room, search_terms::hash_terms,
    summary::relation_of,
};
use crate::{
    protocol::event::Event,
    storage::{
        self, EventNid, StorageError, WriteTx,
        search::{self, Cursor},
    },
};

/// Events that are indexed by one commit.
const BATCH_EVENTS_MAX: usize = 200;
/// Rooms that are looked at together.
const ROOMS_MAX: usize = 100;
/// Commits that one search waits for; the rest follows in the background.
const BATCHES_PER_SEARCH_MAX: usize = 50;
/// How long new events may wait for being indexed.
const PAUSE: Duration = Duration::from_secs(1);

/// What can be searched (client-server API, "Server Side Search").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchKey {
    Body,
    Name,
    Topic,
}

/// The index. Clones share it.
#[derive(Clone)]
pub struct SearchIndex {
    pub(super) rooms: Rooms,
    /// Held by who indexes, so that nothing is done twice.
    filling: Arc<Mutex<()>>,
}

/// The texts of an event's content that can be searched.
pub(super) fn list_texts(event: &Event, content: &Value) -> Vec<(SearchKey, String)> {
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    match (event.kind(), event.state_key()) {
        ("m.room.message", None) => {
            text(&content["body"]).map(|body| (SearchKey::Body, body)).into_iter().collect()
        }
        ("m.room.name", Some("")) => {
            text(&content["name"]).map(|name| (SearchKey::Name, name)).into_iter().collect()
        }
        ("m.room.topic", Some("")) => {
            let rich = content["m.topic"]["m.text"].as_array().into_iter().flatten();
            let is_plain = |part: &&Value| {
                part.get("mimetype").is_none_or(|mimetype| mimetype == "text/plain")
            };
            let plain = rich.filter(is_plain).filter_map(|part| text(&part["body"]));
            let topics = text(&content["topic"]).into_iter().chain(plain);
            topics.map(|topic| (SearchKey::Topic, topic)).collect()
        }
        _ => Vec::new(),
    }
}

impl SearchIndex {
    pub fn new(rooms: Rooms) -> Self {
        Self { rooms, filling: Arc::default() }
    }

    /// Follows the stream for as long as it is polled.
    pub async fn run(self) {
        let mut positions = self.rooms.writer().subscribe();
        let mut done = None;
        loop {
            let position = *positions.borrow_and_update();
            if done != Some(position) {
                match self.fill(None, usize::MAX).await {
                    Ok(()) => done = Some(position),
                    Err(StorageError::Closed) => return,
                    Err(error) => tracing::warn!(%error, "the index of the search was not filled"),
                }
            }
            tokio::time::sleep(PAUSE).await;
            if positions.changed().await.is_err() {
                return;
            }
        }
    }

    /// Indexes what is missing of a user's rooms.
    pub async fn fill_of_user(&self, user: &UserId) -> Result<(), StorageError> {
        match self.rooms.keys().find_user(user.as_str()).await? {
            Some(user) => self.fill(Some(user), BATCHES_PER_SEARCH_MAX).await,
            None => Ok(()),
        }
    }

    async fn fill(
        &self,
        user: Option<storage::UserNid>,
        batches_max: usize,
    ) -> Result<(), StorageError> {
        let _filling = self.filling.lock().await;
        let mut batches = 0;
        loop {
            let behind = search::list_behind(self.rooms.database(), user, ROOMS_MAX).await?;
            let is_all = behind.len() < ROOMS_MAX;
            let nids: Vec<_> = behind.iter().map(|cursor| cursor.room).collect();
            let rooms = self.rooms.load_all(&nids).await?;
            for (room, mut cursor) in rooms.iter().zip(behind) {
                while self.index_batch(room, &mut cursor).await? {
                    batches += 1;
                    if batches >= batches_max {
                        return Ok(());
                    }
                }
            }
            if is_all {
                return Ok(());
            }
        }
    }

    /// Indexes the next events of a room, new ones first, then what was backfilled; false when there
    /// may be no further ones.
    async fn index_batch(&self, room: &Room, cursor: &mut Cursor) -> Result<bool, StorageError> {
        let newer = (cursor.upto, i64::MAX);
        let mut events = self.rooms.list_forwards(room, newer, BATCH_EVENTS_MAX).await?;
        let has_more = events.len() == BATCH_EVENTS_MAX;
        cursor.upto = match events.last() {
            Some(last) if has_more => last.ordering(),
            Some(last) => last.ordering().max(cursor.latest),
            None => cursor.upto.max(cursor.latest),
        };
        let mut has_older = false;
        if !has_more {
            let older = (i64::MIN, cursor.lowest);
            let older = self.rooms.list_backwards(room, older, BATCH_EVENTS_MAX).await?;
            has_older = older.len() == BATCH_EVENTS_MAX;
            cursor.lowest = older.last().map_or(cursor.lowest, |event| event.ordering());
            events.extend(older);
        }
        let mut tx = WriteTx::new();
        for event in &events {
            self.index_event(&mut tx, room, event).await?;
        }
        search::save_cursor(&mut tx, cursor);
        self.rooms.writer().commit(tx).await?;
        Ok(has_more || has_older)
    }

    async fn index_event(
        &self,
        tx: &mut WriteTx,
        room: &Room,
        stored: &StoredEvent,
    ) -> Result<(), StorageError> {
        let event = &stored.event;
        match event.kind() {
            "m.room.message" | "m.room.name" | "m.room.topic" if !stored.is_redacted() => {}
            "m.room.redaction" => {
                // One that was not allowed to has redacted nothing.
                if let Some(target) = event.redacts(room.rules)
                    && let Some(target) = self.rooms.find_any_event(room, &target).await?
                    && target.is_redacted()
                {
                    search::delete(tx, room.nid, target.nid);
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        let Ok(content) = event.content_as::<Value>() else { return Ok(()) };
        // The words of an edit belong to the message that it edits.
        let (nid, texts) = match relation_of(event) {
            Some((rel_type, target)) if rel_type == "m.replace" => {
                let Some(target) = self.rooms.find_any_event(room, &target).await? else {
                    return Ok(());
                };
                (target.nid, list_texts(event, &content["m.new_content"]))
            }
            _ => (stored.nid, list_texts(event, &content)),
        };
        for (_, text) in texts {
            insert_terms(tx, room, nid, &text);
        }
        Ok(())
    }
}

fn insert_terms(tx: &mut WriteTx, room: &Room, event: EventNid, text: &str) {
    for term in hash_terms(text) {
        search::insert(tx, room.nid, term, event);
    }
}
