//! Rows of `state_keys`: numbers for pairs of event type and state key.

use super::{Database, StateKeyNid, Statement, StorageError, WriteTx};
use crate::params;

static INSERT: Statement = Statement {
    table: "state_keys",
    key: 1,
    sql: "INSERT INTO state_keys (nid, kind, state_key)
          SELECT CAST(value->>0 AS BIGINT), unhex(value->>1), unhex(value->>2)
          FROM json_each($1) WHERE true ON CONFLICT DO NOTHING",
};

/// Writes the pair, unless it is there already.
pub fn insert(tx: &mut WriteTx, nid: StateKeyNid, kind: &str, state_key: &str) {
    tx.push(&INSERT, vec![nid.into(), kind.as_bytes().into(), state_key.as_bytes().into()]);
}

pub async fn find(
    db: &Database,
    kind: &str,
    state_key: &str,
) -> Result<Option<StateKeyNid>, StorageError> {
    let sql = "SELECT nid FROM state_keys WHERE kind = $1 AND state_key = $2";
    let params = params![kind.as_bytes(), state_key.as_bytes()];
    Ok(db.fetch_optional::<(i64,)>(sql, &params).await?.map(|(nid,)| StateKeyNid(nid)))
}

/// The type and state key that a number stands for.
pub async fn load(db: &Database, nid: StateKeyNid) -> Result<(String, String), StorageError> {
    let sql = "SELECT kind, state_key FROM state_keys WHERE nid = $1";
    let (kind, state_key): (Vec<u8>, Vec<u8>) = db.fetch_one(sql, &params![nid]).await?;
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).map_err(|error| StorageError::Damaged(error.to_string()))
    };
    Ok((text(kind)?, text(state_key)?))
}

/// The highest number in use.
pub async fn load_newest(db: &Database) -> Result<StateKeyNid, StorageError> {
    let (nid,): (Option<i64>,) = db.fetch_one("SELECT max(nid) FROM state_keys", &[]).await?;
    Ok(StateKeyNid(nid.unwrap_or(1)))
}

/// The numbers of those pairs that have one, with the pair.
pub async fn list(
    db: &Database,
    pairs: &[(&str, &str)],
) -> Result<Vec<(StateKeyNid, Vec<u8>, Vec<u8>)>, StorageError> {
    let mut rows = String::from("[");
    for (kind, state_key) in pairs {
        rows.push_str(if rows.len() == 1 { "[" } else { ",[" });
        super::value::write_hex(kind.as_bytes(), &mut rows);
        rows.push(',');
        super::value::write_hex(state_key.as_bytes(), &mut rows);
        rows.push(']');
    }
    rows.push(']');
    let sql = "SELECT k.nid, k.kind, k.state_key
               FROM (SELECT unhex(value->>0) AS kind, unhex(value->>1) AS state_key
                     FROM json_each($1)) AS v
               JOIN state_keys k ON k.kind = v.kind AND k.state_key = v.state_key";
    let rows: Vec<(i64, Vec<u8>, Vec<u8>)> = db.fetch_all(sql, &params![rows]).await?;
    Ok(rows.into_iter().map(|(nid, kind, key)| (StateKeyNid(nid), kind, key)).collect())
}
