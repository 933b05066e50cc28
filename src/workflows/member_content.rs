//! What member events take from accounts: names and pictures; and whose invitations are refused.

use ruma::UserId;
use serde_json::{Map, Value};

use crate::{
    accounts::Accounts, protocol::invite_permission::InviteVerdict, storage::StorageError,
};

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

/// Whether the user refuses invitations by `inviter` (client-server API, "Invite permission";
/// MSC4155). Those that they ignore are not refused, but never shown to them.
pub async fn blocks_invites(
    accounts: &Accounts,
    user_id: &UserId,
    inviter: &UserId,
) -> Result<bool, StorageError> {
    let is_ignored = accounts.load_ignored_users(user_id).await?.contains(inviter);
    let permission = accounts.load_invite_permission(user_id).await?;
    Ok(!is_ignored && permission.judge(inviter) == InviteVerdict::Block)
}
