//! Mail addresses of users, the proofs that they are theirs, what is published at identity servers,
//! and which terms were accepted.

use super::{Database, StorageError, WriteTransaction};
use crate::params;

/// An identifier of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredThirdPartyId {
    pub medium: String,
    pub address: String,
    pub user_id: String,
    pub validated_ts: i64,
    pub added_ts: i64,
}

/// A proof under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredValidation {
    pub sid: String,
    pub purpose: String,
    pub address: String,
    pub client_secret: String,
    pub token: String,
    pub send_attempt: i64,
    pub next_link: Option<String>,
    pub validated_ts: Option<i64>,
    pub changed_ts: i64,
}

/// Something that a user has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBinding {
    pub medium: String,
    pub address: String,
    pub id_server: String,
}

pub async fn find(
    database: &Database,
    medium: &str,
    address: &str,
) -> Result<Option<StoredThirdPartyId>, StorageError> {
    let row: Option<IdRow> = database
        .fetch_optional(
            "SELECT medium, address, user_id, validated_ts, added_ts FROM third_party_ids
            WHERE medium = $1 AND address = $2",
            &params![medium, address],
        )
        .await?;
    Ok(row.map(StoredThirdPartyId::from))
}

/// The identifiers of an account, in the order in which they were added.
pub async fn list(
    database: &Database,
    user_id: &str,
) -> Result<Vec<StoredThirdPartyId>, StorageError> {
    let rows: Vec<IdRow> = database
        .fetch_all(
            "SELECT medium, address, user_id, validated_ts, added_ts FROM third_party_ids
            WHERE user_id = $1 ORDER BY added_ts, address",
            &params![user_id],
        )
        .await?;
    Ok(rows.into_iter().map(StoredThirdPartyId::from).collect())
}

/// Adds an identifier; false when another account has it.
pub async fn insert(
    tx: &mut WriteTransaction<'_>,
    id: &StoredThirdPartyId,
) -> Result<bool, StorageError> {
    let StoredThirdPartyId { medium, address, user_id, validated_ts, added_ts } = id;
    let sql = "INSERT INTO third_party_ids (medium, address, user_id, validated_ts, added_ts)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (medium, address) DO UPDATE SET validated_ts = excluded.validated_ts
        WHERE third_party_ids.user_id = excluded.user_id";
    let params = params![medium, address, user_id, *validated_ts, *added_ts];
    Ok(tx.execute(sql, &params).await? > 0)
}

pub async fn delete(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    medium: &str,
    address: &str,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM third_party_ids WHERE user_id = $1 AND medium = $2 AND address = $3";
    tx.execute(sql, &params![user_id, medium, address]).await.map(drop)
}

pub async fn list_bindings(
    database: &Database,
    user_id: &str,
) -> Result<Vec<StoredBinding>, StorageError> {
    let rows: Vec<(String, String, String)> = database
        .fetch_all(
            "SELECT medium, address, id_server FROM third_party_bindings
            WHERE user_id = $1 ORDER BY medium, address, id_server",
            &params![user_id],
        )
        .await?;
    let bindings = rows.into_iter();
    Ok(bindings
        .map(|(medium, address, id_server)| StoredBinding { medium, address, id_server })
        .collect())
}

pub async fn insert_binding(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    binding: &StoredBinding,
) -> Result<(), StorageError> {
    let StoredBinding { medium, address, id_server } = binding;
    let sql = "INSERT INTO third_party_bindings (user_id, medium, address, id_server)
        VALUES ($1, $2, $3, $4) ON CONFLICT (user_id, medium, address, id_server) DO NOTHING";
    tx.execute(sql, &params![user_id, medium, address, id_server]).await.map(drop)
}

pub async fn delete_binding(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    binding: &StoredBinding,
) -> Result<(), StorageError> {
    let StoredBinding { medium, address, id_server } = binding;
    let sql = "DELETE FROM third_party_bindings
        WHERE user_id = $1 AND medium = $2 AND address = $3 AND id_server = $4";
    tx.execute(sql, &params![user_id, medium, address, id_server]).await.map(drop)
}

pub async fn find_validation(
    database: &Database,
    sid: &str,
) -> Result<Option<StoredValidation>, StorageError> {
    let row: Option<ValidationRow> = database
        .fetch_optional(
            "SELECT sid, purpose, address, client_secret, token, send_attempt, next_link,
                validated_ts, changed_ts
            FROM validations WHERE sid = $1",
            &params![sid],
        )
        .await?;
    Ok(row.map(StoredValidation::from))
}

/// The proof under way that a client began with this secret.
pub async fn find_validation_by_secret(
    tx: &mut WriteTransaction<'_>,
    purpose: &str,
    address: &str,
    client_secret: &str,
) -> Result<Option<StoredValidation>, StorageError> {
    let row: Option<ValidationRow> = tx
        .fetch_optional(
            "SELECT sid, purpose, address, client_secret, token, send_attempt, next_link,
                validated_ts, changed_ts
            FROM validations WHERE purpose = $1 AND address = $2 AND client_secret = $3",
            &params![purpose, address, client_secret],
        )
        .await?;
    Ok(row.map(StoredValidation::from))
}

/// Begins a proof, in the place of an older one with the same secret.
pub async fn insert_validation(
    tx: &mut WriteTransaction<'_>,
    validation: &StoredValidation,
) -> Result<(), StorageError> {
    let sql = "DELETE FROM validations
        WHERE purpose = $1 AND address = $2 AND client_secret = $3";
    let StoredValidation { sid, purpose, address, client_secret, token, next_link, .. } =
        validation;
    tx.execute(sql, &params![purpose, address, client_secret]).await?;
    let sql = "INSERT INTO validations (sid, purpose, address, client_secret, token, send_attempt,
            next_link, validated_ts, changed_ts)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    let params = params![
        sid,
        purpose,
        address,
        client_secret,
        token,
        validation.send_attempt,
        next_link.as_deref(),
        validation.validated_ts,
        validation.changed_ts,
    ];
    tx.execute(sql, &params).await.map(drop)
}

/// Notes that a mail was sent.
pub async fn note_mail(
    tx: &mut WriteTransaction<'_>,
    sid: &str,
    send_attempt: i64,
    next_link: Option<&str>,
) -> Result<(), StorageError> {
    let sql = "UPDATE validations SET send_attempt = $2, next_link = $3
        WHERE sid = $1 AND send_attempt < $2";
    tx.execute(sql, &params![sid, send_attempt, next_link]).await.map(drop)
}

/// Notes that the address was proven.
pub async fn note_validated(
    tx: &mut WriteTransaction<'_>,
    sid: &str,
    now_ts: u64,
) -> Result<(), StorageError> {
    let sql = "UPDATE validations SET validated_ts = $2, changed_ts = $2
        WHERE sid = $1 AND validated_ts IS NULL";
    tx.execute(sql, &params![sid, now_ts]).await.map(drop)
}

/// Ends a proof that was used; false when it is gone already.
pub async fn take_validation(
    tx: &mut WriteTransaction<'_>,
    sid: &str,
) -> Result<bool, StorageError> {
    Ok(tx.execute("DELETE FROM validations WHERE sid = $1", &params![sid]).await? > 0)
}

/// Deletes proofs that were not touched since.
pub async fn delete_old_validations(
    tx: &mut WriteTransaction<'_>,
    before_ts: u64,
) -> Result<(), StorageError> {
    tx.execute("DELETE FROM validations WHERE changed_ts < $1", &params![before_ts]).await.map(drop)
}

/// Notes that a user has accepted a document.
pub async fn insert_accepted_terms(
    tx: &mut WriteTransaction<'_>,
    user_id: &str,
    (policy, version): (&str, &str),
    accepted_ts: i64,
) -> Result<(), StorageError> {
    let sql = "INSERT INTO accepted_terms (user_id, policy, version, accepted_ts)
        VALUES ($1, $2, $3, $4) ON CONFLICT (user_id, policy)
        DO UPDATE SET version = excluded.version, accepted_ts = excluded.accepted_ts";
    tx.execute(sql, &params![user_id, policy, version, accepted_ts]).await.map(drop)
}

type IdRow = (String, String, String, i64, i64);

impl From<IdRow> for StoredThirdPartyId {
    fn from((medium, address, user_id, validated_ts, added_ts): IdRow) -> Self {
        Self { medium, address, user_id, validated_ts, added_ts }
    }
}

type ValidationRow =
    (String, String, String, String, String, i64, Option<String>, Option<i64>, i64);

impl From<ValidationRow> for StoredValidation {
    fn from(row: ValidationRow) -> Self {
        let (sid, purpose, address, client_secret, token, send_attempt, next_link, at, changed_ts) =
            row;
        let validated_ts = at;
        Self {
            sid,
            purpose,
            address,
            client_secret,
            token,
            send_attempt,
            next_link,
            validated_ts,
            changed_ts,
        }
    }
}
