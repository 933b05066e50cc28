//! SQL and nothing but SQL: the connections, the group-commit writer, the migrations, and a
//! file of statements per noun. Decides nothing about Matrix.

pub mod account_data;
pub mod accounts;
pub mod administration;
pub mod appservices;
mod batch;
pub mod care;
mod checkpoints;
pub mod counts;
pub mod cross_signing;
mod database;
pub mod dehydrated_devices;
pub mod delayed_events;
pub mod destinations;
pub mod device_keys;
pub mod device_lists;
pub mod devices;
mod dialect;
pub mod incoming_transactions;
pub mod jobs;
pub mod key_backup;
mod migrate;
mod nid;
pub mod own_keys;
pub mod profiles;
pub mod purge;
pub mod pushers;
pub mod quarantine;
mod readers;
pub mod remote_devices;
pub mod third_party_ids;
pub mod thread_subscriptions;
pub mod to_device;
pub mod tokens;
pub mod url_previews;
pub mod user_directory;
mod value;
mod writer;

pub mod aliases;
pub mod directory;
pub mod erasures;
pub mod events;
pub mod graph;
pub mod media;
pub mod memberships;
pub mod partial_rooms;
pub mod receipts;
pub mod redactions;
pub mod relations;
pub mod reports;
pub mod rooms;
pub mod search;
pub mod server_keys;
pub mod sliding;
pub mod snapshots;
pub mod state_keys;
pub mod statistics;
pub mod status_messages;
pub mod sticky_events;

pub use batch::{Committed, Statement, WriteTx};
pub use checkpoints::run_checkpoints;
pub use database::{Database, StoredRow, WriteTransaction};
pub use dialect::Dialect;
pub use migrate::{MigrateError, migrate};
pub use nid::{EventNid, RoomNid, StateKeyNid, StateNid, UserNid};
pub use value::{Cell, ORDERING_STEP, Param};
pub use writer::{CommitTicket, WritePermit, Writer};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error("PostgreSQL at {place} does not let this server in: {source}")]
    Unreachable { place: String, source: sqlx::Error },
    /// A query that always has a row had none: the database is damaged.
    #[error("a row that must be there is missing")]
    RowMissing,
    /// A stored value is not what was once written: the database is damaged.
    #[error("a stored value cannot be read: {0}")]
    Damaged(String),
    /// What the write builds upon was not committed.
    #[error("an earlier write to the same room or account failed")]
    Superseded,
    /// Neither database takes `\u{0}` in text.
    #[error("a text contains the character U+0000")]
    NulInText,
    /// Another process has taken the PostgreSQL database over.
    #[error("another process has become the writer of this database")]
    WriterReplaced,
    #[error("the store is shutting down")]
    Closed,
}

impl StorageError {
    /// Whether the same may succeed later: not the data are at fault, but the way to the database.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Superseded | Self::WriterReplaced | Self::Closed => {
                true
            }
            Self::Database(error) => matches!(
                error,
                sqlx::Error::Io(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::PoolClosed
                    | sqlx::Error::WorkerCrashed
            ),
            Self::RowMissing | Self::Damaged(_) | Self::NulInText => false,
        }
    }
}

/// A list of numbers as the JSON that `json_each($1)` with `value->>0` reads.
pub fn json_rows(numbers: impl IntoIterator<Item = i64>) -> String {
    let rows: Vec<_> = numbers.into_iter().map(|number| format!("[{number}]")).collect();
    format!("[{}]", rows.join(","))
}

/// A list of texts as the JSON that `json_each($1)` with `value->>0` reads.
pub fn json_text_rows<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let rows: Vec<_> = texts.into_iter().map(|text| [text]).collect();
    serde_json::to_string(&rows).expect("texts are always JSON")
}

/// A list of byte strings as the JSON that `json_each($1)` with `unhex(value->>0)` reads.
pub fn json_hex_rows<'a>(keys: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut json = String::from("[");
    for key in keys {
        json.push_str(if json.len() == 1 { "[" } else { ",[" });
        value::write_hex(key, &mut json);
        json.push(']');
    }
    json.push(']');
    json
}
