//! Figures for administrators: what users have uploaded, and what rooms take in the database. They read much,
//! and nobody else may ask for them.

use super::{Database, RoomNid, StorageError};
use crate::params;

/// What the columns and indexes of an event take beside its text, bytes, roughly.
const EVENT_ROW_BYTES: i64 = 250;
/// Events of a room whose size is looked at: the latest.
const SAMPLE_EVENTS: usize = 200;

/// By what users are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaUserOrder {
    UserId,
    DisplayName,
    Count,
    Bytes,
}

/// Whose uploads are counted, and which of them. `pattern` is for LIKE, with `!` before what is meant
/// literally; times in milliseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct MediaUsageFilter {
    pub pattern: String,
    pub from_ts: u64,
    pub until_ts: u64,
    pub order: MediaUserOrder,
    pub backwards: bool,
    pub from: usize,
    pub limit: usize,
}

/// What one user has uploaded.
#[derive(Clone, Debug)]
pub struct MediaUsage {
    pub user_id: String,
    pub count: i64,
    pub bytes: i64,
    /// How many users there are in all.
    pub total: i64,
}

/// Users who have uploaded something.
pub async fn list_media_usage(
    database: &Database,
    filter: &MediaUsageFilter,
) -> Result<Vec<MediaUsage>, StorageError> {
    macro_rules! select_usage {
        ($order:literal) => {
            concat!(
                "SELECT m.user_id, count(*), CAST(sum(m.size_bytes) AS BIGINT), count(*) OVER ()
                 FROM media m
                 LEFT JOIN profiles p ON p.user_id = m.user_id AND p.field = 'displayname'
                 WHERE m.user_id <> '' AND m.created_ts >= $1 AND m.created_ts <= $2
                     AND (lower(m.user_id) LIKE $3 ESCAPE '!' OR lower(p.value) LIKE $3 ESCAPE '!')
                 GROUP BY m.user_id, p.value ORDER BY ",
                $order,
                " LIMIT $4 OFFSET $5"
            )
        };
    }
    let sql = match (filter.order, filter.backwards) {
        (MediaUserOrder::UserId, false) => select_usage!("m.user_id"),
        (MediaUserOrder::UserId, true) => select_usage!("m.user_id DESC"),
        (MediaUserOrder::DisplayName, false) => {
            select_usage!("lower(coalesce(p.value, '')), m.user_id")
        }
        (MediaUserOrder::DisplayName, true) => {
            select_usage!("lower(coalesce(p.value, '')) DESC, m.user_id DESC")
        }
        (MediaUserOrder::Count, false) => select_usage!("count(*), m.user_id"),
        (MediaUserOrder::Count, true) => select_usage!("count(*) DESC, m.user_id DESC"),
        (MediaUserOrder::Bytes, false) => select_usage!("sum(m.size_bytes), m.user_id"),
        (MediaUserOrder::Bytes, true) => select_usage!("sum(m.size_bytes) DESC, m.user_id DESC"),
    };
    let until_ts = filter.until_ts.min(i64::MAX as u64);
    let params = params![filter.from_ts, until_ts, &filter.pattern, filter.limit, filter.from];
    let rows: Vec<(String, i64, i64, i64)> = database.fetch_all(sql, &params).await?;
    let usage = |(user_id, count, bytes, total)| MediaUsage { user_id, count, bytes, total };
    Ok(rows.into_iter().map(usage).collect())
}

/// The rooms with the most events, and what these take, bytes, estimated from the latest of them; the
/// largest first.
pub async fn list_largest_rooms(
    database: &Database,
    limit: usize,
) -> Result<Vec<(RoomNid, i64)>, StorageError> {
    let sql = "SELECT room_nid, count(*) AS events FROM events
               GROUP BY room_nid ORDER BY events DESC, room_nid LIMIT $1";
    let counts: Vec<(i64, i64)> = database.fetch_all(sql, &params![limit]).await?;
    let sql = "SELECT CAST(coalesce(avg(length(json)), 0) AS BIGINT) FROM
                   (SELECT json FROM events WHERE room_nid = $1 ORDER BY ordering DESC LIMIT $2)
                   AS latest";
    let mut rooms = Vec::with_capacity(counts.len());
    for (room, events) in counts {
        let (text_bytes,): (i64,) =
            database.fetch_one(sql, &params![RoomNid(room), SAMPLE_EVENTS]).await?;
        rooms.push((RoomNid(room), events * (text_bytes + EVENT_ROW_BYTES)));
    }
    rooms.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    Ok(rooms)
}
