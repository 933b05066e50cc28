//! The routes of the Server-Server API, grouped by the file that answers them.

use axum::routing::{get, post, put};

use super::{
    devices, event_relationships, events, hierarchy, invite, keys, media, membership, public_rooms,
    query, third_party_invites, transactions, version,
};
use crate::http::routes::Routes;

/// Adds what other servers ask for.
pub(in crate::http) fn add_routes(routes: Routes) -> Routes {
    let public_rooms = get(public_rooms::get_public_rooms).post(public_rooms::post_public_rooms);
    routes
        // version.rs
        .federation("v1", "/version", get(version::get_version))
        // keys.rs
        .plain("/_matrix/key/v2/server", get(keys::get_own))
        // As Sydent asks.
        .plain("/_matrix/key/v2/server/", get(keys::get_own))
        .plain("/_matrix/key/v2/server/{key_id}", get(keys::get_own))
        .plain("/_matrix/key/v2/query", post(keys::query_many))
        .plain("/_matrix/key/v2/query/{server_name}", get(keys::query_one))
        // transactions.rs
        .federation("v1", "/send/{transaction_id}", put(transactions::put_transaction))
        // membership.rs
        .federation("v1", "/make_join/{room_id}/{user_id}", get(membership::make_join))
        .federation("v1", "/send_join/{room_id}/{event_id}", put(membership::send_join_v1))
        .federation("v2", "/send_join/{room_id}/{event_id}", put(membership::send_join))
        .federation("v1", "/make_leave/{room_id}/{user_id}", get(membership::make_leave))
        .federation("v1", "/send_leave/{room_id}/{event_id}", put(membership::send_leave_v1))
        .federation("v2", "/send_leave/{room_id}/{event_id}", put(membership::send_leave))
        .federation("v1", "/make_knock/{room_id}/{user_id}", get(membership::make_knock))
        .federation("v1", "/send_knock/{room_id}/{event_id}", put(membership::send_knock))
        // invite.rs
        .federation("v1", "/invite/{room_id}/{event_id}", put(invite::put_invite_v1))
        .federation("v2", "/invite/{room_id}/{event_id}", put(invite::put_invite))
        // event_relationships.rs
        .federation(
            "unstable",
            "/event_relationships",
            post(event_relationships::post_relationships),
        )
        // events.rs
        .federation("v1", "/event/{event_id}", get(events::get_event))
        .federation("v1", "/state/{room_id}", get(events::get_state))
        .federation("v1", "/state_ids/{room_id}", get(events::get_state_ids))
        .federation("v1", "/event_auth/{room_id}/{event_id}", get(events::get_event_auth))
        .federation("v1", "/backfill/{room_id}", get(events::get_backfill))
        .federation("v1", "/get_missing_events/{room_id}", post(events::post_missing_events))
        .federation("v1", "/timestamp_to_event/{room_id}", get(events::find_by_time))
        // media.rs
        .federation("v1", "/media/download/{media_id}", get(media::get_content))
        .federation("v1", "/media/thumbnail/{media_id}", get(media::get_thumbnail))
        // query.rs
        .federation("v1", "/query/directory", get(query::get_directory))
        .federation("v1", "/query/profile", get(query::get_profile))
        .federation("v1", "/query/{kind}", get(query::refuse_other))
        // public_rooms.rs
        .federation("v1", "/publicRooms", public_rooms)
        // devices.rs
        .federation("v1", "/user/devices/{user_id}", get(devices::get_devices))
        .federation("v1", "/user/keys/query", post(devices::query_keys))
        .federation("v1", "/user/keys/claim", post(devices::claim_keys))
        // third_party_invites.rs
        .federation(
            "v1",
            "/3pid/onbind",
            put(third_party_invites::on_bind).post(third_party_invites::on_bind),
        )
        .federation(
            "v1",
            "/exchange_third_party_invite/{room_id}",
            put(third_party_invites::exchange),
        )
        // hierarchy.rs
        .federation("v1", "/hierarchy/{room_id}", get(hierarchy::get_hierarchy))
}
