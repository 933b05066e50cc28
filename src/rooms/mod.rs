//! Rooms: decides what happens in them; the only writer of timelines. Not for HTTP, nor for
//! what a client has not seen yet (`sync`).

mod acceptance;
mod aliases;
mod append;
mod bundle;
mod client_event;
mod content_checks;
mod create;
mod directory;
mod erasures;
mod event_filter;
mod event_store;
mod handshake;
mod history;
mod import;
mod membership;
mod noted_weight;
mod overview;
mod readable_state;
mod reader;
mod receive;
mod registry;
mod related;
mod retention;
mod room;
mod room_name;
mod search;
mod search_index;
mod search_terms;
mod send;
mod served;
mod source;
mod state;
mod state_keys;
mod summary;
mod timeline;
mod token;
mod transactions;
mod user_rooms;
mod visibility;

pub use acceptance::{Acceptance, AcceptanceHook, AcceptanceHooks, Accepted};
pub use aliases::{ALIAS_BYTES_MAX, AliasError, ReservedAlias};
pub use append::{AppendError, EventRequest, ExtraRows};
pub use client_event::{EventView, write_client_event, write_json_string, write_stripped_event};
pub use content_checks::ContentError;
pub use create::{CreateRoomError, DirectoryVisibility, InitialState, NewRoom, Preset};
pub use directory::{DIRECTORY_PAGE_MAX, DirectoryFilter, DirectoryPage, DirectoryToken};
pub use event_filter::{EventFilter, RoomEventFilter, takes_room};
pub use event_store::{EventStore, RoomFacts, StoredEvent, event_key};
pub use handshake::Taken;
pub use history::{Direction, PAGE_EVENTS_MAX, Page, PageRequest, Surroundings};
pub use import::{JoinedRoom, OutlierMember, StrippedStateError, check_stripped_state};
pub use membership::{MemberChange, MembershipError};
pub use noted_weight::{NotedWeight, NotedWeighter, Weighed, reweigh};
pub use overview::{DEPTH_MAX, Overview, TreeRequest};
pub use readable_state::{Access, Kinds, ReadableState};
pub use reader::Reader;
pub use receive::{ReceiveError, Verdict};
pub use registry::{RoomSettings, Rooms};
pub use related::{ChildrenRequest, RECURSION_DEPTH_MAX, ThreadsPage, ThreadsRequest};
pub use room::{Head, RECENT_EVENTS_MAX, Room};
pub use room_name::RoomName;
pub use search::{SearchHit, SearchOrder, SearchPage, SearchPlace, SearchRequest, rooms_of_hits};
pub use search_index::{SearchIndex, SearchKey};
pub use search_terms::SearchQuery;
pub use served::{AUTH_CHAIN_EVENTS_MAX, BACKFILL_EVENTS_MAX};
pub use source::{
    EventSource, FETCH_EVENTS_MAX, FetchedState, MISSING_EVENTS_MAX, OTHERS_MAX, Question, StateIds,
};
pub use state::State;
pub use state_keys::{MEMBER, StateKey, StateKeys};
pub use summary::relation_of;
pub use timeline::{TimelinePart, ordering_of_position};
pub use token::PageToken;
pub use transactions::SentBy;
pub use user_rooms::{UserRoom, UserRooms};
pub use visibility::Viewer;

#[cfg(test)]
mod tests;
