//! The Client-Server API, one file per noun of the specification.

pub mod account;
pub mod account_data;
pub mod admin;
pub mod capabilities;
pub mod devices;
pub mod filter;
pub mod login;
pub mod logout;
pub mod media;
pub mod openid;
pub mod profile;
pub mod push_rules;
pub mod register;
pub mod sync;
pub mod third_party;
pub mod uia;
pub mod versions;
