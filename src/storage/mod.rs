//! SQL and nothing but SQL: the connections, the group-commit writer, the migrations, and a
//! file of statements per noun. Decides nothing about Matrix.

mod batch;
mod database;
mod dialect;
mod migrate;
mod value;
mod writer;

pub use batch::{Committed, Statement, WriteTx};
pub use database::{Database, StoredRow, WriteTransaction};
pub use dialect::Dialect;
pub use migrate::{MigrateError, migrate};
pub use value::{Cell, ORDERING_STEP, Param};
pub use writer::{CommitTicket, WritePermit, Writer, run_checkpoints};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
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
