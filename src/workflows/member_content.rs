//! What member events take from accounts: names and pictures; and whose invitations are refused.

use ruma::UserId;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{accounts::Accounts, storage::StorageError};

/// The content of a member event of a user, less `membership`: name and picture of one of our own,
/// and the reason of the change.
pub async fn load_member_content(
    accounts: &Accounts,
    user_id: &UserId,
    reason: Option<&str>,
) -> Result<Map<String, Value>, StorageError> {
    let mut content = Map::new();
    if let Some(profile) = accounts.find_profile(user_id).await? {
        if let Some(name) = profile.display_name() {
            content.insert("displayname".to_owned(), name.into());
        }
        if let Some(url) = profile.avatar_url() {
            content.insert("avatar_url".to_owned(), url.into());
        }
    }
    if let Some(reason) = reason {
        content.insert("reason".to_owned(), reason.into());
    }
    Ok(content)
}

/// Whether the user refuses all invitations (client-server API, "Invite permission").
pub async fn blocks_invites(accounts: &Accounts, user_id: &UserId) -> Result<bool, StorageError> {
    #[derive(Deserialize)]
    struct Permission {
        default_action: Option<Value>,
    }
    let data = accounts.find_data(user_id, None, "m.invite_permission_config").await?;
    let permission = data.and_then(|data| serde_json::from_str::<Permission>(&data).ok());
    Ok(permission.is_some_and(|permission| permission.default_action == Some("block".into())))
}
