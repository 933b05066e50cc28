//! Pushers: where a user's notifications go (Client-Server API, "Push Notifications"). Not for sending
//! them.

use ruma::UserId;

use super::Accounts;
use crate::storage::{
    StorageError,
    pushers::{self, StoredPusher},
};

/// Pushers that one user may have.
const PUSHERS_MAX: i64 = 100;
/// The app of pushers of kind `email`, whose key is an address (client-server API, "POST /pushers/set").
pub const EMAIL_APP_ID: &str = "m.email";

/// Why a pusher was not stored.
#[derive(Debug, thiserror::Error)]
pub enum SetPusherError {
    #[error("this account has as many pushers as it may have")]
    TooMany,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Accounts {
    /// A user's pushers.
    pub async fn list_pushers(&self, user_id: &UserId) -> Result<Vec<StoredPusher>, StorageError> {
        pushers::list(&self.database, user_id.as_str()).await
    }

    /// Makes or changes a pusher. Unless it is to be shared (`append`), other users lose theirs with
    /// the same app and key: the phone belongs to somebody else now.
    pub async fn set_pusher(
        &self,
        user_id: &UserId,
        pusher: StoredPusher,
        append: bool,
    ) -> Result<(), SetPusherError> {
        let (user_id, now_ts) = (user_id.to_string(), self.clock.now_ms());
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    let (app_id, pushkey) = (&pusher.app_id, &pusher.pushkey);
                    if !append {
                        pushers::delete_of_others(tx, &user_id, app_id, pushkey).await?;
                    }
                    pushers::save(tx, &user_id, &pusher, now_ts).await?;
                    match pushers::count(tx, &user_id).await? > PUSHERS_MAX {
                        true => Err(SetPusherError::TooMany),
                        false => Ok(()),
                    }
                })
            })
            .await
    }

    /// Deletes a pusher; without effect when there is none.
    pub async fn delete_pusher(
        &self,
        user_id: &UserId,
        app_id: String,
        pushkey: String,
    ) -> Result<(), StorageError> {
        let user_id = user_id.to_string();
        self.writer
            .transact(move |tx| {
                Box::pin(async move { pushers::delete(tx, &user_id, &app_id, &pushkey).await })
            })
            .await
    }
}
