//! Access tokens and the refresh tokens beside them, by hash; short-lived tokens for one use.

use super::{Database, Statement, StorageError, WriteTransaction, WriteTx};
use crate::params;

/// A SHA-256 hash of a token.
pub type TokenHash = [u8; 32];

/// A new access token, with a refresh token when the client can use one.
#[derive(Clone, Debug)]
pub struct NewToken<'a> {
    pub access_hash: TokenHash,
    pub refresh_hash: Option<TokenHash>,
    /// The pair that this one replaces as soon as it is used.
    pub parent_hash: Option<TokenHash>,
    pub user_id: &'a str,
    pub device_id: &'a str,
    pub access_expires_ts: Option<u64>,
    pub refresh_expires_ts: Option<u64>,
}

/// An access token that is known, with the flags of its account.
#[derive(Clone, Debug)]
pub struct StoredToken {
    pub user_id: String,
    pub device_id: String,
    pub access_expires_ts: Option<i64>,
    pub parent_hash: Option<Vec<u8>>,
    pub account_flags: i64,
}

/// A pair found by its refresh token.
#[derive(Clone, Debug)]
pub struct StoredRefresh {
    pub access_hash: Vec<u8>,
    pub parent_hash: Option<Vec<u8>>,
    pub user_id: String,
    pub device_id: String,
    pub refresh_expires_ts: Option<i64>,
    pub account_flags: i64,
}

pub async fn insert(
    tx: &mut WriteTransaction<'_>,
    token: &NewToken<'_>,
) -> Result<(), StorageError> {
    tx.execute(
        "INSERT INTO tokens (access_hash, refresh_hash, parent_hash, user_id, device_id,
            access_expires_ts, refresh_expires_ts) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        &params![
            &token.access_hash[..],
            token.refresh_hash.map(|hash| hash.to_vec()),
            token.parent_hash.map(|hash| hash.to_vec()),
            token.user_id,
            token.device_id,
            token.access_expires_ts,
            token.refresh_expires_ts,
        ],
    )
    .await
    .map(drop)
}

pub async fn find_access(
    database: &Database,
    hash: &TokenHash,
) -> Result<Option<StoredToken>, StorageError> {
    let row: Option<AccessRow> = database
        .fetch_optional(
            "SELECT t.user_id, t.device_id, t.access_expires_ts, t.parent_hash, a.flags
            FROM tokens t JOIN accounts a ON a.user_id = t.user_id WHERE t.access_hash = $1",
            &params![&hash[..]],
        )
        .await?;
    Ok(row.map(|(user_id, device_id, access_expires_ts, parent_hash, account_flags)| StoredToken {
        user_id,
        device_id,
        access_expires_ts,
        parent_hash,
        account_flags,
    }))
}

pub async fn find_refresh(
    tx: &mut WriteTransaction<'_>,
    hash: &TokenHash,
) -> Result<Option<StoredRefresh>, StorageError> {
    let row: Option<RefreshRow> = tx
        .fetch_optional(
            "SELECT t.access_hash, t.parent_hash, t.user_id, t.device_id, t.refresh_expires_ts,
                a.flags
            FROM tokens t JOIN accounts a ON a.user_id = t.user_id WHERE t.refresh_hash = $1",
            &params![&hash[..]],
        )
        .await?;
    Ok(row.map(|row| StoredRefresh {
        access_hash: row.0,
        parent_hash: row.1,
        user_id: row.2,
        device_id: row.3,
        refresh_expires_ts: row.4,
        account_flags: row.5,
    }))
}

/// Ends what the pair `hash` replaces, and so confirms the pair. Returns the hashes of access
/// tokens that are valid no more.
pub async fn confirm(
    tx: &mut WriteTransaction<'_>,
    hash: &[u8],
    parent_hash: &[u8],
) -> Result<Vec<TokenHash>, StorageError> {
    // A pair made by repeating the refresh with the same old token goes as well.
    let gone = tx
        .fetch_all(
            "DELETE FROM tokens WHERE (access_hash = $1 OR parent_hash = $1) AND access_hash <> $2
            RETURNING access_hash",
            &params![parent_hash, hash],
        )
        .await?;
    tx.execute("UPDATE tokens SET parent_hash = NULL WHERE access_hash = $1", &params![hash])
        .await?;
    Ok(as_hashes(gone))
}

/// Ends the pairs that were made from `hash` and never used.
pub async fn delete_children(
    tx: &mut WriteTransaction<'_>,
    hash: &[u8],
) -> Result<Vec<TokenHash>, StorageError> {
    let gone = tx
        .fetch_all(
            "DELETE FROM tokens WHERE parent_hash = $1 RETURNING access_hash",
            &params![hash],
        )
        .await?;
    Ok(as_hashes(gone))
}

/// Ends all sessions of a device.
pub async fn delete_of_device(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    device_id: &str,
) -> Result<Vec<TokenHash>, StorageError> {
    let gone = tx
        .fetch_all(
            "DELETE FROM tokens WHERE user_id = $1 AND device_id = $2 RETURNING access_hash",
            &params![user_id, device_id],
        )
        .await?;
    Ok(as_hashes(gone))
}

/// Ends all sessions of a user but those of the device `kept`.
pub async fn delete_of_user(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    kept: Option<&str>,
) -> Result<Vec<TokenHash>, StorageError> {
    let gone = tx
        .fetch_all(
            "DELETE FROM tokens WHERE user_id = $1 AND ($2 IS NULL OR device_id <> $2)
            RETURNING access_hash",
            &params![user_id, kept],
        )
        .await?;
    Ok(as_hashes(gone))
}

/// Deletes what can be used no more: short tokens that have expired, and sessions whose access
/// and refresh tokens both have.
pub async fn delete_expired(
    tx: &mut WriteTransaction<'_>,
    now_ts: u64,
    sessions_before_ts: u64,
) -> Result<(), StorageError> {
    tx.execute("DELETE FROM short_tokens WHERE expires_ts < $1", &params![now_ts]).await?;
    tx.execute(
        "DELETE FROM tokens WHERE access_expires_ts < $1 AND refresh_expires_ts < $1",
        &params![sessions_before_ts],
    )
    .await
    .map(drop)
}

/// What a short-lived token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShortTokenKind {
    Login,
    OpenId,
}

impl ShortTokenKind {
    fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::OpenId => "openid",
        }
    }
}

static INSERT_SHORT_TOKENS: Statement = Statement {
    table: "short_tokens",
    key: 1,
    sql: "INSERT INTO short_tokens (hash, kind, user_id, expires_ts)
        SELECT unhex(value->>0), value->>1, value->>2, CAST(value->>3 AS BIGINT)
        FROM json_each($1) WHERE true",
};

pub fn push_short_token(
    tx: &mut WriteTx,
    hash: &TokenHash,
    kind: ShortTokenKind,
    user_id: &str,
    expires_ts: u64,
) {
    tx.push(
        &INSERT_SHORT_TOKENS,
        vec![hash[..].into(), kind.name().into(), user_id.into(), expires_ts.into()],
    );
}

/// Takes a token for one use away; its user, unless it is unknown or has expired.
pub async fn take_short_token(
    tx: &mut WriteTransaction<'_>,
    hash: &TokenHash,
    kind: ShortTokenKind,
    now_ts: u64,
) -> Result<Option<String>, StorageError> {
    let row: Option<(String, i64)> = tx
        .fetch_optional(
            "DELETE FROM short_tokens WHERE hash = $1 AND kind = $2 RETURNING user_id, expires_ts",
            &params![&hash[..], kind.name()],
        )
        .await?;
    Ok(row.filter(|(_, expires_ts)| *expires_ts > now_ts as i64).map(|(user_id, _)| user_id))
}

/// The user whom a token that may be used repeatedly stands for.
pub async fn find_short_token(
    database: &Database,
    hash: &TokenHash,
    kind: ShortTokenKind,
    now_ts: u64,
) -> Result<Option<String>, StorageError> {
    let row: Option<(String,)> = database
        .fetch_optional(
            "SELECT user_id FROM short_tokens WHERE hash = $1 AND kind = $2 AND expires_ts > $3",
            &params![&hash[..], kind.name(), now_ts],
        )
        .await?;
    Ok(row.map(|(user_id,)| user_id))
}

type AccessRow = (String, String, Option<i64>, Option<Vec<u8>>, i64);
type RefreshRow = (Vec<u8>, Option<Vec<u8>>, String, String, Option<i64>, i64);

fn as_hashes(rows: Vec<(Vec<u8>,)>) -> Vec<TokenHash> {
    rows.into_iter().filter_map(|(hash,)| hash.try_into().ok()).collect()
}
