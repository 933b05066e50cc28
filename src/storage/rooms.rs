//! Rows of `rooms` and `room_summaries`.

use super::{Database, RoomNid, StateNid, Statement, StorageError, WriteTx};
use crate::params;

/// A row of `rooms`: what is needed to go on where the room stands.
#[derive(Clone, Debug)]
pub struct RoomRow {
    pub nid: RoomNid,
    pub room_id: String,
    pub version: String,
    /// JSON array of event nids.
    pub extremities: String,
    pub state_nid: StateNid,
    pub depth: i64,
    pub notify_ordinal: i64,
    pub latest_position: i64,
    pub joined_count: i64,
    pub invited_count: i64,
}

/// What the public room directory knows of a room.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SummaryRow {
    pub name: Option<String>,
    pub topic: Option<String>,
    pub canonical_alias: Option<String>,
    pub avatar_url: Option<String>,
    pub join_rule: String,
    pub world_readable: bool,
    pub guest_can_join: bool,
    pub room_type: Option<String>,
    pub encryption: Option<String>,
}

static SAVE: Statement = Statement {
    table: "rooms",
    key: 1,
    sql: "INSERT INTO rooms (nid, room_id, version, extremities, state_nid, depth, notify_ordinal,
              latest_position, joined_count, invited_count)
          SELECT CAST(value->>0 AS BIGINT), value->>1, value->>2, value->>3,
              CAST(value->>4 AS BIGINT), CAST(value->>5 AS BIGINT), CAST(value->>6 AS BIGINT),
              CAST(value->>7 AS BIGINT), CAST(value->>8 AS BIGINT), CAST(value->>9 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (nid) DO UPDATE SET extremities = excluded.extremities,
              state_nid = excluded.state_nid, depth = excluded.depth,
              notify_ordinal = excluded.notify_ordinal, latest_position = excluded.latest_position,
              joined_count = excluded.joined_count, invited_count = excluded.invited_count",
};

static SAVE_SUMMARY: Statement = Statement {
    table: "room_summaries",
    key: 1,
    sql: "INSERT INTO room_summaries (room_nid, name, topic, canonical_alias, avatar_url,
              join_rule, world_readable, guest_can_join, room_type, encryption)
          SELECT CAST(value->>0 AS BIGINT), value->>1, value->>2, value->>3, value->>4,
              value->>5, CAST(value->>6 AS BIGINT), CAST(value->>7 AS BIGINT), value->>8, value->>9
          FROM json_each($1) WHERE true
          ON CONFLICT (room_nid) DO UPDATE SET name = excluded.name, topic = excluded.topic,
              canonical_alias = excluded.canonical_alias, avatar_url = excluded.avatar_url,
              join_rule = excluded.join_rule, world_readable = excluded.world_readable,
              guest_can_join = excluded.guest_can_join, room_type = excluded.room_type,
              encryption = excluded.encryption",
};

/// Writes where the room stands; `position` is the job's offset of its latest event.
pub fn save(tx: &mut WriteTx, row: &RoomRow, position: u32) {
    let cells = vec![
        row.nid.into(),
        row.room_id.as_str().into(),
        row.version.as_str().into(),
        row.extremities.as_str().into(),
        row.state_nid.into(),
        row.depth.into(),
        row.notify_ordinal.into(),
        super::Cell::Position(position),
        row.joined_count.into(),
        row.invited_count.into(),
    ];
    tx.push(&SAVE, cells);
}

static SAVE_VERSION: Statement = Statement {
    table: "rooms",
    key: 1,
    sql: "UPDATE rooms SET version = v.version
          FROM (SELECT CAST(value->>0 AS BIGINT) AS nid, value->>1 AS version
                FROM json_each($1)) AS v
          WHERE rooms.nid = v.nid",
};

/// Corrects the version of a room of which nothing is known yet.
pub fn save_version(tx: &mut WriteTx, room: RoomNid, version: &str) {
    tx.push(&SAVE_VERSION, vec![room.into(), version.into()]);
}

/// Writes what the directory shows of the room, published or not.
pub fn save_summary(tx: &mut WriteTx, room: RoomNid, summary: &SummaryRow) {
    // Neither database takes U+0000 in text; nobody would search for it.
    let text = |value: &Option<String>| value.as_ref().map(|text| text.replace('\0', "")).into();
    let cells = vec![
        room.into(),
        text(&summary.name),
        text(&summary.topic),
        text(&summary.canonical_alias),
        text(&summary.avatar_url),
        summary.join_rule.replace('\0', "").into(),
        summary.world_readable.into(),
        summary.guest_can_join.into(),
        text(&summary.room_type),
        text(&summary.encryption),
    ];
    tx.push(&SAVE_SUMMARY, cells);
}

type Columns = (i64, String, String, String, i64, i64, i64, i64, i64, i64);

fn from_columns(columns: Columns) -> RoomRow {
    RoomRow {
        nid: RoomNid(columns.0),
        room_id: columns.1,
        version: columns.2,
        extremities: columns.3,
        state_nid: StateNid(columns.4),
        depth: columns.5,
        notify_ordinal: columns.6,
        latest_position: columns.7,
        joined_count: columns.8,
        invited_count: columns.9,
    }
}

pub async fn find_by_id(db: &Database, room_id: &str) -> Result<Option<RoomRow>, StorageError> {
    let sql = "SELECT nid, room_id, version, extremities, state_nid, depth, notify_ordinal,
                   latest_position, joined_count, invited_count
               FROM rooms WHERE room_id = $1";
    Ok(db.fetch_optional(sql, &params![room_id]).await?.map(from_columns))
}

/// The rooms with these numbers, in no particular order.
pub async fn list(db: &Database, nids: &[RoomNid]) -> Result<Vec<RoomRow>, StorageError> {
    let sql = "SELECT nid, room_id, version, extremities, state_nid, depth, notify_ordinal,
                   latest_position, joined_count, invited_count
               FROM rooms WHERE nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))";
    let params = params![super::json_rows(nids.iter().map(|nid| nid.0))];
    Ok(db.fetch_all(sql, &params).await?.into_iter().map(from_columns).collect())
}

/// The numbers of the rooms behind `after`, in rising order.
pub async fn list_after(
    db: &Database,
    after: RoomNid,
    limit: usize,
) -> Result<Vec<RoomNid>, StorageError> {
    let sql = "SELECT nid FROM rooms WHERE nid > $1 ORDER BY nid LIMIT $2";
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params![after, limit]).await?;
    Ok(rows.into_iter().map(|(nid,)| RoomNid(nid)).collect())
}

/// The highest number in use.
pub async fn load_newest(db: &Database) -> Result<RoomNid, StorageError> {
    let (nid,): (Option<i64>,) = db.fetch_one("SELECT max(nid) FROM rooms", &[]).await?;
    Ok(RoomNid(nid.unwrap_or(0)))
}
