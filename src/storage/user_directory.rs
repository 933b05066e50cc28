//! The search for users: whose names fit, of those whom someone may see: they share a room, or are in one
//! that everybody may enter or read.

use super::{Database, Param, StorageError, UserNid};

/// Selects users by a membership `m` of theirs, for a viewer whose number is `$1` and who shares no room with
/// oneself.
macro_rules! select_visible {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "m.membership = 1
             AND (m.user_nid <> $1 AND m.room_nid IN (SELECT room_nid FROM memberships
                     WHERE user_nid = $1 AND membership = 1)
                 OR m.room_nid IN (SELECT room_nid FROM room_summaries
                     WHERE join_rule = 'public' OR world_readable = 1))",
            $after
        )
    };
}

/// Users of this server whose localpart or display name contains a text, in the order of their IDs.
/// `pattern` is for LIKE, with `!` before what is meant literally, in lower case.
pub async fn list_local(
    database: &Database,
    viewer: Option<UserNid>,
    pattern: &str,
    limit: usize,
) -> Result<Vec<String>, StorageError> {
    // 6: guests and deactivated accounts. The server's name belongs to all, so it finds nobody. The
    // hexadecimal digits are `m.room.member`.
    let sql = select_visible!(
        "SELECT a.user_id FROM accounts a
         JOIN state_keys k ON k.kind = unhex('6d2e726f6f6d2e6d656d626572')
             AND k.state_key = unhex(hex(a.user_id))
         LEFT JOIN profiles p ON p.user_id = a.user_id AND p.field = 'displayname'
         WHERE a.flags & 6 = 0 AND (lower(a.user_id) LIKE '@' || $2 || ':%' ESCAPE '!'
                 OR lower(p.value) LIKE '\"' || $2 || '\"' ESCAPE '!')
             AND EXISTS (SELECT 1 FROM memberships m WHERE m.user_nid = k.nid AND ",
        ") ORDER BY a.user_id LIMIT $3"
    );
    let params = [viewer_param(viewer), pattern.into(), limit.into()];
    let rows: Vec<(String,)> = database.fetch_all(sql, &params).await?;
    Ok(rows.into_iter().map(|(user_id,)| user_id).collect())
}

/// The events of memberships in which a text stands somewhere, in no order: of `scanned` memberships at
/// most `limit`.
pub async fn list_member_events(
    database: &Database,
    viewer: Option<UserNid>,
    pattern: &str,
    (scanned, limit): (usize, usize),
) -> Result<Vec<String>, StorageError> {
    let sql = select_visible!(
        "SELECT e.json FROM (SELECT m.event_nid FROM memberships m WHERE ",
        " LIMIT $3) AS known
         JOIN events e ON e.nid = known.event_nid
         WHERE lower(e.json) LIKE $2 ESCAPE '!' LIMIT $4"
    );
    let params = [viewer_param(viewer), pattern.into(), scanned.into(), limit.into()];
    let rows: Vec<(String,)> = database.fetch_all(sql, &params).await?;
    Ok(rows.into_iter().map(|(json,)| json).collect())
}

/// Who was never in a room has no number.
fn viewer_param(viewer: Option<UserNid>) -> Param {
    viewer.map_or(Param::NullInt, Param::from)
}
