//! Operations that cross several nouns, so that `http` decides nothing: what follows in rooms from a
//! change of an account, and the queue of such work, which survives a restart.

pub mod carry_over;
pub mod delayed_events;
pub mod delete_room;
pub mod ignored_users;
pub mod invite_address;
pub mod jobs;
pub mod leave_rooms;
pub mod livekit;
pub mod mark_read;
pub mod member_content;
pub mod redact_user;
pub mod remove_guests;
pub mod room_place;
pub mod search_users;
pub mod server_notices;
pub mod silent_services;
pub mod space_tree;
pub mod update_memberships;
pub mod upgrade;
