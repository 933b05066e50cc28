//! The search for users: whose names fit, and who of them someone may see.

use super::{Database, Param, StorageError, UserNid};
use crate::params;

/// Users of this server whose localpart or display name contains a text, in the order of their IDs.
/// `pattern` is for LIKE, with `!` before what is meant literally, in lower case.
pub async fn list_matching(
    database: &Database,
    pattern: &str,
    limit: u32,
) -> Result<Vec<String>, StorageError> {
    // 6: guests and deactivated accounts. The server's name belongs to all, so it finds nobody.
    let rows: Vec<(String,)> = database
        .fetch_all(
            "SELECT a.user_id FROM accounts a
            LEFT JOIN profiles p ON p.user_id = a.user_id AND p.field = 'displayname'
            WHERE a.flags & 6 = 0 AND (lower(a.user_id) LIKE '@' || $1 || ':%' ESCAPE '!'
                OR lower(p.value) LIKE '\"' || $1 || '\"' ESCAPE '!')
            ORDER BY a.user_id LIMIT $2",
            &params![pattern, limit],
        )
        .await?;
    Ok(rows.into_iter().map(|(user_id,)| user_id).collect())
}

/// Who of `users` shares a room with `viewer`, or is in a public or world-readable one.
pub async fn list_visible(
    database: &Database,
    viewer: Option<UserNid>,
    users: &[UserNid],
) -> Result<Vec<i64>, StorageError> {
    let list: Vec<[i64; 1]> = users.iter().map(|user| [user.0]).collect();
    let list = serde_json::to_string(&list).unwrap_or_default();
    let rows: Vec<(i64,)> = database
        .fetch_all(
            "SELECT DISTINCT m.user_nid FROM memberships m
            WHERE m.membership = 1
                AND m.user_nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))
                AND (m.room_nid IN (SELECT room_nid FROM memberships
                        WHERE user_nid = $2 AND membership = 1)
                    OR m.room_nid IN (SELECT room_nid FROM room_summaries
                        WHERE join_rule = 'public' OR world_readable = 1))",
            &[Param::Text(list), viewer.map_or(Param::NullInt, Param::from)],
        )
        .await?;
    Ok(rows.into_iter().map(|(nid,)| nid).collect())
}
