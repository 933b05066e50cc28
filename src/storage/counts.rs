//! Rows from which unread counts are computed: `read_marks`, `notify_exceptions`,
//! `notify_deviations`, `quiet_ranges`; and the push rules that users have changed.

use super::{Cell, Database, EventNid, RoomNid, Statement, StorageError, WriteTx};
use crate::params;

/// Up to where a user has read. `thread` is empty (all of the room), `main` or a thread's root.
#[derive(Clone, Debug)]
pub struct MarkRow {
    pub room: RoomNid,
    pub thread: String,
    pub ordering: i64,
    pub notify_ordinal: i64,
}

/// An event for which the room's ordinal does not say all.
#[derive(Clone, Debug)]
pub struct ExceptionRow {
    pub room: RoomNid,
    pub ordering: i64,
    /// Empty: the main timeline.
    pub thread: String,
    pub counted: bool,
    pub notifies: bool,
    pub highlights: bool,
}

/// An event that does something else for one user than by default.
#[derive(Clone, Debug)]
pub struct DeviationRow {
    pub room: RoomNid,
    pub ordering: i64,
    pub event: EventNid,
    pub thread: String,
    pub notifies: bool,
    pub highlights: bool,
    pub notify_delta: i64,
    pub highlight_delta: i64,
    /// JSON array of actions.
    pub actions: String,
}

/// Where nothing notifies a user by default.
#[derive(Clone, Debug)]
pub struct QuietRow {
    pub user_id: String,
    pub room: RoomNid,
    pub from_ordering: i64,
    pub from_ordinal: i64,
    /// None while it lasts.
    pub to: Option<(i64, i64)>,
}

static SAVE_MARK: Statement = Statement {
    table: "read_marks",
    key: 3,
    sql: "INSERT INTO read_marks (user_id, room_nid, thread, ordering, notify_ordinal)
          SELECT value->>0, CAST(value->>1 AS BIGINT), value->>2, CAST(value->>3 AS BIGINT),
              CAST(value->>4 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (user_id, room_nid, thread) DO UPDATE SET
              ordering = excluded.ordering, notify_ordinal = excluded.notify_ordinal
          WHERE excluded.ordering > read_marks.ordering",
};

static SAVE_EXCEPTION: Statement = Statement {
    table: "notify_exceptions",
    key: 2,
    sql: "INSERT INTO notify_exceptions (room_nid, ordering, thread, counted, notifies, highlights)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), value->>2,
              CAST(value->>3 AS BIGINT), CAST(value->>4 AS BIGINT), CAST(value->>5 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (room_nid, ordering) DO UPDATE SET thread = excluded.thread,
              counted = excluded.counted, notifies = excluded.notifies,
              highlights = excluded.highlights",
};

macro_rules! write_deviations {
    ($conflict:literal) => {
        Statement {
            table: "notify_deviations",
            key: 3,
            sql: concat!(
                "INSERT INTO notify_deviations (user_id, room_nid, ordering, event_nid, thread,
                     notifies, highlights, notify_delta, highlight_delta, actions)
                 SELECT value->>0, CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
                     CAST(value->>3 AS BIGINT), value->>4, CAST(value->>5 AS BIGINT),
                     CAST(value->>6 AS BIGINT), CAST(value->>7 AS BIGINT),
                     CAST(value->>8 AS BIGINT), value->>9
                 FROM json_each($1) WHERE true ON CONFLICT ",
                $conflict
            ),
        }
    };
}

static INSERT_DEVIATION: Statement = write_deviations!("DO NOTHING");

static REPLACE_DEVIATION: Statement = write_deviations!(
    "(user_id, room_nid, ordering) DO UPDATE SET notifies = excluded.notifies,
         highlights = excluded.highlights, notify_delta = excluded.notify_delta,
         highlight_delta = excluded.highlight_delta, actions = excluded.actions"
);

static DELETE_DEVIATIONS: Statement = Statement {
    table: "notify_deviations_deleted",
    key: 2,
    sql: "DELETE FROM notify_deviations WHERE (room_nid, ordering) IN
              (SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT) FROM json_each($1))",
};

static BEGIN_QUIET: Statement = Statement {
    table: "quiet_ranges",
    key: 3,
    sql: "INSERT INTO quiet_ranges (user_id, room_nid, from_ordering, from_ordinal)
          SELECT value->>0, CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
              CAST(value->>3 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

static END_QUIET: Statement = Statement {
    table: "quiet_ranges",
    key: 2,
    sql: "UPDATE quiet_ranges SET to_ordering = v.ordering, to_ordinal = v.ordinal
          FROM (SELECT value->>0 AS user_id, CAST(value->>1 AS BIGINT) AS room_nid,
                    CAST(value->>2 AS BIGINT) AS ordering, CAST(value->>3 AS BIGINT) AS ordinal
                FROM json_each($1)) AS v
          WHERE quiet_ranges.user_id = v.user_id AND quiet_ranges.room_nid = v.room_nid
              AND quiet_ranges.to_ordering IS NULL",
};

/// Moves a mark ahead; `ordering` may be that of an event of the same job.
pub fn save_mark(
    tx: &mut WriteTx,
    user_id: &str,
    (room, thread): (RoomNid, &str),
    ordering: Cell,
    notify_ordinal: i64,
) {
    let cells = vec![user_id.into(), room.into(), thread.into(), ordering, notify_ordinal.into()];
    tx.push(&SAVE_MARK, cells);
}

/// Writes an exception whose place is `ordering`, whatever `row.ordering` says.
pub fn save_exception(tx: &mut WriteTx, row: &ExceptionRow, ordering: Cell) {
    let cells = vec![
        row.room.into(),
        ordering,
        row.thread.as_str().into(),
        row.counted.into(),
        row.notifies.into(),
        row.highlights.into(),
    ];
    tx.push(&SAVE_EXCEPTION, cells);
}

/// Writes a deviation whose place is `ordering`, whatever `row.ordering` says.
pub fn insert_deviation(tx: &mut WriteTx, user_id: &str, row: &DeviationRow, ordering: Cell) {
    tx.push(&INSERT_DEVIATION, deviation_cells(user_id, row, ordering));
}

/// Writes a deviation in the place of what was known of its event.
pub fn replace_deviation(tx: &mut WriteTx, user_id: &str, row: &DeviationRow) {
    tx.push(&REPLACE_DEVIATION, deviation_cells(user_id, row, row.ordering.into()));
}

fn deviation_cells(user_id: &str, row: &DeviationRow, ordering: Cell) -> Vec<Cell> {
    vec![
        user_id.into(),
        row.room.into(),
        ordering,
        row.event.into(),
        row.thread.as_str().into(),
        row.notifies.into(),
        row.highlights.into(),
        row.notify_delta.into(),
        row.highlight_delta.into(),
        row.actions.as_str().into(),
    ]
}

/// Deletes what an event did for whomever.
pub fn delete_deviations(tx: &mut WriteTx, room: RoomNid, ordering: i64) {
    tx.push(&DELETE_DEVIATIONS, vec![room.into(), ordering.into()]);
}

/// Begins a quiet range with the event at `ordering`.
pub fn begin_quiet(
    tx: &mut WriteTx,
    user_id: &str,
    room: RoomNid,
    ordering: Cell,
    ordinal_before: i64,
) {
    tx.push(&BEGIN_QUIET, vec![user_id.into(), room.into(), ordering, ordinal_before.into()]);
}

/// Ends the user's quiet range before the event at `ordering`.
pub fn end_quiet(
    tx: &mut WriteTx,
    user_id: &str,
    room: RoomNid,
    ordering: Cell,
    ordinal_before: i64,
) {
    tx.push(&END_QUIET, vec![user_id.into(), room.into(), ordering, ordinal_before.into()]);
}

/// All marks of a user.
pub async fn list_marks(db: &Database, user_id: &str) -> Result<Vec<MarkRow>, StorageError> {
    let sql = "SELECT room_nid, thread, ordering, notify_ordinal FROM read_marks
               WHERE user_id = $1";
    let rows: Vec<(i64, String, i64, i64)> = db.fetch_all(sql, &params![user_id]).await?;
    let row = |(room, thread, ordering, notify_ordinal)| MarkRow {
        room: RoomNid(room),
        thread,
        ordering,
        notify_ordinal,
    };
    Ok(rows.into_iter().map(row).collect())
}

type ExceptionColumns = (i64, i64, String, i64, i64, i64);

fn exception(
    (room, ordering, thread, counted, notifies, highlights): ExceptionColumns,
) -> ExceptionRow {
    ExceptionRow {
        room: RoomNid(room),
        ordering,
        thread,
        counted: counted != 0,
        notifies: notifies != 0,
        highlights: highlights != 0,
    }
}

/// Exceptions of a room with `after < ordering <= upto`, newest first.
pub async fn list_exceptions(
    db: &Database,
    room: RoomNid,
    (after, upto): (i64, i64),
    limit: usize,
) -> Result<Vec<ExceptionRow>, StorageError> {
    let sql = "SELECT room_nid, ordering, thread, counted, notifies, highlights
               FROM notify_exceptions
               WHERE room_nid = $1 AND ordering > $2 AND ordering <= $3
               ORDER BY ordering DESC LIMIT $4";
    let rows = db.fetch_all(sql, &params![room, after, upto, limit]).await?;
    Ok(rows.into_iter().map(exception).collect())
}

/// Exceptions of several rooms, at most `limit` of them, in no particular order.
pub async fn list_exceptions_of_rooms(
    db: &Database,
    rooms: &[RoomNid],
    limit: usize,
) -> Result<Vec<ExceptionRow>, StorageError> {
    let sql = "SELECT room_nid, ordering, thread, counted, notifies, highlights
               FROM notify_exceptions
               WHERE room_nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1)) LIMIT $2";
    let params = params![super::json_rows(rooms.iter().map(|nid| nid.0)), limit];
    Ok(db.fetch_all(sql, &params).await?.into_iter().map(exception).collect())
}

type DeviationColumns = (i64, i64, i64, String, i64, i64, i64, i64, String);

fn deviation(columns: DeviationColumns) -> DeviationRow {
    DeviationRow {
        room: RoomNid(columns.0),
        ordering: columns.1,
        event: EventNid(columns.2),
        thread: columns.3,
        notifies: columns.4 != 0,
        highlights: columns.5 != 0,
        notify_delta: columns.6,
        highlight_delta: columns.7,
        actions: columns.8,
    }
}

/// A user's latest deviations behind what they have read without regard to threads.
pub async fn list_unread_deviations(
    db: &Database,
    user_id: &str,
    limit: usize,
) -> Result<Vec<DeviationRow>, StorageError> {
    let sql = "SELECT d.room_nid, d.ordering, d.event_nid, d.thread, d.notifies, d.highlights,
                   d.notify_delta, d.highlight_delta, d.actions
               FROM notify_deviations d
               LEFT JOIN read_marks m
                   ON m.user_id = d.user_id AND m.room_nid = d.room_nid AND m.thread = ''
               WHERE d.user_id = $1 AND d.ordering > coalesce(m.ordering, 0)
               ORDER BY d.ordering DESC LIMIT $2";
    Ok(db.fetch_all(sql, &params![user_id, limit]).await?.into_iter().map(deviation).collect())
}

/// What one user's rules made of these events of a room.
pub async fn list_deviations_of_room(
    db: &Database,
    user_id: &str,
    room: RoomNid,
    (first, last): (i64, i64),
) -> Result<Vec<DeviationRow>, StorageError> {
    let sql = "SELECT room_nid, ordering, event_nid, thread, notifies, highlights, notify_delta,
                   highlight_delta, actions
               FROM notify_deviations
               WHERE user_id = $1 AND room_nid = $2 AND ordering BETWEEN $3 AND $4";
    let params = params![user_id, room, first, last];
    Ok(db.fetch_all(sql, &params).await?.into_iter().map(deviation).collect())
}

/// Events of a room with `0 < ordering < before` that notify everybody (or highlight for everybody)
/// by default, newest first: number and place.
pub async fn list_default_notifying(
    db: &Database,
    room: RoomNid,
    before: i64,
    only_highlights: bool,
    limit: usize,
) -> Result<Vec<(EventNid, i64)>, StorageError> {
    let sql = match only_highlights {
        true => {
            "SELECT e.nid, e.ordering FROM notify_exceptions x
             JOIN events e ON e.room_nid = x.room_nid AND e.ordering = x.ordering
             WHERE x.room_nid = $1 AND x.ordering > 0 AND x.ordering < $2 AND x.highlights = 1
             ORDER BY 2 DESC LIMIT $3"
        }
        false => {
            "SELECT nid, ordering FROM events
             WHERE room_nid = $1 AND ordering > 0 AND ordering < $2 AND flags & 31 = 16
             UNION SELECT e.nid, e.ordering FROM notify_exceptions x
             JOIN events e ON e.room_nid = x.room_nid AND e.ordering = x.ordering
             WHERE x.room_nid = $1 AND x.ordering > 0 AND x.ordering < $2
                 AND x.notifies = 1 AND x.counted = 0
             ORDER BY 2 DESC LIMIT $3"
        }
    };
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params![room, before, limit]).await?;
    Ok(rows.into_iter().map(|(nid, ordering)| (EventNid(nid), ordering)).collect())
}

type QuietColumns = (String, i64, i64, i64, Option<i64>, Option<i64>);

fn quiet(
    (user_id, room, from_ordering, from_ordinal, to_ordering, to_ordinal): QuietColumns,
) -> QuietRow {
    let to = to_ordering.zip(to_ordinal);
    QuietRow { user_id, room: RoomNid(room), from_ordering, from_ordinal, to }
}

/// A user's latest quiet ranges.
pub async fn list_quiet_of_user(
    db: &Database,
    user_id: &str,
    limit: usize,
) -> Result<Vec<QuietRow>, StorageError> {
    let sql = "SELECT user_id, room_nid, from_ordering, from_ordinal, to_ordering, to_ordinal
               FROM quiet_ranges WHERE user_id = $1 ORDER BY from_ordering DESC LIMIT $2";
    Ok(db.fetch_all(sql, &params![user_id, limit]).await?.into_iter().map(quiet).collect())
}

/// Who of these users is quiet in a room now.
pub async fn list_quiet_in_room(
    db: &Database,
    user_ids: &[&str],
    room: RoomNid,
) -> Result<Vec<QuietRow>, StorageError> {
    let sql = "SELECT user_id, room_nid, from_ordering, from_ordinal, to_ordering, to_ordinal
               FROM quiet_ranges
               WHERE user_id IN (SELECT value->>0 FROM json_each($1)) AND room_nid = $2
                   AND to_ordering IS NULL";
    let params = params![super::json_text_rows(user_ids.iter().copied()), room];
    Ok(db.fetch_all(sql, &params).await?.into_iter().map(quiet).collect())
}

/// User, type and content of `m.push_rules` and `m.ignored_user_list`, for joined members of a room
/// who have some.
pub async fn list_wishes_of_members(
    db: &Database,
    room: RoomNid,
) -> Result<Vec<(String, String, String)>, StorageError> {
    // The hexadecimal digits are `m.room.member`.
    let sql = "SELECT a.user_id, a.kind, a.content FROM account_data a
               JOIN state_keys k ON k.kind = unhex('6d2e726f6f6d2e6d656d626572')
                   AND k.state_key = unhex(hex(a.user_id))
               JOIN memberships m ON m.user_nid = k.nid AND m.room_nid = $1
               WHERE a.kind = 'm.push_rules' AND a.room_id = '' AND m.membership = 1
               UNION ALL SELECT a.user_id, a.kind, a.content FROM account_data a
               JOIN state_keys k ON k.kind = unhex('6d2e726f6f6d2e6d656d626572')
                   AND k.state_key = unhex(hex(a.user_id))
               JOIN memberships m ON m.user_nid = k.nid AND m.room_nid = $1
               WHERE a.kind = 'm.ignored_user_list' AND a.room_id = '' AND m.membership = 1";
    db.fetch_all(sql, &params![room]).await
}

/// The joined members of a room who are users of this server, each with the membership's event.
pub async fn list_local_members(
    db: &Database,
    room: RoomNid,
) -> Result<Vec<(String, String)>, StorageError> {
    // The hexadecimal digits are `m.room.member`.
    let sql = "SELECT a.user_id, e.json FROM accounts a
               JOIN state_keys k ON k.kind = unhex('6d2e726f6f6d2e6d656d626572')
                   AND k.state_key = unhex(hex(a.user_id))
               JOIN memberships m ON m.user_nid = k.nid AND m.room_nid = $1
               JOIN events e ON e.nid = m.event_nid
               WHERE m.membership = 1";
    db.fetch_all(sql, &params![room]).await
}

/// The wishes of these users, and what they say of invitations.
pub async fn list_wishes_of_users(
    db: &Database,
    user_ids: &[&str],
) -> Result<Vec<(String, String, String)>, StorageError> {
    let sql = "SELECT user_id, kind, content FROM account_data
               WHERE user_id IN (SELECT value->>0 FROM json_each($1)) AND room_id = ''
                   AND kind IN ('m.push_rules', 'm.ignored_user_list',
                       'm.invite_permission_config',
                       'org.matrix.msc4155.invite_permission_config')";
    db.fetch_all(sql, &params![super::json_text_rows(user_ids.iter().copied())]).await
}
