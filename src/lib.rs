//! Hearth, a Matrix homeserver. The modules, each in a sentence:
//!
//! - [`storage`]: SQL and nothing but SQL, over SQLite or PostgreSQL, with the group-commit writer.
//! - [`protocol`]: the pure core: events, room versions, authorisation, state resolution, signing.
//! - [`config`]: the settings, one section per file, validated whole.
//! - [`rooms`]: decides what happens in rooms; the only writer of timelines.
//! - [`notifier`]: wakes waiting syncs.
//! - [`clock`]: time and randomness as arguments.

pub mod clock;
pub mod config;
pub mod notifier;
pub mod protocol;
pub mod rooms;
pub mod storage;
