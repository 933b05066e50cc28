//! Hearth, a Matrix homeserver. The modules, each in a sentence:
//!
//! - [`storage`]: SQL and nothing but SQL, over SQLite or PostgreSQL, with the group-commit writer.
//! - [`protocol`]: the pure core: events, room versions, authorisation, state resolution, signing.
//! - [`config`]: the settings, one section per file, validated whole.
//! - [`clock`]: time and randomness as arguments.

pub mod clock;
pub mod config;
pub mod protocol;
pub mod storage;
