//! Hearth, a Matrix homeserver. The modules, each in a sentence:
//!
//! - [`app`]: wires every component once; the command line and the tests both call it.
//! - [`cli`]: the commands, one file per subcommand.
//! - [`server`]: listeners, TLS, connections, shutdown.
//! - [`telemetry`]: logs and figures.
//! - [`http`]: speaks HTTP, decides nothing.
//! - [`workflows`]: operations that cross several nouns, and the queue of lasting work.
//! - [`accounts`]: users, passwords, sessions, profiles, account data.
//! - [`storage`]: SQL and nothing but SQL, over SQLite or PostgreSQL, with the group-commit writer.
//! - [`protocol`]: the pure core: events, room versions, authorisation, state resolution, signing.
//! - [`config`]: the settings, one section per file, validated whole.
//! - [`sync`]: what a client has not seen yet.
//! - [`rooms`]: decides what happens in rooms; the only writer of timelines.
//! - [`encryption`]: keys of devices, cross-signing, messages to devices, backups of room keys.
//! - [`appservices`]: bridges and bots: who they are, and what is brought to them.
//! - [`ephemeral`]: typing, receipts, presence.
//! - [`push`]: whom an event notifies, unread counts.
//! - [`outbound`]: the HTTP client, server discovery.
//! - [`notifier`]: wakes waiting syncs.
//! - [`media`]: uploads, downloads and small versions of pictures.
//! - [`federation`]: the conversation with other servers.
//! - [`clock`]: time and randomness as arguments.
//! - [`cache_figures`]: how well the caches do.
//! - [`durable`]: files whose names survive a power cut.
//! - [`hook`]: what a module gives to one below it.

pub mod accounts;
pub mod app;
pub mod appservices;
pub mod cache_figures;
pub mod cli;
pub mod clock;
pub mod config;
pub mod durable;
pub mod encryption;
pub mod ephemeral;
pub mod federation;
pub mod hook;
pub mod http;
pub mod media;
pub mod notifier;
pub mod outbound;
pub mod protocol;
pub mod push;
pub mod rooms;
pub mod server;
pub mod storage;
pub mod sync;
pub mod telemetry;
pub mod workflows;
