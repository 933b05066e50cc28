//! Speaks HTTP and decides nothing: turns requests into calls of the modules below, and what they
//! return into answers. Connections, TLS and shutdown are the business of `server`.

pub mod apis;
pub mod auth;
mod client;
pub mod cors;
pub mod error;
mod federation;
mod health;
pub mod json;
mod page;
pub mod rate_limit;
pub mod router;
mod routes;
mod state;
pub mod synapse_admin;
mod well_known;

pub use client::{admin::RegistrationNonces, cross_signing::CrossSigningGrants};
pub use state::{App, AppState};
