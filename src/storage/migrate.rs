//! Brings a database to the newest schema: numbered texts, forward only. Both databases have
//! the same numbers and names.

use super::{Database, Dialect, StorageError};
use crate::params;

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(
        "the database is from a newer Hearth (schema {found}, this one knows {known}); \
         start that version, or restore a backup made before the upgrade"
    )]
    DatabaseIsNewer { found: i64, known: i64 },
    #[error("migration {name} failed: {source}")]
    Failed { name: &'static str, source: StorageError },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

struct Migration {
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

macro_rules! migrations {
    ($($name:literal),* $(,)?) => {
        &[$(Migration {
            name: $name,
            sqlite: include_str!(concat!("../../migrations/sqlite/", $name, ".sql")),
            postgres: include_str!(concat!("../../migrations/postgres/", $name, ".sql")),
        }),*]
    };
}

/// A migration's number is its place in this list, from 1.
const MIGRATIONS: &[Migration] = migrations![
    "0001_writer",
    "0002_rooms",
    "0003_accounts",
    "0004_directory",
    "0005_ephemeral",
    "0006_media",
    "0007_search",
    "0008_pushers",
    "0009_sliding",
    "0010_status_messages",
    "0011_federation",
    "0012_erasures",
    "0013_delayed_events",
    "0014_graph",
    "0015_encryption",
    "0016_appservices",
    "0017_administration",
    "0019_third_party_ids",
    "0020_thread_subscriptions",
    "0021_partial_rooms",
    "0022_care",
    "0023_devices",
    "0024_push_progress",
    "0026_sticky_events",
    "0027_administration_tools",
];

/// Applies what is missing, each migration in a transaction of its own; returns the names of
/// those that were applied.
pub async fn migrate(database: &Database) -> Result<Vec<&'static str>, MigrateError> {
    let known = MIGRATIONS.len() as i64;
    let mut tx = database.begin().await?;
    tx.execute(
        "CREATE TABLE IF NOT EXISTS migrations (number BIGINT PRIMARY KEY, name TEXT NOT NULL)",
        &[],
    )
    .await?;
    let newest: Option<(Option<i64>,)> =
        tx.fetch_optional("SELECT max(number) FROM migrations", &[]).await?;
    tx.commit().await?;
    let found = newest.and_then(|(number,)| number).unwrap_or(0);
    if found > known {
        return Err(MigrateError::DatabaseIsNewer { found, known });
    }
    let mut applied = Vec::new();
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        let result = apply(database, migration, index as i64 + 1).await;
        result.map_err(|source| MigrateError::Failed { name: migration.name, source })?;
        applied.push(migration.name);
    }
    Ok(applied)
}

async fn apply(
    database: &Database,
    migration: &Migration,
    number: i64,
) -> Result<(), StorageError> {
    let text = match database.dialect() {
        Dialect::Sqlite => migration.sqlite,
        Dialect::Postgres => migration.postgres,
    };
    let mut tx = database.begin().await?;
    tx.execute_script(text).await?;
    tx.execute("INSERT INTO migrations VALUES ($1, $2)", &params![number, migration.name]).await?;
    tx.commit().await
}
