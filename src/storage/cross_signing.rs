//! Cross-signing keys, and signatures that were uploaded after the key that they are for.

use super::{Database, Param, Statement, StorageError, WriteTransaction, WriteTx, json_text_rows};
use crate::params;

/// A signature by `signer_user`'s `signer_key` (without `ed25519:`) on a device or key of
/// `target_user`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSignature {
    pub target_user: String,
    /// A device ID or a public key.
    pub target_key: String,
    pub signer_user: String,
    pub signer_key: String,
    pub signature: String,
}

/// All cross-signing keys of some users: user, usage, JSON.
pub async fn list_keys(
    database: &Database,
    users: &[&str],
) -> Result<Vec<(String, String, String)>, StorageError> {
    let sql = "SELECT c.user_id, c.usage, c.key FROM json_each($1) AS v
        JOIN cross_signing_keys c ON c.user_id = v.value->>0";
    database.fetch_all(sql, &[Param::Text(json_text_rows(users.iter().copied()))]).await
}

/// The cross-signing keys of a user: usage, JSON.
pub async fn list_of_user(
    tx: &mut WriteTransaction<'_>,
    user: &str,
) -> Result<Vec<(String, String)>, StorageError> {
    let sql = "SELECT usage, key FROM cross_signing_keys WHERE user_id = $1 ORDER BY usage";
    tx.fetch_all(sql, &params![user]).await
}

pub async fn save_key(
    tx: &mut WriteTransaction<'_>,
    (user, usage): (&str, &str),
    key: &str,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO cross_signing_keys (user_id, usage, key) VALUES ($1, $2, $3)
        ON CONFLICT (user_id, usage) DO UPDATE SET key = excluded.key";
    tx.execute(sql, &params![user, usage, key]).await.map(drop)
}

/// Deletes a key that was replaced.
pub async fn delete_key(
    tx: &mut WriteTransaction<'_>,
    (user, usage): (&str, &str),
) -> Result<(), StorageError> {
    let sql = "DELETE FROM cross_signing_keys WHERE user_id = $1 AND usage = $2";
    tx.execute(sql, &params![user, usage]).await.map(drop)
}

/// Signatures on keys of some users, as far as `viewer` may see them: by the owners themselves and
/// by the viewer.
pub async fn list_signatures(
    database: &Database,
    users: &[&str],
    viewer: &str,
) -> Result<Vec<StoredSignature>, StorageError> {
    let rows: Vec<(String, String, String, String, String)> = database
        .fetch_all(
            "SELECT s.target_user, s.target_key, s.signer_user, s.signer_key, s.signature
            FROM json_each($1) AS v JOIN key_signatures s ON s.target_user = v.value->>0
            WHERE s.signer_user = s.target_user OR s.signer_user = $2",
            &[Param::Text(json_text_rows(users.iter().copied())), viewer.into()],
        )
        .await?;
    let read = |(target_user, target_key, signer_user, signer_key, signature)| StoredSignature {
        target_user,
        target_key,
        signer_user,
        signer_key,
        signature,
    };
    Ok(rows.into_iter().map(read).collect())
}

/// Stores a signature; false when it was there already.
pub async fn save_signature(
    tx: &mut WriteTransaction<'_>,
    row: &StoredSignature,
    position: i64,
) -> Result<bool, StorageError> {
    let sql = "INSERT INTO key_signatures
            (target_user, target_key, signer_user, signer_key, signature, position)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (target_user, target_key, signer_user, signer_key)
        DO UPDATE SET signature = excluded.signature, position = excluded.position
        WHERE key_signatures.signature <> excluded.signature";
    let StoredSignature { target_user, target_key, signer_user, signer_key, signature } = row;
    let params = params![target_user, target_key, signer_user, signer_key, signature, position];
    Ok(tx.execute(sql, &params).await? > 0)
}

/// Deletes the signatures on a user's device or key.
pub async fn delete_signatures_on(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    key: &str,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM key_signatures WHERE target_user = $1 AND target_key = $2";
    tx.execute(sql, &params![user, key]).await.map(drop)
}

static DELETE_SIGNATURES_ON: Statement = Statement {
    table: "key_signatures",
    key: 2,
    sql: "DELETE FROM key_signatures WHERE (target_user, target_key) IN
        (SELECT value->>0, value->>1 FROM json_each($1))",
};

/// Adds to a write that the signatures on a user's device are deleted.
pub fn push_delete_signatures_on(tx: &mut WriteTx, (user, device): (&str, &str)) {
    tx.push(&DELETE_SIGNATURES_ON, vec![user.into(), device.into()]);
}

/// Deletes the signatures that a user made with a key.
pub async fn delete_signatures_by(
    tx: &mut WriteTransaction<'_>,
    user: &str,
    key: &str,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM key_signatures WHERE signer_user = $1 AND signer_key = $2";
    tx.execute(sql, &params![user, key]).await.map(drop)
}

/// Whose keys a user signed above `since` up to `upto`.
pub async fn list_signed_users(
    database: &Database,
    signer: &str,
    (since, upto): (i64, i64),
) -> Result<Vec<String>, StorageError> {
    let sql = "SELECT DISTINCT target_user FROM key_signatures
        WHERE signer_user = $1 AND position > $2 AND position <= $3";
    let rows: Vec<(String,)> = database.fetch_all(sql, &params![signer, since, upto]).await?;
    Ok(rows.into_iter().map(|(user,)| user).collect())
}
