//! The Server-Server API: requests of other servers become calls of the modules below. The routes
//! stand in `routes`.

pub mod devices;
pub mod errors;
pub mod event_relationships;
pub mod events;
pub mod hierarchy;
pub mod invite;
pub mod keys;
pub mod media;
pub mod membership;
pub mod public_rooms;
pub mod query;
mod routes;
pub mod third_party_invites;
mod transactions;
pub mod version;

pub(super) use routes::add_routes;
