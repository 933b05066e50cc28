//! Whom a user ignores (client-server API, "Ignoring Users"): stored together with what that makes of
//! their unread counts, so that no sync sees one without the other.

use ruma::UserId;

use crate::{
    accounts::{
        Accounts,
        account_data::{IGNORED_USERS_KIND, StoreDataError, parse_ignored_users},
    },
    push::{IgnoreChange, Push},
    rooms::Rooms,
    storage::WriteTx,
};

/// Stores a content of `m.ignored_user_list`, a JSON object.
pub async fn store_ignored_users(
    (accounts, rooms, push): (&Accounts, &Rooms, &Push),
    user_id: &UserId,
    content: &str,
) -> Result<(), StoreDataError> {
    let before = accounts.load_ignored_users(user_id).await?;
    let ignored = parse_ignored_users(Some(content));
    let changed = before.symmetric_difference(&ignored).cloned().collect();
    let mut tx = WriteTx::new();
    push.recount(rooms, user_id, &IgnoreChange { ignored, changed }, &mut tx).await?;
    accounts.store_data_in(tx, user_id, (None, IGNORED_USERS_KIND), content).await
}
