//! The routes of the Client-Server API on one page, grouped by the file that answers them; those of other
//! servers stand in `federation::routes`, those of administration in `synapse_admin::routes`. Layers that concern every
//! request (CORS, figures, logs) are put around it by `server`.

use axum::{
    Router,
    middleware::map_response,
    routing::{delete, get, post, put},
};

use super::{
    client::{
        account, account_data, admin, appservice, auth_fallback, capabilities, confirm_address,
        create_room, cross_signing, dehydrated_device, delayed_events, device_keys, devices,
        event_relationships, filter, invites, livekit, login, logout, media, messages,
        notifications, old_sync, openid, presence, profile, push_rules, pushers, receipts,
        register, relations, reports, room_aliases, room_keys, room_overview, room_state,
        room_upgrade, rooms_membership, search, send, sliding_sync, sso, sync, third_party,
        third_party_ids, thread_subscriptions, to_device, typing, unsubscribe, user_directory,
        versions, voip,
    },
    federation, health,
    routes::Routes,
    state::AppState,
    synapse_admin, well_known,
};
use crate::{accounts::validation::CONFIRM_PATH, push::delivery::UNSUBSCRIBE_PATH};

/// Everything this server answers.
pub fn build_router(app: AppState) -> Router {
    let routes = route_accounts(Routes::default());
    let routes = route_user_data(routes);
    let routes = route_ephemeral(routes);
    let routes = route_encryption(routes);
    let routes = route_media(routes);
    let routes = route_membership(routes);
    let routes = route_events(routes);
    let routes = route_directory(routes);
    let routes = federation::add_routes(routes);
    let routes = synapse_admin::add_routes(routes);
    let routes = route_proposals(routes);
    let routes = routes
        // search.rs
        .client("/search", post(search::search))
        // sync.rs
        .client("/sync", get(sync::get_sync))
        // old_sync.rs
        .client("/initialSync", get(old_sync::get_snapshot))
        .client("/rooms/{room_id}/initialSync", get(old_sync::get_room_snapshot))
        .client("/events", get(old_sync::get_events))
        .client("/events/{event_id}", get(old_sync::get_event))
        // voip.rs
        .client("/voip/turnServer", get(voip::get_turn_server))
        // appservice.rs
        .client("/directory/list/appservice/{network}/{room_id}", put(appservice::list_in_network))
        .v1("/appservice/{appservice}/ping", post(appservice::ping))
        // sliding_sync.rs
        .plain(
            "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
            post(sliding_sync::post_sync),
        )
        // versions.rs
        .plain("/_matrix/client/versions", get(versions::get_versions))
        // well_known.rs
        .plain("/.well-known/matrix/client", get(well_known::get_client))
        .plain(
            "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports",
            get(well_known::get_rtc_transports),
        )
        .plain("/.well-known/matrix/server", get(well_known::get_server))
        .plain("/.well-known/matrix/support", get(well_known::get_support))
        .plain("/.well-known/matrix/policy_server", get(well_known::get_policy_server))
        // unsubscribe.rs
        .plain(UNSUBSCRIBE_PATH, get(unsubscribe::ask).post(unsubscribe::unsubscribe))
        // livekit.rs
        .plain("/livekit/jwt/sfu/get", post(livekit::get_by_device))
        .plain("/livekit/jwt/get_token", post(livekit::get_token))
        .plain("/livekit/jwt/healthz", get(livekit::get_health))
        // health.rs
        .plain("/health", get(health::get_health));
    routes.finish(app)
}

/// What clients use of proposals that are no part of the specification yet.
fn route_proposals(routes: Routes) -> Routes {
    routes
        // delayed_events.rs
        .plain(&msc4140("/delayed_events"), get(delayed_events::list))
        .plain(
            &msc4140("/delayed_events/{delayId}"),
            get(delayed_events::get).post(delayed_events::act_by_body),
        )
        .plain(&msc4140("/delayed_events/{delayId}/{action}"), post(delayed_events::act))
        .plain(
            &msc4140("/rooms/{roomId}/delayed_event/{eventType}/{txnId}"),
            put(delayed_events::schedule),
        )
        // event_relationships.rs
        .plain(
            "/_matrix/client/unstable/event_relationships",
            post(event_relationships::post_relationships),
        )
        // thread_subscriptions.rs
        .plain(
            "/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription",
            get(thread_subscriptions::get)
                .put(thread_subscriptions::follow)
                .delete(thread_subscriptions::unfollow),
        )
        .plain(
            "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions",
            get(thread_subscriptions::list_changes),
        )
}

/// A path of delayed events while they are no part of the specification.
fn msc4140(path: &str) -> String {
    format!("/_matrix/client/unstable/org.matrix.msc4140{path}")
}

/// Who somebody is.
fn route_accounts(routes: Routes) -> Routes {
    routes
        // register.rs
        .client("/register", post(register::register))
        .client("/register/available", get(register::check_available))
        .plain(
            "/_matrix/client/v1/register/m.login.registration_token/validity",
            get(register::check_token),
        )
        // auth_fallback.rs
        .client("/auth/{kind}/fallback/web", get(auth_fallback::show).post(auth_fallback::submit))
        // login.rs
        .client("/login", get(login::list_flows).post(login::log_in))
        .client("/refresh", post(login::refresh))
        .plain("/_matrix/client/v1/login/get_token", post(login::create_login_token))
        // sso.rs
        .client("/login/sso/redirect", get(sso::redirect))
        .client("/login/sso/redirect/{provider}", get(sso::redirect_to_provider))
        // logout.rs
        .client("/logout", post(logout::log_out))
        .client("/logout/all", post(logout::log_out_everywhere))
        // account.rs
        .client("/account/whoami", get(account::whoami))
        .client("/account/password", post(account::change_password))
        .client("/account/deactivate", post(account::deactivate))
        // third_party_ids.rs
        .client("/account/3pid", get(third_party_ids::list).post(third_party_ids::add_or_bind))
        .client("/account/3pid/add", post(third_party_ids::add))
        .client("/account/3pid/bind", post(third_party_ids::bind))
        .client("/account/3pid/delete", post(third_party_ids::delete))
        .client("/account/3pid/unbind", post(third_party_ids::unbind))
        .client("/account/3pid/email/requestToken", post(third_party_ids::request_to_add))
        .client("/account/3pid/msisdn/requestToken", post(third_party_ids::refuse_phone_number))
        .client(
            "/account/password/email/requestToken",
            post(third_party_ids::request_to_reset_password),
        )
        .client("/account/password/msisdn/requestToken", post(third_party_ids::refuse_phone_number))
        .client("/register/email/requestToken", post(third_party_ids::request_to_register))
        .client("/register/msisdn/requestToken", post(third_party_ids::refuse_phone_number))
        // confirm_address.rs
        .plain(CONFIRM_PATH, get(confirm_address::ask).post(confirm_address::confirm))
        // devices.rs
        .client("/devices", get(devices::list_devices))
        .client(
            "/devices/{deviceId}",
            get(devices::get_device).put(devices::rename_device).delete(devices::delete_device),
        )
        .client("/delete_devices", post(devices::delete_devices))
        // capabilities.rs
        .client("/capabilities", get(capabilities::get_capabilities))
        // openid.rs
        .client("/user/{userId}/openid/request_token", post(openid::request_token))
        .plain("/_matrix/federation/v1/openid/userinfo", get(openid::get_user_info))
        // admin.rs
        .client("/admin/whois/{userId}", get(admin::whois))
        .plain(
            "/_matrix/client/v1/admin/suspend/{userId}",
            get(admin::get_suspended).put(admin::set_suspended),
        )
        .plain(
            "/_matrix/client/v1/admin/lock/{userId}",
            get(admin::get_locked).put(admin::set_locked),
        )
        .plain("/_synapse/admin/v1/register", get(admin::get_nonce).post(admin::register))
}

/// Keys of devices and rooms, messages to devices.
fn route_encryption(routes: Routes) -> Routes {
    let dehydrated = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";
    let all_keys = get(room_keys::get_all).put(room_keys::put_all).delete(room_keys::delete_all);
    let keys_of_room =
        get(room_keys::get_room).put(room_keys::put_room).delete(room_keys::delete_room);
    let session_key =
        get(room_keys::get_session).put(room_keys::put_session).delete(room_keys::delete_session);
    routes
        // device_keys.rs
        .client("/keys/upload", post(device_keys::upload_keys))
        .client("/keys/query", post(device_keys::query_keys))
        .client("/keys/claim", post(device_keys::claim_keys))
        .client("/keys/changes", get(device_keys::list_changes))
        // cross_signing.rs
        .client("/keys/device_signing/upload", post(cross_signing::upload_keys))
        .client("/keys/signatures/upload", post(cross_signing::upload_signatures))
        // to_device.rs
        .client("/sendToDevice/{eventType}/{txnId}", put(to_device::send))
        // room_keys.rs
        .client(
            "/room_keys/version",
            get(room_keys::get_current_version).post(room_keys::create_version),
        )
        .client(
            "/room_keys/version/{version}",
            get(room_keys::get_version)
                .put(room_keys::update_version)
                .delete(room_keys::delete_version),
        )
        .client("/room_keys/keys", all_keys)
        .client("/room_keys/keys/{roomId}", keys_of_room)
        .client("/room_keys/keys/{roomId}/{sessionId}", session_key)
        // dehydrated_device.rs
        .plain(
            dehydrated,
            get(dehydrated_device::get)
                .put(dehydrated_device::put)
                .delete(dehydrated_device::delete),
        )
        .plain(&format!("{dehydrated}/{{device_id}}/events"), post(dehydrated_device::list_events))
}

/// What passes: receipts, typing, presence.
fn route_ephemeral(routes: Routes) -> Routes {
    routes
        // receipts.rs
        .client("/rooms/{roomId}/receipt/{receiptType}/{eventId}", post(receipts::post_receipt))
        .client("/rooms/{roomId}/read_markers", post(receipts::post_read_markers))
        // typing.rs
        .client("/rooms/{roomId}/typing/{userId}", put(typing::put_typing))
        // notifications.rs
        .client("/notifications", get(notifications::list_notifications))
        // presence.rs
        .client("/presence/{userId}/status", get(presence::get_status).put(presence::put_status))
}

/// What users store for themselves and show to others.
fn route_user_data(routes: Routes) -> Routes {
    let rule = "/pushrules/global/{kind}/{ruleId}";
    routes
        // profile.rs
        .client("/profile/{userId}", get(profile::get_profile))
        .client(
            "/profile/{userId}/{keyName}",
            get(profile::get_field).put(profile::set_field).delete(profile::delete_field),
        )
        // account_data.rs
        .client(
            "/user/{userId}/account_data/{type}",
            get(account_data::get_global).put(account_data::set_global),
        )
        .plain(
            "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}/account_data/{type}",
            delete(account_data::delete_global),
        )
        .plain(
            "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}/rooms/{roomId}/account_data/{type}",
            delete(account_data::delete_of_room),
        )
        .client(
            "/user/{userId}/rooms/{roomId}/account_data/{type}",
            get(account_data::get_of_room).put(account_data::set_of_room),
        )
        .client("/user/{userId}/rooms/{roomId}/tags", get(account_data::list_tags))
        .client(
            "/user/{userId}/rooms/{roomId}/tags/{tag}",
            put(account_data::set_tag).delete(account_data::delete_tag),
        )
        // filter.rs
        .client("/user/{userId}/filter", post(filter::create_filter))
        .client("/user/{userId}/filter/{filterId}", get(filter::get_filter))
        // push_rules.rs
        .client("/pushrules", get(push_rules::get_all))
        .client("/pushrules/", get(push_rules::get_all))
        .client("/pushrules/global", get(push_rules::get_global))
        .client("/pushrules/global/", get(push_rules::get_global))
        .client(
            rule,
            get(push_rules::get_rule).put(push_rules::set_rule).delete(push_rules::delete_rule),
        )
        .client(
            &format!("{rule}/enabled"),
            get(push_rules::get_enabled).put(push_rules::set_enabled),
        )
        .client(
            &format!("{rule}/actions"),
            get(push_rules::get_actions).put(push_rules::set_actions),
        )
        // pushers.rs
        .client("/pushers", get(pushers::list_pushers))
        .client("/pushers/set", post(pushers::set_pusher))
        // user_directory.rs
        .client("/user_directory/search", post(user_directory::search))
        // third_party.rs
        .client("/thirdparty/protocols", get(third_party::list_protocols))
        .client("/thirdparty/protocol/{protocol}", get(third_party::get_protocol))
        .client("/thirdparty/location/{protocol}", get(third_party::find_locations))
        .client("/thirdparty/location", get(third_party::find_locations_of_alias))
        .client("/thirdparty/user", get(third_party::find_users_of_id))
        .client("/thirdparty/user/{protocol}", get(third_party::find_users))
}

fn route_media(routes: Routes) -> Routes {
    routes
        // media/mod.rs
        .plain("/_matrix/client/v1/media/config", get(media::get_config))
        .media("/config", get(media::get_config))
        // media/preview.rs
        .v1("/media/preview_url", get(media::preview::get_preview))
        .media("/preview_url", get(media::preview::get_preview))
        // media/upload.rs
        .media(
            "/upload",
            post(media::upload::upload).layer(map_response(media::upload::close_if_refused)),
        )
        .plain("/_matrix/media/v1/create", post(media::upload::create))
        .plain(
            "/_matrix/media/v3/upload/{server_name}/{media_id}",
            put(media::upload::upload_reserved)
                .layer(map_response(media::upload::close_if_refused)),
        )
        // media/download.rs
        .plain(
            "/_matrix/client/v1/media/download/{server_name}/{media_id}",
            get(media::download::get_content),
        )
        .plain(
            "/_matrix/client/v1/media/download/{server_name}/{media_id}/{filename}",
            get(media::download::get_content),
        )
        .media("/download/{server_name}/{media_id}", get(media::download::get_open_content))
        .media(
            "/download/{server_name}/{media_id}/{filename}",
            get(media::download::get_open_content),
        )
        // media/thumbnail.rs
        .plain(
            "/_matrix/client/v1/media/thumbnail/{server_name}/{media_id}",
            get(media::thumbnail::get_thumbnail),
        )
        .media("/thumbnail/{server_name}/{media_id}", get(media::thumbnail::get_open_thumbnail))
}

/// Making rooms, entering and leaving them.
fn route_membership(routes: Routes) -> Routes {
    routes
        // create_room.rs
        .client("/createRoom", post(create_room::create_room))
        // rooms_membership.rs
        .client("/join/{room}", post(rooms_membership::join_by_name))
        .client("/knock/{room}", post(rooms_membership::knock))
        .client("/joined_rooms", get(rooms_membership::get_joined_rooms))
        .client("/rooms/{room_id}/join", post(rooms_membership::join_by_id))
        // invites.rs
        .client("/rooms/{room_id}/invite", post(invites::invite))
        // rooms_membership.rs
        .client("/rooms/{room_id}/leave", post(rooms_membership::leave))
        .client("/rooms/{room_id}/forget", post(rooms_membership::forget))
        .client("/rooms/{room_id}/kick", post(rooms_membership::kick))
        .client("/rooms/{room_id}/ban", post(rooms_membership::ban))
        .client("/rooms/{room_id}/unban", post(rooms_membership::unban))
}

/// Sending and reading events.
fn route_events(routes: Routes) -> Routes {
    let state = get(room_state::get_state_event).put(send::put_state);
    let state_without_key =
        get(room_state::get_state_event_without_key).put(send::put_state_without_key);
    routes
        // send.rs
        .client("/rooms/{room_id}/send/{kind}/{transaction_id}", put(send::send_message))
        .client("/rooms/{room_id}/redact/{event_id}/{transaction_id}", put(send::redact))
        // send.rs, room_state.rs
        .client("/rooms/{room_id}/state", get(room_state::get_state))
        .client("/rooms/{room_id}/state/{kind}", state_without_key.clone())
        .client("/rooms/{room_id}/state/{kind}/", state_without_key)
        .client("/rooms/{room_id}/state/{kind}/{state_key}", state)
        .client("/rooms/{room_id}/members", get(room_state::get_members))
        .client("/rooms/{room_id}/joined_members", get(room_state::get_joined_members))
        // messages.rs
        .client("/rooms/{room_id}/messages", get(messages::get_messages))
        .client("/rooms/{room_id}/context/{event_id}", get(messages::get_context))
        .client("/rooms/{room_id}/event/{event_id}", get(messages::get_event))
        .v1("/rooms/{room_id}/timestamp_to_event", get(messages::find_event_by_time))
        // relations.rs
        .v1("/rooms/{room_id}/relations/{event_id}", get(relations::get_relations))
        .v1(
            "/rooms/{room_id}/relations/{event_id}/{rel_type}",
            get(relations::get_relations_of_type),
        )
        .v1(
            "/rooms/{room_id}/relations/{event_id}/{rel_type}/{kind}",
            get(relations::get_relations_of_kind),
        )
        .v1("/rooms/{room_id}/threads", get(relations::get_threads))
}

/// Finding rooms.
fn route_directory(routes: Routes) -> Routes {
    let alias = get(room_aliases::get_alias)
        .put(room_aliases::put_alias)
        .delete(room_aliases::delete_alias);
    let visibility = get(room_aliases::get_visibility).put(room_aliases::put_visibility);
    let public_rooms = get(room_aliases::get_public_rooms).post(room_aliases::post_public_rooms);
    routes
        // room_aliases.rs
        .client("/directory/room/{alias}", alias)
        .client("/directory/list/room/{room_id}", visibility)
        .client("/rooms/{room_id}/aliases", get(room_aliases::get_room_aliases))
        .client("/publicRooms", public_rooms)
        // room_overview.rs
        .v1("/room_summary/{room}", get(room_overview::get_summary))
        .v1("/rooms/{room_id}/hierarchy", get(room_overview::get_hierarchy))
        .v1("/mutual_rooms", get(room_overview::get_mutual_rooms))
        // room_upgrade.rs
        .client("/rooms/{room_id}/upgrade", post(room_upgrade::upgrade))
        // reports.rs
        .client("/rooms/{room_id}/report", post(reports::report_room))
        .client("/rooms/{room_id}/report/{event_id}", post(reports::report_event))
        .client("/users/{user_id}/report", post(reports::report_user))
}
