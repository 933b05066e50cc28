//! What users store for themselves, globally and per room: account data, tags, filters. Push rules
//! are kept here as well, but have their own operations (see `push_rules`).

use std::{collections::HashSet, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{Accounts, push_rules::PUSH_RULES_KIND};
use crate::{
    protocol::invite_permission::{
        INVITE_FILTER_KIND, INVITE_PERMISSION_KIND, InvitePermission, InviteVerdict,
    },
    storage::{
        StorageError, WriteTx,
        account_data::{self, StoredAccountData},
    },
};

/// The type under which tags are kept.
pub const TAGS_KIND: &str = "m.tag";
/// The type under which a user lists whom to ignore.
pub const IGNORED_USERS_KIND: &str = "m.ignored_user_list";
/// The content of account data that are deleted: a sync carries it to the other devices (MSC3391).
pub const DELETED: &str = "{}";
/// Pieces of account data that one user may have, and their total size.
const PIECES_MAX: i64 = 100_000;
const TOTAL_BYTES_MAX: i64 = 64 << 20;
/// Tags of one room.
const TAGS_MAX: usize = 1_000;
/// Filters of one user. Apps make a handful, the same ones again and again.
const FILTERS_MAX: i64 = 1_000;
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
        self.store_data_in(WriteTx::new(), user_id, (room_id, kind), content).await
    }

    /// The same together with another write.
    pub async fn store_data_in(
        &self,
        mut tx: WriteTx,
        user_id: &UserId,
        (room_id, kind): (Option<&RoomId>, &str),
        content: &str,
    ) -> Result<(), StoreDataError> {
        let (pieces, bytes) = account_data::measure(&self.database, user_id.as_str()).await?;
        if pieces >= PIECES_MAX || bytes >= TOTAL_BYTES_MAX {
            return Err(StoreDataError::TooMuch);
        }
        let room = room_id.map_or("", RoomId::as_str);
        account_data::push_data(&mut tx, user_id.as_str(), room, kind, content);
        let (ignored, invites) = (self.ignored_cache.clone(), self.invite_cache.clone());
        let (kind, user) = (kind.to_owned(), user_id.to_owned());
        let applied = move || match kind.as_str() {
            IGNORED_USERS_KIND => ignored.forget(&user),
            INVITE_PERMISSION_KIND | INVITE_FILTER_KIND => invites.forget(&user),
            _ => {}
        };
        Ok(self.changes.commit(tx, user_id, applied).await?)
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
        let found = account_data::find(&self.database, user_id.as_str(), room, kind).await?;
        Ok(found.filter(|content| !is_deleted(content)))
    }

    /// Account data behind `since` up to `upto`, for a sync, in the order of positions. For an
    /// initial sync (`since` 0) push rules are among them even when the user never changed them.
    pub async fn list_data(
        &self,
        user_id: &UserId,
        (since, upto): (i64, i64),
    ) -> Result<Vec<StoredAccountData>, StorageError> {
        let user = user_id.as_str();
        let mut data = account_data::list_changed(&self.database, user, since, upto).await?;
        let is_push_rules = |piece: &&mut StoredAccountData| {
            piece.room_id.is_empty() && piece.kind == PUSH_RULES_KIND
        };
        if since == 0 {
            data.retain(|piece| !is_deleted(&piece.content));
        }
        if let Some(piece) = data.iter_mut().find(is_push_rules) {
            // With the rules that were predefined since they were stored.
            piece.content = self.load_push_rules(user_id).await?.to_content();
        } else if since == 0 {
            data.push(StoredAccountData {
                room_id: String::new(),
                kind: PUSH_RULES_KIND.to_owned(),
                content: self.load_push_rules(user_id).await?.to_content(),
                position: 0,
            });
        }
        Ok(data)
    }

    /// Whom a user ignores (Client-Server API, "Ignoring Users"), from memory when warm.
    pub async fn load_ignored_users(
        &self,
        user_id: &UserId,
    ) -> Result<Arc<HashSet<OwnedUserId>>, StorageError> {
        if let Some(ignored) = self.ignored_cache.get(user_id) {
            return Ok(ignored);
        }
        let epoch = self.ignored_cache.epoch();
        let content =
            account_data::find(&self.database, user_id.as_str(), "", IGNORED_USERS_KIND).await?;
        let ignored = Arc::new(parse_ignored_users(content.as_deref()));
        self.ignored_cache.insert(user_id, ignored.clone(), epoch);
        Ok(ignored)
    }

    /// Whose invitations a user takes (Client-Server API, "Invite permission"; MSC4155), from memory
    /// when warm. Whom they ignore is not in it.
    pub async fn load_invite_permission(
        &self,
        user_id: &UserId,
    ) -> Result<Arc<InvitePermission>, StorageError> {
        if let Some(permission) = self.invite_cache.get(user_id) {
            return Ok(permission);
        }
        let epoch = self.invite_cache.epoch();
        let (database, user) = (&self.database, user_id.as_str());
        let permission = account_data::find(database, user, "", INVITE_PERMISSION_KIND).await?;
        let filter = account_data::find(database, user, "", INVITE_FILTER_KIND).await?;
        let permission = InvitePermission::parse(permission.as_deref(), filter.as_deref());
        let permission = Arc::new(permission);
        self.invite_cache.insert(user_id, permission.clone(), epoch);
        Ok(permission)
    }

    /// Whether a user does not want to see an invitation by `sender`.
    pub async fn hides_invite(
        &self,
        user_id: &UserId,
        sender: &UserId,
    ) -> Result<bool, StorageError> {
        let permission = self.load_invite_permission(user_id).await?;
        Ok(permission.judge(sender) != InviteVerdict::Take
            || self.load_ignored_users(user_id).await?.contains(sender))
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
        let (changes, owner) = (self.changes.clone(), user_id.to_owned());
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
                    let position = account_data::set(tx, &user, &room, TAGS_KIND, &content).await?;
                    changes.note_in(tx, &owner, position);
                    Ok(())
                })
            })
            .await;
        changed?;
        self.changes.wake(user_id);
        Ok(())
    }

    /// Stores a filter, which was checked; returns its ID. The same filter gets the same ID.
    pub async fn store_filter(
        &self,
        user_id: &UserId,
        filter: &str,
    ) -> Result<String, StoreDataError> {
        let hash = Sha256::digest(filter.as_bytes());
        let filter_id = BASE64_URL_SAFE_NO_PAD.encode(&hash[..FILTER_ID_BYTES]);
        if self.find_filter(user_id, &filter_id).await?.is_none() {
            if account_data::count_filters(&self.database, user_id.as_str()).await? >= FILTERS_MAX {
                return Err(StoreDataError::TooMuch);
            }
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
}

/// Whether account data of this content are gone: who asks later learns nothing of them (MSC3391).
pub fn is_deleted(content: &str) -> bool {
    let inner = content.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    inner.is_some_and(|inner| inner.trim().is_empty())
}

/// The users in a content of `m.ignored_user_list`. Clients write this list, so what is not understood
/// in it is left out.
pub fn parse_ignored_users(content: Option<&str>) -> HashSet<OwnedUserId> {
    let content: Option<Value> = content.and_then(|text| serde_json::from_str(text).ok());
    let list = content.as_ref().and_then(|content| content["ignored_users"].as_object());
    list.into_iter().flatten().filter_map(|(user, _)| UserId::parse(user).ok()).collect()
}

fn parse_tags(content: Option<&str>) -> Result<Map<String, Value>, StoreDataError> {
    let Some(content) = content else { return Ok(Map::new()) };
    let content: Value = serde_json::from_str(content).map_err(|_| StoreDataError::Damaged)?;
    Ok(content["tags"].as_object().cloned().unwrap_or_default())
}
