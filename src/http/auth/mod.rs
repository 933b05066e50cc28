//! Who makes a request (Client-Server API, "Using access tokens"; Server-Server API, "Request
//! Authentication"): extractors that a handler names among its arguments, so that its signature says
//! who may call it. Decides nothing else.

mod appservice_session;
mod client_address;
mod signed_origin;
mod user_session;

pub use appservice_session::{AppserviceSession, MaybeAppservice, require_device};
pub use client_address::ClientAddress;
pub use signed_origin::{SignedBody, SignedOrigin, SignedText};
pub use user_session::{
    AdminSession, LogoutSession, OptionalSession, UserOrGuestSession, UserSession, refuse_suspended,
};
