//! Hearth, a Matrix homeserver. The modules, each in a sentence:
//!
//! - [`storage`]: SQL and nothing but SQL, over SQLite or PostgreSQL, with the group-commit writer.
//! - [`clock`]: time and randomness as arguments.

pub mod clock;
pub mod storage;
