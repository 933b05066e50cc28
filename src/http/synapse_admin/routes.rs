//! The routes of administration tools, grouped by the file that answers them.

use axum::routing::{delete, get, post, put};

use super::{
    destinations, history, media, notices, quarantine, rate_limits, redactions,
    registration_tokens, reports, rooms, scheduled_tasks, statistics, user_facts, user_reports,
    users,
};
use crate::http::{client::admin, routes::Routes};

/// What the administration tools of Synapse ask for.
pub(in crate::http) fn add_routes(routes: Routes) -> Routes {
    add_users(add_rooms(add_media(add_others(routes))))
}

fn v1(path: &str) -> String {
    format!("/_synapse/admin/v1{path}")
}

fn v2(path: &str) -> String {
    format!("/_synapse/admin/v2{path}")
}

fn add_others(routes: Routes) -> Routes {
    let tokens = get(registration_tokens::get)
        .put(registration_tokens::update)
        .delete(registration_tokens::delete);
    routes
        // synapse_admin/mod.rs
        .plain(&v1("/server_version"), get(super::get_version))
        // synapse_admin/destinations.rs
        .plain(&v1("/federation/destinations"), get(destinations::list))
        .plain(&v1("/federation/destinations/{server_name}"), get(destinations::get))
        .plain(&v1("/federation/destinations/{server_name}/rooms"), get(destinations::list_rooms))
        .plain(
            &v1("/federation/destinations/{server_name}/reset_connection"),
            post(destinations::reset_connection),
        )
        // synapse_admin/notices.rs
        .plain(&v1("/send_server_notice"), post(notices::send))
        .plain(&v1("/send_server_notice/{transaction}"), put(notices::send_once))
        // synapse_admin/redactions.rs
        .plain(&v1("/user/{user_id}/redact"), post(redactions::redact).put(redactions::redact))
        .plain(&v1("/user/redact_status/{redaction}"), get(redactions::get_status))
        // synapse_admin/registration_tokens.rs
        .plain(&v1("/registration_tokens"), get(registration_tokens::list))
        .plain(&v1("/registration_tokens/new"), post(registration_tokens::create))
        .plain(&v1("/registration_tokens/{token}"), tokens)
        // synapse_admin/reports.rs
        .plain(&v1("/event_reports"), get(reports::list))
        .plain(&v1("/event_reports/{report}"), get(reports::get).delete(reports::delete))
        // synapse_admin/scheduled_tasks.rs
        .plain(&v1("/scheduled_tasks"), get(scheduled_tasks::list))
        // synapse_admin/statistics.rs
        .plain(&v1("/statistics/users/media"), get(statistics::list_users_media))
        .plain(&v1("/statistics/database/rooms"), get(statistics::list_database_rooms))
        // synapse_admin/user_reports.rs
        .plain(&v1("/user_reports"), get(user_reports::list))
        .plain(&v1("/user_reports/{report}"), get(user_reports::get).delete(user_reports::delete))
}

fn add_media(routes: Routes) -> Routes {
    routes
        // synapse_admin/media.rs
        .plain(
            &v1("/users/{user_id}/media"),
            get(media::list_of_user).delete(media::delete_of_user),
        )
        .plain(
            &v1("/media/{server_name}/{media_id}"),
            get(quarantine::get_media).delete(media::delete),
        )
        .plain(&v1("/purge_media_cache"), post(media::purge_cache))
        // synapse_admin/quarantine.rs
        .plain(&v1("/media/quarantine/{server_name}/{media_id}"), post(quarantine::quarantine))
        .plain(&v1("/media/unquarantine/{server_name}/{media_id}"), post(quarantine::release))
        .plain(&v1("/media/protect/{media_id}"), post(quarantine::protect))
        .plain(&v1("/media/unprotect/{media_id}"), post(quarantine::unprotect))
        .plain(&v1("/room/{room_id}/media"), get(quarantine::list_of_room))
        .plain(&v1("/room/{room_id}/media/quarantine"), post(quarantine::quarantine_of_room))
        .plain(&v1("/user/{user_id}/media/quarantine"), post(quarantine::quarantine_of_user))
}

fn add_rooms(routes: Routes) -> Routes {
    routes
        // synapse_admin/history.rs
        .plain(&v1("/rooms/{room_id}/messages"), get(history::get_messages))
        .plain(&v1("/rooms/{room_id}/context/{event_id}"), get(history::get_context))
        .plain(&v1("/rooms/{room_id}/timestamp_to_event"), get(history::get_event_by_time))
        .plain(&v1("/rooms/{room_id}/forward_extremities"), get(history::list_extremities))
        .plain(&v1("/rooms/{room_id}/hierarchy"), get(history::get_hierarchy))
        .plain(&v1("/fetch_event/{event_id}"), get(history::fetch_event))
        // synapse_admin/rooms.rs
        .plain(&v1("/rooms"), get(rooms::list))
        .plain(&v1("/rooms/{room_id}"), get(rooms::get).delete(rooms::delete))
        .plain(&v1("/rooms/{room_id}/members"), get(rooms::list_members))
        .plain(&v1("/rooms/{room_id}/state"), get(rooms::get_state))
        .plain(&v1("/rooms/{room_id}/block"), get(rooms::get_block).put(rooms::set_block))
        .plain(&v1("/rooms/{room_id}/make_room_admin"), post(rooms::make_room_admin))
        .plain(&v1("/join/{room}"), post(rooms::join))
        .plain(&v2("/rooms/{room_id}"), delete(rooms::delete_later))
        .plain(&v2("/rooms/{room_id}/delete_status"), get(rooms::list_deletions))
        .plain(&v2("/rooms/delete_status/{deletion}"), get(rooms::get_deletion))
}

fn add_users(routes: Routes) -> Routes {
    let limit = get(rate_limits::get).post(rate_limits::set).delete(rate_limits::remove);
    let of_user = |path: &str| v1(&format!("/users/{{user_id}}{path}"));
    routes
        // synapse_admin/rate_limits.rs
        .plain(&of_user("/override_ratelimit"), limit)
        // synapse_admin/user_facts.rs
        .plain(&v1("/threepid/{medium}/users/{address}"), get(user_facts::find_by_third_party_id))
        .plain(
            &v1("/auth_providers/{provider}/users/{external_id}"),
            get(user_facts::find_by_auth_provider),
        )
        .plain(&of_user("/cumulative_joined_room_count"), get(user_facts::count_joined_rooms))
        .plain(&of_user("/sent_invite_count"), get(user_facts::count_sent_invites))
        .plain(
            &of_user("/_allow_cross_signing_replacement_without_uia"),
            post(user_facts::allow_new_cross_signing),
        )
        .plain(
            &v1("/experimental_features/{user_id}"),
            get(user_facts::list_features).put(user_facts::set_features),
        )
        // synapse_admin/users.rs
        .plain(&v2("/users"), get(users::list))
        .plain("/_synapse/admin/v3/users", get(users::list_v3))
        .plain(&v2("/users/{user_id}"), get(users::get).put(users::put))
        .plain(&v2("/users/{user_id}/devices"), get(users::list_devices))
        .plain(&v2("/users/{user_id}/devices/{device}"), delete(users::delete_device))
        .plain(&v2("/users/{user_id}/delete_devices"), post(users::delete_devices))
        .plain(&v1("/users/{user_id}/admin"), get(users::get_admin).put(users::set_admin))
        .plain(
            &v1("/users/{user_id}/shadow_ban"),
            post(users::shadow_ban).delete(users::lift_shadow_ban),
        )
        .plain(&v1("/users/{user_id}/joined_rooms"), get(users::list_joined_rooms))
        .plain(&v1("/users/{user_id}/memberships"), get(users::list_memberships))
        .plain(&v1("/users/{user_id}/accountdata"), get(users::list_account_data))
        .plain(&v1("/users/{user_id}/pushers"), get(users::list_pushers))
        .plain(&v1("/users/{user_id}/login"), post(users::log_in_as))
        .plain(&v1("/deactivate/{user_id}"), post(users::deactivate))
        .plain(&v1("/reset_password/{user_id}"), post(users::reset_password))
        .plain(&v1("/suspend/{user_id}"), put(users::suspend))
        .plain(&v1("/username_available"), get(users::check_name))
        .plain(&v1("/whois/{user_id}"), get(admin::whois))
}
