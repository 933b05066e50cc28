//! What users store for themselves, globally and per room: account data, tags, filters. Push rules
//! are kept here as well, but have their own operations (see `push_rules`).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ruma::{RoomId, UserId};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Accounts, push_rules::PUSH_RULES_KIND};
use crate::storage::{
    StorageError, WriteTx,
    account_data::{self, StoredAccountData},
};

/// The type under which tags are kept.
pub const TAGS_KIND: &str = "m.tag";
/// Pieces of account data that one user may have, and their total size.
const PIECES_MAX: i64 = 100_000;
const TOTAL_BYTES_MAX: i64 = 64 << 20;
/// Tags of one room.
const TAGS_MAX: usize = 1_000;
/// Bytes of the hash that names a filter.
const FILTER_ID_BYTES: usize = 9;

/// Why account data were not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreDataError {
    #[error("this account stores as much as it may")]
    TooMuch,
    #[error("stored tags cannot be read")]
    Damaged,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Accounts {
    /// Stores a JSON object; `room_id` is `None` for a global one.
    pub async fn store_data(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
        content: &str,
    ) -> Result<(), StoreDataError> {
        let (pieces, bytes) = account_data::measure(&self.database, user_id.as_str()).await?;
        if pieces >= PIECES_MAX || bytes >= TOTAL_BYTES_MAX {
            return Err(StoreDataError::TooMuch);
        }
        let mut tx = WriteTx::new();
        let room = room_id.map_or("", RoomId::as_str);
        account_data::push_data(&mut tx, user_id.as_str(), room, kind, content);
        Ok(self.commit_and_wake(tx, user_id).await?)
    }

    /// The content of a piece of account data. Push rules always have one.
    pub async fn find_data(
        &self,
        user_id: &UserId,
        room_id: Option<&RoomId>,
        kind: &str,
    ) -> Result<Option<String>, StorageError> {
        if room_id.is_none() && kind == PUSH_RULES_KIND {
            return Ok(Some(self.load_push_rules(user_id).await?.to_content()));
        }
        let room = room_id.map_or("", RoomId::as_str);
        account_data::find(&self.database, user_id.as_str(), room, kind).await
    }

    /// All account data of a user up to a position, global and of rooms, for an initial sync. Push
    /// rules are among them even when the user never changed them (then at position 0).
    pub async fn list_data(
        &self,
        user_id: &UserId,
        upto: i64,
    ) -> Result<Vec<StoredAccountData>, StorageError> {
        let mut data = account_data::list(&self.database, user_id.as_str(), upto).await?;
        for piece in &mut data {
            if piece.room_id.is_empty() && piece.kind == PUSH_RULES_KIND {
                piece.content = self.load_push_rules(user_id).await?.to_content();
                return Ok(data);
            }
        }
        data.push(StoredAccountData {
            room_id: String::new(),
            kind: PUSH_RULES_KIND.to_owned(),
            content: self.load_push_rules(user_id).await?.to_content(),
            position: 0,
        });
        Ok(data)
    }

    /// Account data that changed behind `since` up to `upto`, for an incremental sync.
    pub async fn list_changed_data(
        &self,
        user_id: &UserId,
        since: i64,
        upto: i64,
    ) -> Result<Vec<StoredAccountData>, StorageError> {
        account_data::list_changed(&self.database, user_id.as_str(), since, upto).await
    }

    /// The tags of a room: an object of tags and their contents.
    pub async fn load_tags(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
    ) -> Result<Map<String, Value>, StoreDataError> {
        let content = self.find_data(user_id, Some(room_id), TAGS_KIND).await?;
        parse_tags(content.as_deref())
    }

    /// Sets a tag of a room, or removes it when `content` is `None`.
    pub async fn change_tag(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        tag: &str,
        content: Option<Value>,
    ) -> Result<(), StoreDataError> {
        let (user, room, tag) = (user_id.to_string(), room_id.to_string(), tag.to_owned());
        let changed: Result<(), StoreDataError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let stored = account_data::find_in(tx, &user, &room, TAGS_KIND).await?;
                    let mut tags = parse_tags(stored.as_deref())?;
                    match content {
                        Some(content) => drop(tags.insert(tag, content)),
                        None if tags.remove(&tag).is_none() => return Ok(()),
                        None => {}
                    }
                    if tags.len() > TAGS_MAX {
                        return Err(StoreDataError::TooMuch);
                    }
                    let content = json!({ "tags": tags }).to_string();
                    Ok(account_data::set(tx, &user, &room, TAGS_KIND, &content).await?)
                })
            })
            .await;
        changed?;
        self.notifier.wake(user_id);
        Ok(())
    }

    /// Stores a filter, which was checked; returns its ID. The same filter gets the same ID.
    pub async fn store_filter(
        &self,
        user_id: &UserId,
        filter: &str,
    ) -> Result<String, StorageError> {
        let hash = Sha256::digest(filter.as_bytes());
        let filter_id = BASE64_URL_SAFE_NO_PAD.encode(&hash[..FILTER_ID_BYTES]);
        if self.find_filter(user_id, &filter_id).await?.is_none() {
            let mut tx = WriteTx::new();
            account_data::push_filter(&mut tx, user_id.as_str(), &filter_id, filter);
            self.writer.commit(tx).await?;
        }
        Ok(filter_id)
    }

    /// A filter as JSON.
    pub async fn find_filter(
        &self,
        user_id: &UserId,
        filter_id: &str,
    ) -> Result<Option<String>, StorageError> {
        account_data::find_filter(&self.database, user_id.as_str(), filter_id).await
    }

    /// Commits and wakes the user's syncs, even if whoever asked for it goes away meanwhile.
    pub(super) async fn commit_and_wake(
        &self,
        tx: WriteTx,
        user_id: &UserId,
    ) -> Result<(), StorageError> {
        let (writer, notifier) = (self.writer.clone(), self.notifier.clone());
        let user_id = user_id.to_owned();
        let committing = tokio::spawn(async move {
            writer.commit(tx).await?;
            notifier.wake(&user_id);
            Ok(())
        });
        committing.await.map_err(|_| StorageError::Closed)?
    }
}

fn parse_tags(content: Option<&str>) -> Result<Map<String, Value>, StoreDataError> {
    let Some(content) = content else { return Ok(Map::new()) };
    let content: Value = serde_json::from_str(content).map_err(|_| StoreDataError::Damaged)?;
    Ok(content["tags"].as_object().cloned().unwrap_or_default())
}
