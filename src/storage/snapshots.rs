//! Rows of `state_snapshots`: states of rooms as chains of deltas.

use super::{Database, EventNid, StateKeyNid, StateNid, Statement, StorageError, WriteTx};
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
    let row = |(nid, parent, height, delta)| SnapshotRow {
        nid: StateNid(nid),
        parent: StateNid(parent),
        height,
        delta,
    };
    Ok(rows.into_iter().map(row).collect())
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
pub fn decode_delta(mut bytes: &[u8]) -> Result<Vec<(StateKeyNid, EventNid)>, StorageError> {
    let mut pairs = Vec::with_capacity(bytes.len() / 6);
    while !bytes.is_empty() {
        let key = StateKeyNid(take_number(&mut bytes)?.cast_signed());
        pairs.push((key, EventNid(take_number(&mut bytes)?.cast_signed())));
    }
    Ok(pairs)
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
