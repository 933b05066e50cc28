//! The pure core of Matrix: events, room versions, authorisation, state resolution, signing, push
//! rules and history visibility.
//!
//! Architecture invariant: nothing here performs I/O, waits, reads a clock or draws randomness, and
//! nothing here imports from the rest of the crate. What is missing is asked for by name, and whoever
//! calls brings it.

pub mod authorisation;
pub mod canonical_json;
pub mod event;
pub mod event_builder;
pub mod event_format;
pub mod event_hash;
pub mod event_signatures;
pub mod history_visibility;
pub mod invite_permission;
pub mod membership;
pub mod policy_server;
pub mod power_levels;
pub mod push_rules;
pub mod redaction;
pub mod room_content;
pub mod room_version;
pub mod server_acl;
pub mod signing;
pub mod state_key;
pub mod state_resolution;
pub mod third_party_invite;
