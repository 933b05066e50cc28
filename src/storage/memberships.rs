//! Rows of `memberships`: which user is what in which room, now.

use super::{Cell, Database, EventNid, RoomNid, Statement, StorageError, UserNid, WriteTx};
use crate::params;

/// A row of `memberships`. `membership` is 1 join, 2 invite, 3 knock, 4 leave, 5 ban.
#[derive(Clone, Copy, Debug)]
pub struct MembershipRow {
    pub room: RoomNid,
    pub membership: i64,
    pub event: EventNid,
    /// The stream position of the membership event.
    pub position: i64,
    pub forgotten: bool,
}

static SAVE: Statement = Statement {
    table: "memberships",
    key: 2,
    sql: "INSERT INTO memberships (user_nid, room_nid, membership, event_nid, position, forgotten)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT),
              CAST(value->>3 AS BIGINT), CAST(value->>4 AS BIGINT), CAST(value->>5 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (user_nid, room_nid) DO UPDATE SET membership = excluded.membership,
              event_nid = excluded.event_nid, position = excluded.position,
              forgotten = excluded.forgotten",
};

/// Writes a membership whose event has the job's position `position`.
pub fn save(
    tx: &mut WriteTx,
    (user, room): (UserNid, RoomNid),
    membership: i64,
    event: EventNid,
    position: u32,
) {
    let cells = vec![
        user.into(),
        room.into(),
        membership.into(),
        event.into(),
        Cell::Position(position),
        0.into(),
    ];
    tx.push(&SAVE, cells);
}

static FORGET: Statement = Statement {
    table: "memberships",
    key: 2,
    sql: "UPDATE memberships SET forgotten = 1
          FROM (SELECT CAST(value->>0 AS BIGINT) AS user_nid, CAST(value->>1 AS BIGINT) AS room_nid
                FROM json_each($1)) AS v
          WHERE memberships.user_nid = v.user_nid AND memberships.room_nid = v.room_nid
              AND memberships.membership IN (4, 5)",
};

/// Marks a room that the user has left as forgotten.
pub fn forget(tx: &mut WriteTx, user: UserNid, room: RoomNid) {
    tx.push(&FORGET, vec![user.into(), room.into()]);
}

/// The rooms in which somebody of a server is. Looks at all users that were ever seen.
pub async fn list_rooms_of_server(
    db: &Database,
    server_name: &str,
) -> Result<Vec<RoomNid>, StorageError> {
    // The hexadecimal digits are `m.room.member`, and `%:` before the name. No name has a wildcard in it.
    let sql = "SELECT DISTINCT m.room_nid FROM state_keys k
               JOIN memberships m ON m.user_nid = k.nid AND m.membership = 1
               WHERE k.kind = unhex('6d2e726f6f6d2e6d656d626572')
                   AND k.state_key LIKE unhex('253a' || hex($1))";
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params![server_name]).await?;
    Ok(rows.into_iter().map(|(room,)| RoomNid(room)).collect())
}

/// All memberships of a user, left and forgotten rooms included.
pub async fn list_of_user(
    db: &Database,
    user: UserNid,
) -> Result<Vec<MembershipRow>, StorageError> {
    let sql = "SELECT room_nid, membership, event_nid, position, forgotten
               FROM memberships WHERE user_nid = $1";
    let rows: Vec<(i64, i64, i64, i64, i64)> = db.fetch_all(sql, &params![user]).await?;
    let row = |(room, membership, event, position, forgotten)| MembershipRow {
        room: RoomNid(room),
        membership,
        event: EventNid(event),
        position,
        forgotten: forgotten != 0,
    };
    Ok(rows.into_iter().map(row).collect())
}
