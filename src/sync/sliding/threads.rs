//! The extension for threads that the user follows (MSC4308).

use serde_json::{Map, Value, json};

use super::{Answer, News, Result, request::ThreadSubscriptions};
use crate::{accounts::thread_subscriptions::ThreadSubscription, rooms::UserRooms};

/// Changes in one answer when the client names no limit (MSC4308), and at most.
pub const THREAD_CHANGES_DEFAULT: usize = 100;
pub const THREAD_CHANGES_MAX: usize = 500;

impl Answer<'_> {
    /// Writes the latest changes that the client does not know of, with a comma before them; where
    /// there are more, a token to read on with.
    pub(super) async fn write_thread_subscriptions(
        &self,
        out: &mut String,
        rooms: &UserRooms,
        wish: ThreadSubscriptions,
        news: &mut News,
    ) -> Result<()> {
        let since = news.told.thread_subscriptions_upto;
        news.told.thread_subscriptions_upto = self.upto;
        if since > 0 && rooms.activity() <= since {
            return Ok(());
        }
        let limit = wish.limit.and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(THREAD_CHANGES_DEFAULT).clamp(1, THREAD_CHANGES_MAX);
        let (user, range) = (&self.request.user_id, (since, self.upto));
        let list = self.inner.accounts.list_thread_subscriptions(user, range, limit + 1).await?;
        if list.is_empty() {
            return Ok(());
        }
        let shown = &list[..list.len().min(limit)];
        let mut section = group_thread_changes(shown);
        if let Some(before) = shown.last().filter(|_| list.len() > limit) {
            section.insert("prev_batch".to_owned(), thread_token(before.position - 1).into());
        }
        out.push_str(",\"io.element.msc4308.thread_subscriptions\":");
        out.push_str(&Value::Object(section).to_string());
        Ok(())
    }
}

/// `subscribed` and `unsubscribed`, by room and thread; what is empty is left out.
pub fn group_thread_changes(changes: &[ThreadSubscription]) -> Map<String, Value> {
    let mut sections = Map::new();
    for change in changes {
        let stamp = change.position;
        let (section, told) = match change.is_automatic {
            Some(automatic) => {
                ("subscribed", json!({ "automatic": automatic, "bump_stamp": stamp }))
            }
            None => ("unsubscribed", json!({ "bump_stamp": stamp })),
        };
        let rooms = sections.entry(section).or_insert_with(|| json!({}));
        rooms[change.room_id.as_str()][change.root.as_str()] = told;
    }
    sections
}

/// The token with which reading backwards begins at a stream position.
pub fn thread_token(position: i64) -> String {
    format!("t{position}")
}

/// The stream position of a token of [`thread_token`].
pub fn parse_thread_token(token: &str) -> Option<i64> {
    token.strip_prefix('t')?.parse().ok().filter(|position| *position >= 0)
}
