//! Which threads a user follows (MSC4306): kept for all of the user's devices, and told to them by
//! sliding sync (MSC4308). Whether a thread exists is not known here.

use ruma::{EventId, UserId};

use super::{
    Accounts,
    push_rules::{PUSH_RULES_KIND, PushRules},
};
use crate::{
    protocol::push_rules::Mentions,
    storage::{
        RoomNid, StorageError, WriteTransaction, account_data,
        thread_subscriptions::{self as rows, ThreadName, ThreadSubscriptionRow},
    },
};

/// Threads of which a user follows or followed one; account data have the same bound.
const THREADS_MAX: i64 = 100_000;
const UNFOLLOWED: i64 = 0;
const AUTOMATIC: i64 = 1;
const MANUAL: i64 = 2;

/// Why a thread is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowCause {
    /// The user wants to.
    Manual,
    /// Their client found that an event concerns them, which has this stream position (0 for one
    /// that came as history).
    Automatic(i64),
}

/// Why a thread is not followed now.
#[derive(Debug, thiserror::Error)]
pub enum FollowThreadError {
    #[error("the user has ceased to follow the thread after that event")]
    UnfollowedSince,
    #[error("this account follows as many threads as it may")]
    TooMany,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A change of a subscription: what a client is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadSubscription {
    pub room_id: String,
    pub root: String,
    /// None: not followed any more.
    pub is_automatic: Option<bool>,
    pub position: i64,
}

impl Accounts {
    /// Follows a thread; who follows it already does so by their own choice if they now say so.
    /// With the first thread come the push rules for threads.
    pub async fn follow_thread(
        &self,
        user_id: &UserId,
        room: RoomNid,
        root: &EventId,
        cause: FollowCause,
    ) -> Result<(), FollowThreadError> {
        let (user, root, changes) = (user_id.to_owned(), root.to_owned(), self.changes.clone());
        let mentions = self.config.push.mentions();
        let cache = self.push_rule_cache.clone();
        let followed: Result<(), FollowThreadError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let thread = ThreadName { room, root: root.as_str() };
                    let known = rows::find_in(tx, user.as_str(), thread).await?;
                    let level = match (known, cause) {
                        (Some((UNFOLLOWED, since)), FollowCause::Automatic(position))
                            if position <= since =>
                        {
                            return Err(FollowThreadError::UnfollowedSince);
                        }
                        (_, FollowCause::Manual) => MANUAL,
                        (_, FollowCause::Automatic(_)) => AUTOMATIC,
                    };
                    if known.is_some_and(|(known, _)| known >= level) {
                        return Ok(());
                    }
                    if known.is_none() && rows::count_in(tx, user.as_str()).await? >= THREADS_MAX {
                        return Err(FollowThreadError::TooMany);
                    }
                    let position = rows::set(tx, user.as_str(), thread, level).await?;
                    changes.note_in(tx, &user, position);
                    if let Some(position) = add_thread_rules(tx, &user, mentions).await? {
                        changes.note_in(tx, &user, position);
                        tx.after_commit(move || cache.forget(&user));
                    }
                    Ok(())
                })
            })
            .await;
        followed?;
        self.changes.wake(user_id);
        Ok(())
    }

    /// Ceases to follow a thread; without effect for who does not.
    pub async fn unfollow_thread(
        &self,
        user_id: &UserId,
        room: RoomNid,
        root: &EventId,
    ) -> Result<(), StorageError> {
        let (user, root, changes) = (user_id.to_owned(), root.to_owned(), self.changes.clone());
        let unfollowed: Result<(), StorageError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let thread = ThreadName { room, root: root.as_str() };
                    let known = rows::find_in(tx, user.as_str(), thread).await?;
                    if known.is_none_or(|(level, _)| level == UNFOLLOWED) {
                        return Ok(());
                    }
                    let position = rows::set(tx, user.as_str(), thread, UNFOLLOWED).await?;
                    changes.note_in(tx, &user, position);
                    Ok(())
                })
            })
            .await;
        unfollowed?;
        self.changes.wake(user_id);
        Ok(())
    }

    /// Whether the user follows a thread, and if so, whether automatically.
    pub async fn find_thread_subscription(
        &self,
        user_id: &UserId,
        room: RoomNid,
        root: &EventId,
    ) -> Result<Option<bool>, StorageError> {
        let thread = ThreadName { room, root: root.as_str() };
        let found = rows::find(&self.database, user_id.as_str(), thread).await?;
        Ok(found.and_then(|(level, _)| is_automatic(level)))
    }

    /// The user's latest changes behind `after` up to `upto`, the latest first.
    pub async fn list_thread_subscriptions(
        &self,
        user_id: &UserId,
        range: (i64, i64),
        limit: usize,
    ) -> Result<Vec<ThreadSubscription>, StorageError> {
        let found = rows::list_changed(&self.database, user_id.as_str(), range, limit).await?;
        let told = |row: ThreadSubscriptionRow| ThreadSubscription {
            room_id: row.room_id,
            root: row.root,
            is_automatic: is_automatic(row.level),
            position: row.position,
        };
        Ok(found.into_iter().map(told).collect())
    }
}

/// Adds the rules for threads to the user's push rules; returns the position, or None when the user
/// has them.
async fn add_thread_rules(
    tx: &mut WriteTransaction<'_>,
    user: &UserId,
    mentions: Mentions,
) -> Result<Option<i64>, StorageError> {
    let stored = account_data::find_in(tx, user.as_str(), "", PUSH_RULES_KIND).await?;
    let mut rules = PushRules::parse_or_predefined(stored.as_deref(), user, mentions)?;
    if !rules.add_thread_rules() {
        return Ok(None);
    }
    let content = rules.to_content();
    account_data::set(tx, user.as_str(), "", PUSH_RULES_KIND, &content).await.map(Some)
}

fn is_automatic(level: i64) -> Option<bool> {
    (level != UNFOLLOWED).then_some(level == AUTOMATIC)
}
