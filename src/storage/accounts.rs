//! Accounts: password hashes and flags; registration tokens.

use super::{Database, StorageError, WriteTransaction};
use crate::params;

/// An account as it is stored.
#[derive(Clone, Debug)]
pub struct StoredAccount {
    pub user_id: String,
    pub password_hash: Option<String>,
    pub flags: i64,
    pub appservice_id: Option<String>,
    pub created_ts: i64,
}

/// A registration token as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRegistrationToken {
    pub token: String,
    pub uses_allowed: Option<i64>,
    pub uses: i64,
    pub expires_ts: Option<i64>,
    pub makes_admin: bool,
}

/// Makes an account. Its name must be free.
pub async fn insert(
    tx: &mut WriteTransaction<'_>,
    account: &StoredAccount,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO accounts (user_id, password_hash, flags, appservice_id, created_ts)
        VALUES ($1, $2, $3, $4, $5)";
    let StoredAccount { user_id, password_hash, flags, appservice_id, created_ts } = account;
    let (hash, appservice_id) = (password_hash.as_deref(), appservice_id.as_deref());
    tx.execute(sql, &params![user_id, hash, *flags, appservice_id, *created_ts]).await.map(drop)
}

pub async fn find(
    database: &Database,
    user_id: &str,
) -> Result<Option<StoredAccount>, StorageError> {
    let row: Option<AccountRow> = database.fetch_optional(FIND_SQL, &params![user_id]).await?;
    Ok(row.map(StoredAccount::from))
}

pub async fn find_in(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
) -> Result<Option<StoredAccount>, StorageError> {
    let row: Option<AccountRow> = tx.fetch_optional(FIND_SQL, &params![user_id]).await?;
    Ok(row.map(StoredAccount::from))
}

/// Accounts in the order of their names, from the first behind `after`.
pub async fn list(
    database: &Database,
    after: &str,
    limit: u32,
) -> Result<Vec<StoredAccount>, StorageError> {
    let rows: Vec<AccountRow> = database
        .fetch_all(
            "SELECT user_id, password_hash, flags, appservice_id, created_ts FROM accounts
            WHERE user_id > $1 ORDER BY user_id LIMIT $2",
            &params![after, limit],
        )
        .await?;
    Ok(rows.into_iter().map(StoredAccount::from).collect())
}

/// Whether there is any account but guests.
pub async fn exists_any(database: &Database) -> Result<bool, StorageError> {
    let row: Option<(i64,)> = database
        .fetch_optional("SELECT flags FROM accounts WHERE flags & 2 = 0 LIMIT 1", &[])
        .await?;
    Ok(row.is_some())
}

pub async fn set_password(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    password_hash: Option<&str>,
) -> Result<bool, StorageError> {
    let sql = "UPDATE accounts SET password_hash = $2 WHERE user_id = $1";
    Ok(tx.execute(sql, &params![user_id, password_hash]).await? > 0)
}

pub async fn set_flags(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    flags: i64,
) -> Result<bool, StorageError> {
    let sql = "UPDATE accounts SET flags = $2 WHERE user_id = $1";
    Ok(tx.execute(sql, &params![user_id, flags]).await? > 0)
}

pub async fn insert_registration_token(
    tx: &mut WriteTransaction<'_>,
    token: &StoredRegistrationToken,
) -> Result<bool, StorageError> {
    let sql = "INSERT INTO registration_tokens (token, uses_allowed, uses, expires_ts, makes_admin)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT (token) DO NOTHING";
    let StoredRegistrationToken { token, uses_allowed, uses, expires_ts, makes_admin } = token;
    let params = params![token, *uses_allowed, *uses, *expires_ts, *makes_admin];
    Ok(tx.execute(sql, &params).await? > 0)
}

pub async fn find_registration_token(
    database: &Database,
    token: &str,
) -> Result<Option<StoredRegistrationToken>, StorageError> {
    let row: Option<TokenRow> = database
        .fetch_optional(
            "SELECT token, uses_allowed, uses, expires_ts, makes_admin FROM registration_tokens
            WHERE token = $1",
            &params![token],
        )
        .await?;
    Ok(row.map(StoredRegistrationToken::from))
}

/// The unused token that makes an administrator, if there is one.
pub async fn find_admin_token(
    database: &Database,
) -> Result<Option<StoredRegistrationToken>, StorageError> {
    let row: Option<TokenRow> = database
        .fetch_optional(
            "SELECT token, uses_allowed, uses, expires_ts, makes_admin FROM registration_tokens
            WHERE makes_admin = 1 AND uses = 0 ORDER BY token LIMIT 1",
            &[],
        )
        .await?;
    Ok(row.map(StoredRegistrationToken::from))
}

/// Tokens in the order of their names.
pub async fn list_registration_tokens(
    database: &Database,
    limit: u32,
) -> Result<Vec<StoredRegistrationToken>, StorageError> {
    let sql = "SELECT token, uses_allowed, uses, expires_ts, makes_admin FROM registration_tokens
        ORDER BY token LIMIT $1";
    let rows: Vec<TokenRow> = database.fetch_all(sql, &params![limit]).await?;
    Ok(rows.into_iter().map(StoredRegistrationToken::from).collect())
}

/// Deletes a token; what it was, or `None` when there is none.
pub async fn delete_registration_token(
    tx: &mut WriteTransaction<'_>,
    token: &str,
) -> Result<Option<StoredRegistrationToken>, StorageError> {
    let sql = "DELETE FROM registration_tokens WHERE token = $1
        RETURNING token, uses_allowed, uses, expires_ts, makes_admin";
    let row: Option<TokenRow> = tx.fetch_optional(sql, &params![token]).await?;
    Ok(row.map(StoredRegistrationToken::from))
}

/// Uses a token once; whether it makes an administrator, or `None` when it is not valid.
pub async fn use_registration_token(
    tx: &mut WriteTransaction<'_>,
    token: &str,
    now_ts: u64,
) -> Result<Option<bool>, StorageError> {
    let row: Option<(i64,)> = tx
        .fetch_optional(
            "UPDATE registration_tokens SET uses = uses + 1
            WHERE token = $1 AND (uses_allowed IS NULL OR uses < uses_allowed)
                AND (expires_ts IS NULL OR expires_ts > $2)
            RETURNING makes_admin",
            &params![token, now_ts],
        )
        .await?;
    Ok(row.map(|(makes_admin,)| makes_admin != 0))
}

/// Deletes what an account stored for itself.
pub async fn delete_personal_data(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
) -> Result<(), StorageError> {
    for sql in [
        "DELETE FROM profiles WHERE user_id = $1",
        "DELETE FROM account_data WHERE user_id = $1",
        "DELETE FROM filters WHERE user_id = $1",
        "DELETE FROM short_tokens WHERE user_id = $1",
        "DELETE FROM pushers WHERE user_id = $1",
        "DELETE FROM status_messages WHERE user_id = $1",
        "DELETE FROM third_party_ids WHERE user_id = $1",
        "DELETE FROM third_party_bindings WHERE user_id = $1",
        "DELETE FROM accepted_terms WHERE user_id = $1",
        "DELETE FROM thread_subscriptions WHERE user_id = $1",
    ] {
        tx.execute(sql, &params![user_id]).await?;
    }
    Ok(())
}

const FIND_SQL: &str = "SELECT user_id, password_hash, flags, appservice_id, created_ts
    FROM accounts WHERE user_id = $1";

type AccountRow = (String, Option<String>, i64, Option<String>, i64);

impl From<AccountRow> for StoredAccount {
    fn from((user_id, password_hash, flags, appservice_id, created_ts): AccountRow) -> Self {
        Self { user_id, password_hash, flags, appservice_id, created_ts }
    }
}

type TokenRow = (String, Option<i64>, i64, Option<i64>, i64);

impl From<TokenRow> for StoredRegistrationToken {
    fn from((token, uses_allowed, uses, expires_ts, makes_admin): TokenRow) -> Self {
        Self { token, uses_allowed, uses, expires_ts, makes_admin: makes_admin != 0 }
    }
}
