//! The Client-Server API, one file per noun of the specification.

pub mod account;
pub mod account_data;
pub mod admin;
pub mod capabilities;
pub mod create_room;
pub mod devices;
pub mod filter;
pub mod login;
pub mod logout;
pub mod media;
pub mod messages;
pub mod openid;
pub mod profile;
pub mod push_rules;
pub mod register;
pub mod relations;
pub mod room_aliases;
mod room_errors;
pub mod room_paths;
pub mod room_state;
pub mod rooms_membership;
pub mod send;
pub mod sync;
pub mod third_party;
pub mod uia;
pub mod versions;
