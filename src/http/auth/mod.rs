//! Who makes a request (Client-Server API, "Using access tokens"): extractors that a handler
//! names among its arguments, so that its signature says who may call it. Decides nothing else.

mod client_address;
mod user_session;

pub use client_address::ClientAddress;
pub use user_session::{
    AdminSession, LogoutSession, OptionalSession, UserOrGuestSession, UserSession, refuse_suspended,
};
