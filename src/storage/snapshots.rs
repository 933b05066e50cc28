//! Rows of `state_snapshots`: states of rooms as chains of deltas.

use super::{Database, EventNid, RoomNid, StateKeyNid, StateNid, Statement, StorageError, WriteTx};
use crate::params;

/// One row: what changed since its parent.
#[derive(Clone, Debug)]
pub struct SnapshotRow {
    pub nid: StateNid,
    pub parent: StateNid,
    /// State changes on the line from the empty state to here.
    pub height: i64,
    /// Pairs of state key and event, encoded by [`encode_delta`].
    pub delta: Vec<u8>,
}

static INSERT: Statement = Statement {
    table: "state_snapshots",
    key: 0,
    sql: "INSERT INTO state_snapshots (nid, parent_nid, height, delta)
          SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT),
              CAST(value->>2 AS BIGINT), unhex(value->>3)
          FROM json_each($1)",
};

pub fn insert(tx: &mut WriteTx, row: &SnapshotRow) {
    let cells =
        vec![row.nid.into(), row.parent.into(), row.height.into(), row.delta.as_slice().into()];
    tx.push(&INSERT, cells);
}

fn from_columns((nid, parent, height, delta): (i64, i64, i64, Vec<u8>)) -> SnapshotRow {
    SnapshotRow { nid: StateNid(nid), parent: StateNid(parent), height, delta }
}

/// The rows that make up a state, from the oldest to `nid` itself; empty for the empty state.
pub async fn load_chain(db: &Database, nid: StateNid) -> Result<Vec<SnapshotRow>, StorageError> {
    if nid == StateNid::EMPTY {
        return Ok(Vec::new());
    }
    let sql = "WITH RECURSIVE chain (nid, parent_nid, height, delta) AS (
                   SELECT nid, parent_nid, height, delta FROM state_snapshots WHERE nid = $1
                   UNION ALL
                   SELECT s.nid, s.parent_nid, s.height, s.delta
                   FROM chain JOIN state_snapshots s ON s.nid = chain.parent_nid
               )
               SELECT nid, parent_nid, height, delta FROM chain ORDER BY height";
    let rows: Vec<(i64, i64, i64, Vec<u8>)> = db.fetch_all(sql, &params![nid]).await?;
    if rows.last().is_none_or(|row| row.0 != nid.0) {
        return Err(StorageError::Damaged(format!("state snapshot {} is missing", nid.0)));
    }
    Ok(rows.into_iter().map(from_columns).collect())
}

/// The rows with these numbers, in no particular order; those not found are left out.
pub async fn list(db: &Database, nids: &[StateNid]) -> Result<Vec<SnapshotRow>, StorageError> {
    if nids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT nid, parent_nid, height, delta FROM state_snapshots
               WHERE nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))";
    let list = super::json_rows(nids.iter().map(|nid| nid.0));
    let rows: Vec<(i64, i64, i64, Vec<u8>)> = db.fetch_all(sql, &params![list]).await?;
    Ok(rows.into_iter().map(from_columns).collect())
}

/// The numbers of the rows that make up a state, from `nid` itself to the oldest. Reads no deltas.
pub async fn list_lineage(db: &Database, nid: StateNid) -> Result<Vec<StateNid>, StorageError> {
    let sql = "WITH RECURSIVE chain (nid, parent_nid, height) AS (
                   SELECT nid, parent_nid, height FROM state_snapshots WHERE nid = $1
                   UNION ALL
                   SELECT s.nid, s.parent_nid, s.height
                   FROM chain JOIN state_snapshots s ON s.nid = chain.parent_nid
               )
               SELECT nid FROM chain ORDER BY height DESC";
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params![nid]).await?;
    Ok(rows.into_iter().map(|(nid,)| StateNid(nid)).collect())
}

/// The numbers of the rows that make up any of these states, in no particular order. Reads no deltas.
pub async fn list_lineages(
    db: &Database,
    nids: &[StateNid],
) -> Result<Vec<StateNid>, StorageError> {
    if nids.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "WITH RECURSIVE chain (nid, parent_nid) AS (
                   SELECT nid, parent_nid FROM state_snapshots
                   WHERE nid IN (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))
                   UNION
                   SELECT s.nid, s.parent_nid
                   FROM chain JOIN state_snapshots s ON s.nid = chain.parent_nid
               )
               SELECT nid FROM chain";
    let list = super::json_rows(nids.iter().map(|nid| nid.0));
    let rows: Vec<(i64,)> = db.fetch_all(sql, &params![list]).await?;
    Ok(rows.into_iter().map(|(nid,)| StateNid(nid)).collect())
}

/// Numbers and parents of the rows below `before`, in falling order.
pub async fn list_parents(
    db: &Database,
    before: StateNid,
    limit: usize,
) -> Result<Vec<(StateNid, StateNid)>, StorageError> {
    let sql =
        "SELECT nid, parent_nid FROM state_snapshots WHERE nid < $1 ORDER BY nid DESC LIMIT $2";
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params![before, limit]).await?;
    Ok(rows.into_iter().map(|(nid, parent)| (StateNid(nid), StateNid(parent))).collect())
}

/// The states that the events behind `after` (in rising order of numbers, at most `limit`) stand upon, and the
/// number of the last of these events.
pub async fn list_of_events(
    db: &Database,
    after: EventNid,
    limit: usize,
) -> Result<(Vec<StateNid>, Option<EventNid>), StorageError> {
    let sql = "SELECT nid, state_nid FROM events WHERE nid > $1 ORDER BY nid LIMIT $2";
    let rows: Vec<(i64, i64)> = db.fetch_all(sql, &params![after, limit]).await?;
    let last = rows.last().map(|(nid, _)| EventNid(*nid));
    Ok((rows.into_iter().map(|(_, state)| StateNid(state)).collect(), last))
}

/// The states that the forks behind a room and place name, in this order, and the room and place of the last.
pub async fn list_of_forks(
    db: &Database,
    (room, ordering): (RoomNid, i64),
    limit: usize,
) -> Result<Vec<(RoomNid, i64, StateNid)>, StorageError> {
    let sql = "SELECT room_nid, ordering, state_nid FROM room_forks
               WHERE (room_nid, ordering) > ($1, $2) ORDER BY room_nid, ordering LIMIT $3";
    let rows: Vec<(i64, i64, i64)> = db.fetch_all(sql, &params![room, ordering, limit]).await?;
    let row = |(room, ordering, state)| (RoomNid(room), ordering, StateNid(state));
    Ok(rows.into_iter().map(row).collect())
}

static DELETE: Statement = Statement {
    table: "state_snapshots_deleted",
    key: 1,
    sql: "DELETE FROM state_snapshots WHERE nid IN
              (SELECT CAST(value->>0 AS BIGINT) FROM json_each($1))",
};

/// Deletes a row that no other one and nothing else names.
pub fn delete(tx: &mut WriteTx, nid: StateNid) {
    tx.push(&DELETE, vec![nid.into()]);
}

/// The highest number in use.
pub async fn load_newest(db: &Database) -> Result<StateNid, StorageError> {
    let (nid,): (Option<i64>,) = db.fetch_one("SELECT max(nid) FROM state_snapshots", &[]).await?;
    Ok(StateNid(nid.unwrap_or(0)))
}

/// Pairs as variable-length numbers (LEB128), 2 to 10 bytes a pair in practice.
pub fn encode_delta(pairs: &[(StateKeyNid, EventNid)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(pairs.len() * 8);
    for (key, event) in pairs {
        push_number(key.0.cast_unsigned(), &mut bytes);
        push_number(event.0.cast_unsigned(), &mut bytes);
    }
    bytes
}

/// The pairs of a delta.
pub fn decode_delta(bytes: &[u8]) -> Result<Vec<(StateKeyNid, EventNid)>, StorageError> {
    let mut pairs = Vec::with_capacity(bytes.len() / 6);
    for pair in DeltaReader::new(bytes) {
        pairs.push(pair?);
    }
    Ok(pairs)
}

/// Reads the pairs of a delta one after the other.
pub struct DeltaReader<'a>(&'a [u8]);

impl<'a> DeltaReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn read_pair(&mut self) -> Result<(StateKeyNid, EventNid), StorageError> {
        let key = take_number(&mut self.0)?;
        let event = take_number(&mut self.0)?;
        Ok((StateKeyNid(key.cast_signed()), EventNid(event.cast_signed())))
    }
}

impl Iterator for DeltaReader<'_> {
    type Item = Result<(StateKeyNid, EventNid), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let pair = self.read_pair();
        if pair.is_err() {
            self.0 = &[];
        }
        Some(pair)
    }
}

fn push_number(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, StorageError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes
            .split_first()
            .ok_or_else(|| StorageError::Damaged("a state delta ends too early".to_owned()))?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(StorageError::Damaged("a number in a state delta is too long".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_survive_encoding() {
        let pairs = vec![(StateKeyNid(3), EventNid(1)), (StateKeyNid(1 << 40), EventNid(i64::MAX))];
        assert_eq!(decode_delta(&encode_delta(&pairs)).expect("is whole"), pairs);
        decode_delta(&[0x80]).expect_err("is cut off");
    }
}
