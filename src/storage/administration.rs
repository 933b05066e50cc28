//! Rows of `blocked_rooms`, `notice_rooms` and `rate_limit_overrides`, and what administrators list: accounts, rooms, reports;
//! what a registration token allows.

use super::{
    Database, RoomNid, Statement, StorageError, WriteTransaction, WriteTx,
    accounts::StoredRegistrationToken,
};
use crate::params;

static BLOCK: Statement = Statement {
    table: "blocked_rooms",
    key: 1,
    sql: "INSERT INTO blocked_rooms (room_id, blocked_by, blocked_ts)
          SELECT value->>0, value->>1, CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true ON CONFLICT (room_id) DO NOTHING",
};

static UNBLOCK: Statement = Statement {
    table: "blocked_rooms",
    key: 1,
    sql: "DELETE FROM blocked_rooms WHERE room_id IN (SELECT value->>0 FROM json_each($1))",
};

static SAVE_NOTICE_ROOM: Statement = Statement {
    table: "notice_rooms",
    key: 1,
    sql: "INSERT INTO notice_rooms (user_id, room_id)
          SELECT value->>0, value->>1 FROM json_each($1) WHERE true
          ON CONFLICT (user_id) DO UPDATE SET room_id = excluded.room_id",
};

/// Closes a room for the users of this server; it need not be known.
pub fn block_room(tx: &mut WriteTx, room_id: &str, blocked_by: &str, now_ts: u64) {
    tx.push(&BLOCK, vec![room_id.into(), blocked_by.into(), now_ts.into()]);
}

pub fn unblock_room(tx: &mut WriteTx, room_id: &str) {
    tx.push(&UNBLOCK, vec![room_id.into()]);
}

/// The closed rooms, and who has closed them.
pub async fn list_blocked_rooms(db: &Database) -> Result<Vec<(String, String)>, StorageError> {
    db.fetch_all("SELECT room_id, blocked_by FROM blocked_rooms", &[]).await
}

static SAVE_RATE_LIMIT: Statement = Statement {
    table: "rate_limit_overrides",
    key: 1,
    sql: "INSERT INTO rate_limit_overrides (user_id, per_second, burst)
          SELECT value->>0, CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (user_id) DO UPDATE SET per_second = excluded.per_second,
              burst = excluded.burst",
};

static DELETE_RATE_LIMIT: Statement = Statement {
    table: "rate_limit_overrides",
    key: 1,
    sql: "DELETE FROM rate_limit_overrides WHERE user_id IN (SELECT value->>0 FROM json_each($1))",
};

/// How often a user may send something: so many times a second (0: as often as they like), and at once.
pub fn save_rate_limit(tx: &mut WriteTx, user_id: &str, (per_second, burst): (u32, u32)) {
    let cells = vec![user_id.into(), i64::from(per_second).into(), i64::from(burst).into()];
    tx.push(&SAVE_RATE_LIMIT, cells);
}

pub fn delete_rate_limit(tx: &mut WriteTx, user_id: &str) {
    tx.push(&DELETE_RATE_LIMIT, vec![user_id.into()]);
}

/// The users of whom that was said, each with times a second and at once.
pub async fn list_rate_limits(db: &Database) -> Result<Vec<(String, i64, i64)>, StorageError> {
    db.fetch_all("SELECT user_id, per_second, burst FROM rate_limit_overrides", &[]).await
}

/// Notes in which room the server speaks to a user.
pub fn save_notice_room(tx: &mut WriteTx, user_id: &str, room_id: &str) {
    tx.push(&SAVE_NOTICE_ROOM, vec![user_id.into(), room_id.into()]);
}

pub async fn find_notice_room(
    db: &Database,
    user_id: &str,
) -> Result<Option<String>, StorageError> {
    let sql = "SELECT room_id FROM notice_rooms WHERE user_id = $1";
    let row: Option<(String,)> = db.fetch_optional(sql, &params![user_id]).await?;
    Ok(row.map(|(room_id,)| room_id))
}

/// Which accounts are listed. `pattern` is for LIKE, with `!` before what is meant literally.
#[derive(Clone, Debug)]
pub struct AccountFilter {
    pub pattern: String,
    /// Bits of `accounts.flags` that must be set, and that must not.
    pub with_flags: i64,
    pub without_flags: i64,
    pub from: usize,
    pub limit: usize,
    /// From the end of the alphabet.
    pub backwards: bool,
}

/// User IDs of accounts in alphabetical order, with the number of all that the filter takes.
pub async fn list_accounts(
    db: &Database,
    filter: &AccountFilter,
) -> Result<Vec<(String, i64)>, StorageError> {
    macro_rules! select_accounts {
        ($order:literal) => {
            concat!(
                "SELECT a.user_id, count(*) OVER () FROM accounts a
                 LEFT JOIN profiles p ON p.user_id = a.user_id AND p.field = 'displayname'
                 WHERE a.flags & $1 = $1 AND a.flags & $2 = 0
                     AND (lower(a.user_id) LIKE $3 ESCAPE '!'
                         OR lower(p.value) LIKE $3 ESCAPE '!')
                 ORDER BY a.user_id ",
                $order,
                " LIMIT $4 OFFSET $5"
            )
        };
    }
    let sql = match filter.backwards {
        false => select_accounts!("ASC"),
        true => select_accounts!("DESC"),
    };
    let AccountFilter { pattern, with_flags, without_flags, from, limit, .. } = filter;
    db.fetch_all(sql, &params![*with_flags, *without_flags, pattern, *limit, *from]).await
}

/// A room as administrators see it in lists.
#[derive(Clone, Debug)]
pub struct ListedRoom {
    pub room: RoomNid,
    pub name: Option<String>,
    pub canonical_alias: Option<String>,
    pub is_published: bool,
    /// How many there are in all.
    pub total: i64,
}

/// In which order rooms are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomOrder {
    Name,
    JoinedMembers,
}

/// Rooms whose name, alias or ID contains a text.
pub async fn list_rooms(
    db: &Database,
    pattern: &str,
    order: RoomOrder,
    backwards: bool,
    (from, limit): (usize, usize),
) -> Result<Vec<ListedRoom>, StorageError> {
    macro_rules! select_rooms {
        ($order:literal) => {
            concat!(
                "SELECT r.nid, s.name, s.canonical_alias, p.room_nid, count(*) OVER ()
                 FROM rooms r LEFT JOIN room_summaries s ON s.room_nid = r.nid
                     LEFT JOIN published_rooms p ON p.room_nid = r.nid
                 WHERE lower(coalesce(s.name, '')) LIKE $1 ESCAPE '!'
                     OR lower(coalesce(s.canonical_alias, '')) LIKE $1 ESCAPE '!'
                     OR lower(r.room_id) LIKE $1 ESCAPE '!'
                 ORDER BY ",
                $order,
                " LIMIT $2 OFFSET $3"
            )
        };
    }
    let sql = match (order, backwards) {
        (RoomOrder::Name, false) => select_rooms!("lower(coalesce(s.name, '')), r.nid"),
        (RoomOrder::Name, true) => select_rooms!("lower(coalesce(s.name, '')) DESC, r.nid DESC"),
        (RoomOrder::JoinedMembers, false) => select_rooms!("r.joined_count DESC, r.nid"),
        (RoomOrder::JoinedMembers, true) => select_rooms!("r.joined_count, r.nid DESC"),
    };
    type Row = (i64, Option<String>, Option<String>, Option<i64>, i64);
    let rows: Vec<Row> = db.fetch_all(sql, &params![pattern, limit, from]).await?;
    let room = |(room, name, canonical_alias, published, total): Row| ListedRoom {
        room: RoomNid(room),
        name,
        canonical_alias,
        is_published: published.is_some(),
        total,
    };
    Ok(rows.into_iter().map(room).collect())
}

/// A report as administrators see it.
#[derive(Clone, Debug)]
pub struct ListedReport {
    pub nid: i64,
    pub reporter: String,
    pub room_id: Option<String>,
    pub event_id: Option<String>,
    pub user_id: Option<String>,
    pub reason: Option<String>,
    pub received_ts: i64,
    /// How many there are in all.
    pub total: i64,
}

type ReportRow =
    (i64, String, Option<String>, Option<String>, Option<String>, Option<String>, i64, i64);

macro_rules! select_reports {
    ($rest:literal) => {
        concat!(
            "SELECT nid, reporter, room_id, event_id, user_id, reason, received_ts,
                 count(*) OVER () FROM reports ",
            $rest
        )
    };
}

/// Reports of events, newest first unless `oldest_first`.
pub async fn list_reports(
    db: &Database,
    oldest_first: bool,
    (from, limit): (usize, usize),
) -> Result<Vec<ListedReport>, StorageError> {
    let sql = match oldest_first {
        false => {
            select_reports!("WHERE event_id IS NOT NULL ORDER BY nid DESC LIMIT $1 OFFSET $2")
        }
        true => select_reports!("WHERE event_id IS NOT NULL ORDER BY nid LIMIT $1 OFFSET $2"),
    };
    let rows: Vec<ReportRow> = db.fetch_all(sql, &params![limit, from]).await?;
    Ok(rows.into_iter().map(report).collect())
}

/// Which reports of users are listed. Patterns are for LIKE, with `!` before what is meant literally.
#[derive(Clone, Debug)]
pub struct UserReportFilter {
    pub reporter: String,
    pub target: String,
    pub oldest_first: bool,
    pub from: usize,
    pub limit: usize,
}

/// Reports of users, newest first unless it is said otherwise.
pub async fn list_user_reports(
    db: &Database,
    filter: &UserReportFilter,
) -> Result<Vec<ListedReport>, StorageError> {
    let sql = match filter.oldest_first {
        false => select_reports!(
            "WHERE user_id IS NOT NULL AND lower(reporter) LIKE $1 ESCAPE '!'
                 AND lower(user_id) LIKE $2 ESCAPE '!' ORDER BY nid DESC LIMIT $3 OFFSET $4"
        ),
        true => select_reports!(
            "WHERE user_id IS NOT NULL AND lower(reporter) LIKE $1 ESCAPE '!'
                 AND lower(user_id) LIKE $2 ESCAPE '!' ORDER BY nid LIMIT $3 OFFSET $4"
        ),
    };
    let params = params![&filter.reporter, &filter.target, filter.limit, filter.from];
    let rows: Vec<ReportRow> = db.fetch_all(sql, &params).await?;
    Ok(rows.into_iter().map(report).collect())
}

pub async fn find_report(db: &Database, nid: i64) -> Result<Option<ListedReport>, StorageError> {
    let sql = select_reports!("WHERE nid = $1");
    Ok(db.fetch_optional::<ReportRow>(sql, &params![nid]).await?.map(report))
}

/// Deletes a report; false when there is none.
pub async fn delete_report(tx: &mut WriteTransaction<'_>, nid: i64) -> Result<bool, StorageError> {
    Ok(tx.execute("DELETE FROM reports WHERE nid = $1", &params![nid]).await? > 0)
}

fn report(row: ReportRow) -> ListedReport {
    ListedReport {
        nid: row.0,
        reporter: row.1,
        room_id: row.2,
        event_id: row.3,
        user_id: row.4,
        reason: row.5,
        received_ts: row.6,
        total: row.7,
    }
}

/// Changes what a token allows; false when there is none.
pub async fn update_registration_token(
    tx: &mut WriteTransaction<'_>,
    token: &StoredRegistrationToken,
) -> Result<bool, StorageError> {
    let sql = "UPDATE registration_tokens SET uses_allowed = $2, expires_ts = $3
               WHERE token = $1 AND makes_admin = 0";
    let params = params![&token.token, token.uses_allowed, token.expires_ts];
    Ok(tx.execute(sql, &params).await? > 0)
}
