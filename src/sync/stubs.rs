//! Stand-ins until the real ones land.
use crate::{rooms::Room, storage::StorageError};
use ruma::{OwnedEventId, OwnedUserId, UserId};
use std::{collections::HashSet, sync::Arc};
#[derive(Clone)]
pub struct Counts;
#[derive(Default)]
pub struct UnreadCounts;
#[derive(Default)]
pub struct Count;
impl Count {
    pub fn write_json(&self, out: &mut String) {
        out.push_str("{\"highlight_count\":0,\"notification_count\":0}")
    }
}
impl UnreadCounts {
    pub fn split(&self, _: bool) -> (Count, Vec<(OwnedEventId, Count)>) {
        (Count, Vec::new())
    }
}
impl Counts {
    pub fn changed_at(&self, _: &UserId, _: &Room) -> i64 {
        0
    }
    pub async fn unread(&self, _: &UserId, _: &Room) -> Result<UnreadCounts, StorageError> {
        Ok(UnreadCounts)
    }
}
#[derive(Clone)]
pub struct Accounts;
pub struct Row {
    pub room_id: Option<String>,
    pub kind: String,
    pub content: String,
}
impl Accounts {
    pub async fn ignored_users(
        &self,
        _: &UserId,
    ) -> Result<Arc<HashSet<OwnedUserId>>, StorageError> {
        Ok(Arc::default())
    }
    pub async fn list_account_data(
        &self,
        _: &UserId,
        _: (i64, i64),
    ) -> Result<Vec<Row>, StorageError> {
        Ok(Vec::new())
    }
}
