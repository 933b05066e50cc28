//! Deletes every row of a room. Not for what users keep for themselves elsewhere.

use super::{RoomNid, StorageError, WriteTransaction};
use crate::params;

/// Those that name events of the room come before the events.
const DELETIONS: [&str; 32] = [
    "DELETE FROM transactions WHERE event_nid IN (SELECT nid FROM events WHERE room_nid = $1)",
    "DELETE FROM redactions WHERE event_nid IN (SELECT nid FROM events WHERE room_nid = $1)",
    "DELETE FROM event_keys WHERE event_key IN
        (SELECT event_key FROM events WHERE room_nid = $1)",
    "DELETE FROM state_snapshots WHERE nid IN (SELECT state_nid FROM events WHERE room_nid = $1)
        OR nid IN (SELECT state_nid FROM rooms WHERE nid = $1)",
    "DELETE FROM auth_edges WHERE child_nid IN (SELECT nid FROM events WHERE room_nid = $1)",
    "DELETE FROM awaited_redactions WHERE redaction_nid IN
        (SELECT nid FROM events WHERE room_nid = $1)",
    "DELETE FROM stripped_states WHERE event_nid IN
        (SELECT event_nid FROM memberships WHERE room_nid = $1)",
    "DELETE FROM missing_events WHERE room_nid = $1",
    "DELETE FROM awaited_events WHERE room_nid = $1",
    "DELETE FROM verdicts WHERE room_nid = $1",
    "DELETE FROM partial_events WHERE room_nid = $1",
    "DELETE FROM partial_rooms WHERE room_nid = $1",
    "DELETE FROM room_forks WHERE room_nid = $1",
    "DELETE FROM state_changes WHERE room_nid = $1",
    "DELETE FROM relations WHERE room_nid = $1",
    "DELETE FROM receipts WHERE room_nid = $1",
    "DELETE FROM read_marks WHERE room_nid = $1",
    "DELETE FROM notify_exceptions WHERE room_nid = $1",
    "DELETE FROM notify_deviations WHERE room_nid = $1",
    "DELETE FROM quiet_ranges WHERE room_nid = $1",
    "DELETE FROM thread_subscriptions WHERE room_nid = $1",
    "DELETE FROM destination_rooms WHERE room_nid = $1",
    "DELETE FROM sliding_rooms WHERE room_nid = $1",
    "DELETE FROM sticky_events WHERE room_nid = $1",
    "DELETE FROM search_terms WHERE room_nid = $1",
    "DELETE FROM search_cursors WHERE room_nid = $1",
    "DELETE FROM aliases WHERE room_nid = $1",
    "DELETE FROM network_rooms WHERE room_nid = $1",
    "DELETE FROM published_rooms WHERE room_nid = $1",
    "DELETE FROM room_summaries WHERE room_nid = $1",
    "DELETE FROM memberships WHERE room_nid = $1",
    "DELETE FROM events WHERE room_nid = $1",
];

/// Deletes a room with everything in it.
pub async fn delete_room(
    tx: &mut WriteTransaction<'_>,
    room: RoomNid,
    room_id: &str,
) -> Result<(), StorageError> {
    for sql in DELETIONS {
        tx.execute(sql, &params![room]).await?;
    }
    tx.execute("DELETE FROM account_data WHERE room_id = $1", &params![room_id]).await?;
    tx.execute("DELETE FROM delayed_events WHERE room_id = $1", &params![room_id]).await?;
    tx.execute("DELETE FROM rooms WHERE nid = $1", &params![room]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_table_with_rooms_is_left_out() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite");
        for entry in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for table in text.split("CREATE TABLE ").skip(1) {
                let (name, columns) = table.split_once(' ').unwrap();
                let columns = columns.split(';').next().unwrap();
                if columns.contains("room_nid ") {
                    let deletion = format!("DELETE FROM {name} ");
                    assert!(DELETIONS.iter().any(|sql| sql.starts_with(&deletion)), "{name}");
                }
            }
        }
    }
}
