//! Rooms: decides what happens in them; the only writer of timelines. Not for HTTP, nor for
//! what a client has not seen yet (`sync`).

mod append;
mod event_store;
mod registry;
mod room;
mod send;
mod state;
mod state_keys;
mod summary;
mod timeline;
mod transactions;
mod user_rooms;
mod visibility;

pub use append::{AppendError, EventRequest, ExtraRows};
pub use event_store::{EventStore, RoomFacts, StoredEvent, event_key};
pub use registry::{RoomSettings, Rooms};
pub use room::{Head, RECENT_EVENTS_MAX, Room};
pub use state::State;
pub use state_keys::{MEMBER, StateKey, StateKeys};
pub use summary::relation_of;
pub use timeline::{TimelinePart, ordering_of_position};
pub use transactions::SentBy;
pub use user_rooms::{UserRoom, UserRooms};
pub use visibility::Viewer;

#[cfg(test)]
mod tests;
