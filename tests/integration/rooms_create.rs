//! New rooms: versions, presets, what overrides what, aliases, and what is refused.

use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
    rooms::{content_of, create_room, state_of},
};

const V3: &str = "/_matrix/client/v3";

/// The types of the room's first events, in order.
async fn first_events(client: &Client, room: &str) -> Vec<String> {
    let path = format!("{V3}/rooms/{room}/messages?dir=f&limit=50");
    let page = client.get(&path).await.ok();
    let kinds = page["chunk"].as_array().unwrap().iter();
    kinds.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

both_databases! {
    async fn every_version_and_preset_begins_as_specified(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        for version in 1..=12 {
            for (preset, join_rule, guests) in [
                ("private_chat", "invite", "can_join"),
                ("trusted_private_chat", "invite", "can_join"),
                ("public_chat", "public", "forbidden"),
            ] {
                let room = create_room(&alice, json!({
                    "room_version": version.to_string(), "preset": preset,
                    "name": "N", "topic": "T", "invite": [bob.user_id], "is_direct": true,
                })).await;
                let kinds = first_events(&alice, &room).await;
                let mut expected = vec![
                    "m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules",
                    "m.room.history_visibility", "m.room.guest_access", "m.room.name",
                    "m.room.topic", "m.room.member",
                ];
                // What no event says is forbidden.
                expected.retain(|kind| *kind != "m.room.guest_access" || guests == "can_join");
                assert_eq!(kinds, expected, "version {version}, {preset}");
                let content = async |kind: &str| content_of(&alice, &room, kind, "").await;
                assert_eq!(content("m.room.join_rules").await["join_rule"], join_rule);
                if guests == "can_join" {
                    assert_eq!(content("m.room.guest_access").await["guest_access"], guests);
                }
                let visibility = content("m.room.history_visibility").await;
                assert_eq!(visibility["history_visibility"], "shared");
                let member = content_of(&alice, &room, "m.room.member", &bob.user_id).await;
                assert_eq!((&member["membership"], &member["is_direct"]),
                    (&json!("invite"), &json!(true)));
                let create = content("m.room.create").await;
                assert_eq!(create["room_version"], version.to_string());
                assert_eq!(create.get("creator").is_some(), version < 11);
                let levels = content("m.room.power_levels").await;
                let trusted = preset == "trusted_private_chat";
                if version < 12 {
                    assert_eq!(levels["users"][&alice.user_id], 100);
                    assert_eq!(levels["users"].get(&bob.user_id).is_some(), trusted);
                } else {
                    assert_eq!(levels["users"], json!({}));
                    assert_eq!(levels["events"]["m.room.tombstone"], 150);
                    let expect = if trusted { json!([bob.user_id]) } else { Value::Null };
                    assert_eq!(create["additional_creators"], expect);
                }
                assert_eq!(content("m.room.topic").await["m.topic"]["m.text"][0]["body"], "T");
            }
        }
    }

    async fn parameters_override_what_the_preset_says(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let room = create_room(&alice, json!({
            "visibility": "public", "room_alias_name": "pub", "name": "Given",
            "creation_content": { "type": "m.space", "creator": "@mallory:hearth.test" },
            "initial_state": [
                { "type": "m.room.join_rules", "content": { "join_rule": "knock" } },
                { "type": "m.room.name", "content": { "name": "Overwritten" } },
                { "type": "org.example.x", "state_key": "k", "content": { "n": 1 } },
            ],
            "power_level_content_override": { "events_default": 100 },
        })).await;
        let content = async |kind: &str| content_of(&alice, &room, kind, "").await;
        assert_eq!(content("m.room.join_rules").await["join_rule"], "knock");
        assert_eq!(content("m.room.name").await["name"], "Given");
        assert_eq!(content("m.room.canonical_alias").await["alias"], "#pub:hearth.test");
        let create = content("m.room.create").await;
        assert_eq!((&create["type"], create.get("creator")), (&json!("m.space"), None));
        let levels = content("m.room.power_levels").await;
        assert_eq!((&levels["events_default"], &levels["state_default"]), (&json!(100), &json!(50)));
        assert_eq!(content_of(&alice, &room, "org.example.x", "k").await["n"], 1);
        let listed = alice.get(&format!("{V3}/publicRooms")).await.ok();
        assert_eq!(listed["chunk"][0]["room_id"], room.as_str());
        let names = first_events(&alice, &room).await;
        assert_eq!(names.iter().filter(|kind| *kind == "m.room.name").count(), 1);
    }

    async fn rooms_that_cannot_be_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        create_room(&alice, json!({ "room_alias_name": "taken" })).await;
        for (body, status, errcode) in [
            (json!({ "room_version": "99" }), 400, "M_UNSUPPORTED_ROOM_VERSION"),
            (json!({ "room_alias_name": "taken" }), 400, "M_ROOM_IN_USE"),
            (json!({ "room_alias_name": "a:b" }), 400, "M_INVALID_PARAM"),
            (json!({ "room_version": 11 }), 400, "M_BAD_JSON"),
            (json!({ "preset": "loud" }), 400, "M_BAD_JSON"),
            (json!({ "visibility": "open" }), 400, "M_BAD_JSON"),
            (json!({ "invite": ["bob"] }), 400, "M_INVALID_PARAM"),
            (json!({ "invite_3pid": [{ "medium": "email" }] }), 400, "M_BAD_JSON"),
            (json!({ "invite_3pid":
                [{ "medium": "email", "address": "a@b.c", "id_server": "evil.test" }] }),
                403, "M_SERVER_NOT_TRUSTED"),
            (json!({ "initial_state": [{ "type": "x" }] }), 400, "M_BAD_JSON"),
            // No alias leads to a room that is not there yet.
            (json!({ "initial_state": [{ "type": "m.room.canonical_alias",
                "content": { "alias": "#other:hearth.test" } }] }), 400, "M_BAD_ALIAS"),
            (json!({ "room_alias_name": "mine", "initial_state": [{
                "type": "m.room.canonical_alias",
                "content": { "alias": "#mine:hearth.test", "alt_aliases": ["#x:hearth.test"] } }] }),
                400, "M_BAD_ALIAS"),
            (json!({ "initial_state": [{ "type": "m.room.canonical_alias",
                "content": { "alias": 5 } }] }), 400, "M_INVALID_PARAM"),
            (json!({ "room_version": "11", "name": "x",
                "power_level_content_override": { "users": { "@alice:hearth.test": 0 } } }),
                400, "M_INVALID_ROOM_STATE"),
            (json!({ "power_level_content_override": { "users": { "@alice:hearth.test": 100 } } }),
                400, "M_INVALID_ROOM_STATE"),
            (json!({ "creation_content": { "additional_creators": "bob" } }),
                400, "M_INVALID_ROOM_STATE"),
            (json!({ "initial_state": [{ "type": "m.x", "content": { "f": 1.5 } }] }),
                400, "M_BAD_JSON"),
            (json!({ "initial_state": [{ "type": "m.room.member", "state_key": "@bob:hearth.test",
                "content": { "membership": "invite" } }] }),
                400, "M_BAD_JSON"),
            (json!({ "initial_state": vec![json!({ "type": "m.x", "content": {} }); 5001] }),
                400, "M_INVALID_PARAM"),
            (json!({ "topic": "x".repeat(70_000) }), 413, "M_TOO_LARGE"),
        ] {
            let answer = alice.post(&format!("{V3}/createRoom"), &body).await;
            assert_eq!((answer.status.as_u16(), answer.body["errcode"].as_str()),
                (status, Some(errcode)), "{body}");
        }
        let rooms = alice.get(&format!("{V3}/joined_rooms")).await.ok();
        assert_eq!(rooms["joined_rooms"].as_array().unwrap().len(), 1);
    }

    async fn of_two_rooms_with_one_alias_one_is_made(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let body = json!({ "room_alias_name": "only" });
        let path = format!("{V3}/createRoom");
        let (one, two) = tokio::join!(alice.post(&path, &body), alice.post(&path, &body));
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400]);
        let found = alice.get(&format!("{V3}/directory/room/%23only:hearth.test")).await.ok();
        let made = if one.status == 200 { one } else { two };
        assert_eq!(found["room_id"], made.body["room_id"]);
        assert!(state_of(&alice, found["room_id"].as_str().unwrap()).await.len() >= 6);
    }
}
