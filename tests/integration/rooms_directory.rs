//! Finding rooms: aliases, the public directory, summaries, spaces; upgrades; reports.

use std::collections::BTreeSet;

use hearth::config::RateLimit;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
    rooms::{V1, V3, act, content_of, create_room, join, say, set_state},
};

both_databases! {
    async fn aliases_lead_to_rooms_until_they_are_removed(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        let path = |name: &str| format!("{V3}/directory/room/%23{name}:hearth.test");
        let body = json!({ "room_id": room });
        bob.put(&path("a"), &body).await.error(403, "M_FORBIDDEN");
        join(&bob, &room).await.ok();
        let same = path("a");
        let (one, two) = tokio::join!(alice.put(&same, &body), alice.put(&same, &body));
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409]);
        bob.put(&path("b"), &body).await.ok();
        assert_eq!(server.client().get(&path("a")).await.ok()["room_id"], room.as_str());
        let aliases = alice.get(&format!("{V3}/rooms/{room}/aliases")).await.ok();
        assert_eq!(aliases["aliases"], json!(["#a:hearth.test", "#b:hearth.test"]));
        let content = json!({ "alias": "#a:hearth.test", "alt_aliases": ["#b:hearth.test"] });
        set_state(&alice, &room, "m.room.canonical_alias", content).await.ok();
        bob.delete(&path("a")).await.error(403, "M_FORBIDDEN");
        alice.delete(&path("b")).await.ok();
        alice.get(&path("b")).await.error(404, "M_NOT_FOUND");
        alice.delete(&path("b")).await.error(404, "M_NOT_FOUND");
        let content = content_of(&alice, &room, "m.room.canonical_alias", "").await;
        assert_eq!(content, json!({ "alias": "#a:hearth.test", "alt_aliases": [] }));
        alice.get(&format!("{V3}/directory/room/nonsense")).await.error(400, "M_INVALID_PARAM");
        let foreign = format!("{V3}/directory/room/%23a:elsewhere.test");
        alice.put(&foreign, &body).await.error(400, "M_INVALID_PARAM");
        let carol = server.register("carol").await;
        let joined = carol.post(&format!("{V3}/join/%23a:hearth.test"), &json!({})).await.ok();
        assert_eq!(joined["room_id"], room.as_str());
    }

    async fn strangers_have_other_servers_asked_seldom_only(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.rate_limits.enabled = true;
            config.rate_limits.searches = RateLimit { enabled: true, per_second: 0.001, burst: 1 };
        }).await;
        let (alice, nobody) = (server.register("alice").await, server.client());
        // That a server cannot be reached is no answer that the specification knows here.
        let is_limited = async |client: &Client, path: &str| {
            let answer = client.request(Method::GET, path).send().await.unwrap();
            answer.status() == StatusCode::TOO_MANY_REQUESTS
        };
        let profile = format!("{V3}/profile/@bob:elsewhere.test");
        assert!(!is_limited(&nobody, &profile).await);
        assert!(is_limited(&nobody, &profile).await);
        let elsewhere = format!("{V3}/publicRooms?server=elsewhere.test");
        assert!(is_limited(&nobody, &elsewhere).await);
        nobody.get(&format!("{V3}/publicRooms?server=hearth.test")).await.ok();
        nobody.get(&format!("{V3}/profile/{}", alice.user_id)).await.ok();
        for _ in 0..2 {
            assert!(!is_limited(&alice, &profile).await);
        }
        assert!(!is_limited(&alice, &elsewhere).await);
        assert!(is_limited(&alice, &elsewhere).await);
    }

    async fn the_directory_is_searched_and_paged_by_size(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let mut rooms = Vec::new();
        for number in 0..7 {
            let room = create_room(&alice, json!({
                "visibility": "public", "name": format!("Straße {number}"),
                "creation_content": if number == 3 { json!({ "type": "m.space" }) }
                    else { json!({}) },
            }));
            rooms.push(room.await);
        }
        create_room(&alice, json!({ "preset": "public_chat" })).await;
        join(&bob, &rooms[5]).await.ok();
        let path = format!("{V3}/publicRooms");
        let (mut seen, mut since, mut pages) = (Vec::new(), Value::Null, Vec::new());
        loop {
            let page = bob.post(&path, &json!({ "limit": 3, "since": since })).await.ok();
            let chunk = page["chunk"].as_array().unwrap();
            seen.extend(chunk.iter().map(|room| room["room_id"].as_str().unwrap().to_owned()));
            pages.push(page.clone());
            since = page["next_batch"].clone();
            if since.is_null() {
                break;
            }
        }
        assert_eq!(seen[0], rooms[5]);
        let found: BTreeSet<_> = seen.iter().cloned().collect();
        assert_eq!(found, rooms.iter().cloned().collect());
        assert_eq!(seen.len(), 7);
        let back = json!({ "limit": 3, "since": pages[1]["prev_batch"] });
        assert_eq!(bob.post(&path, &back).await.ok()["chunk"], pages[0]["chunk"]);
        let search = json!({ "filter": { "generic_search_term": "STRASSE" } });
        assert_eq!(bob.post(&path, &search).await.ok()["chunk"], json!([]));
        let search = json!({ "filter": { "generic_search_term": "straße 2" } });
        let found = bob.post(&path, &search).await.ok();
        assert_eq!(found["chunk"][0]["room_id"], rooms[2].as_str());
        for (types, count) in [(json!(["m.space"]), 1), (json!([null]), 6), (json!([]), 0)] {
            let body = json!({ "filter": { "room_types": types } });
            let found = bob.post(&path, &body).await.ok();
            assert_eq!(found["chunk"].as_array().unwrap().len(), count);
        }
        bob.get(&format!("{path}?since=nonsense")).await.error(400, "M_INVALID_PARAM");
        let list = format!("{V3}/directory/list/room/{}", rooms[0]);
        bob.put(&list, &json!({ "visibility": "private" })).await.error(403, "M_FORBIDDEN");
        alice.put(&list, &json!({ "visibility": "private" })).await.ok();
        assert_eq!(bob.get(&list).await.ok()["visibility"], "private");
        assert_eq!(bob.get(&path).await.ok()["chunk"].as_array().unwrap().len(), 6);
    }

    async fn spaces_show_what_may_be_seen_of_them(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let space = json!({ "type": "m.space" });
        let top = create_room(&alice, json!({
            "preset": "public_chat", "creation_content": space, "name": "Top" })).await;
        let inner = create_room(&alice, json!({
            "preset": "public_chat", "creation_content": space })).await;
        let open = create_room(&alice, json!({ "preset": "public_chat" })).await;
        let secret = create_room(&alice, json!({})).await;
        for (parent, child, content) in [
            (&top, &open, json!({ "via": ["hearth.test"], "order": "b" })),
            (&top, &inner, json!({ "via": ["hearth.test"], "order": "a", "suggested": true })),
            (&top, &secret, json!({ "via": ["hearth.test"] })),
            (&inner, &top, json!({ "via": ["hearth.test"] })),
            (&top, &"!gone:hearth.test".to_owned(), json!({})),
        ] {
            set_state(&alice, parent, &format!("m.space.child/{child}"), content).await.ok();
        }
        let list = async |rest: &str| -> Value {
            bob.get(&format!("{V1}/rooms/{top}/hierarchy{rest}")).await.ok()
        };
        let ids = |answer: &Value| -> Vec<String> {
            let rooms = answer["rooms"].as_array().unwrap().iter();
            rooms.map(|room| room["room_id"].as_str().unwrap().to_owned()).collect()
        };
        let all = list("").await;
        assert_eq!(ids(&all), [top.clone(), inner.clone(), open.clone()]);
        assert_eq!(all["rooms"][0]["children_state"].as_array().unwrap().len(), 3);
        assert_eq!(ids(&list("?suggested_only=true").await), [top.clone(), inner.clone()]);
        assert_eq!(ids(&list("?max_depth=0").await), std::slice::from_ref(&top));
        let page = list("?limit=2").await;
        let next = page["next_batch"].as_str().unwrap();
        assert_eq!(ids(&list(&format!("?limit=2&from={next}")).await), std::slice::from_ref(&open));
        bob.get(&format!("{V1}/rooms/{top}/hierarchy?max_depth=1&from={next}")).await
            .error(400, "M_INVALID_PARAM");
        bob.get(&format!("{V1}/rooms/{secret}/hierarchy")).await.error(403, "M_FORBIDDEN");
        let summary = server.client().get(&format!("{V1}/room_summary/{top}")).await.ok();
        assert_eq!((&summary["name"], &summary["room_type"], &summary["room_version"]),
            (&json!("Top"), &json!("m.space"), &json!("12")));
        bob.get(&format!("{V1}/room_summary/{secret}")).await.error(404, "M_NOT_FOUND");
        join(&bob, &open).await.ok();
        let mutual = bob.get(&format!("{V1}/mutual_rooms?user_id={}", alice.user_id)).await.ok();
        assert_eq!(mutual, json!({ "joined": [open], "count": 1 }));
        let own = format!("{V1}/mutual_rooms?user_id={}", bob.user_id);
        bob.get(&own).await.error(400, "M_INVALID_PARAM");
    }

    async fn upgrades_carry_the_room_over(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let mallory = server.register("mallory").await;
        for (from, to) in [("10", "12"), ("12", "11"), ("12", "12"), ("1", "6")] {
            let alias = format!("up{from}to{to}");
            let old = create_room(&alice, json!({
                "visibility": "public", "room_version": from, "room_alias_name": alias,
                "name": "Name", "topic": "Topic", "creation_content": { "type": "m.space" },
            })).await;
            join(&bob, &old).await.ok();
            act(&alice, &old, "ban", json!({ "user_id": mallory.user_id })).await.ok();
            let path = format!("{V3}/rooms/{old}/upgrade");
            let body = json!({ "new_version": to, "additional_creators": [bob.user_id] });
            bob.post(&path, &body).await.error(403, "M_FORBIDDEN");
            alice.post(&path, &json!({ "new_version": "99" })).await
                .error(400, "M_UNSUPPORTED_ROOM_VERSION");
            let answer = alice.post(&path, &body).await.ok();
            let new = answer["replacement_room"].as_str().unwrap().to_owned();
            let content = async |kind: &str| content_of(&alice, &new, kind, "").await;
            let create = content("m.room.create").await;
            assert_eq!(create["predecessor"]["room_id"], old.as_str());
            assert_eq!((&create["type"], &create["room_version"]), (&json!("m.space"), &json!(to)));
            assert_eq!(create.get("additional_creators").is_some(), to == "12");
            assert_eq!(content("m.room.name").await["name"], "Name");
            assert_eq!(content("m.room.topic").await["topic"], "Topic");
            assert_eq!(content("m.room.join_rules").await["join_rule"], "public");
            let banned = content_of(&alice, &new, "m.room.member", &mallory.user_id).await;
            assert_eq!(banned["membership"], "ban");
            let levels = content("m.room.power_levels").await;
            match to {
                "12" => assert_eq!(levels["events"]["m.room.tombstone"], 150),
                _ => assert_eq!(levels["users"][&alice.user_id], 100),
            }
            let tombstone = content_of(&alice, &old, "m.room.tombstone", "").await;
            assert_eq!(tombstone["replacement_room"], new.as_str());
            let found = alice.get(&format!("{V3}/directory/room/%23{alias}:hearth.test")).await;
            assert_eq!(found.ok()["room_id"], new.as_str());
            let names = content("m.room.canonical_alias").await;
            assert_eq!(names["alias"], format!("#{alias}:hearth.test"));
            let list = format!("{V3}/directory/list/room/{new}");
            assert_eq!(alice.get(&list).await.ok()["visibility"], "public");
            let path = format!("{V3}/rooms/{old}/send/m.room.message/1");
            bob.put(&path, &json!({ "body": "too late" })).await.error(403, "M_FORBIDDEN");
            join(&bob, &new).await.ok();
        }
    }

    async fn settings_go_along_into_the_new_room(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let old = create_room(&alice, json!({ "preset": "public_chat" })).await;
        join(&bob, &old).await.ok();
        let user = format!("{V3}/user/{}", bob.user_id);
        let tags = |room: &str| format!("{user}/rooms/{room}/tags");
        let tag = json!({ "order": 0.5 });
        bob.put(&format!("{}/m.favourite", tags(&old)), &tag).await.ok();
        let direct = format!("{user}/account_data/m.direct");
        bob.put(&direct, &json!({ &alice.user_id: [old] })).await.ok();
        let rule = |room: &str| format!("{V3}/pushrules/global/room/{room}");
        bob.put(&rule(&old), &json!({ "actions": [] })).await.ok();
        let body = json!({ "new_version": "12" });
        let path = format!("{V3}/rooms/{old}/upgrade");
        let answer = alice.post(&path, &body).await.ok();
        let new = answer["replacement_room"].as_str().unwrap().to_owned();
        join(&bob, &new).await.ok();
        let found = bob.get(&tags(&new)).await.ok();
        assert_eq!(found["tags"]["m.favourite"]["order"], 0.5);
        assert_eq!(bob.get(&direct).await.ok()[&alice.user_id], json!([old, new]));
        assert_eq!(bob.get(&rule(&new)).await.ok()["actions"], json!([]));
    }

    async fn reports_are_taken(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        let event = say(&alice, &room, "spam").await;
        let reason = json!({ "reason": "spam" });
        let path = format!("{V3}/rooms/{room}/report/{event}");
        bob.post(&path, &reason).await.error(404, "M_NOT_FOUND");
        join(&bob, &room).await.ok();
        bob.post(&path, &reason).await.ok();
        bob.post(&format!("{V3}/rooms/{room}/report"), &reason).await.ok();
        bob.post(&format!("{V3}/rooms/{room}/report"), &json!({})).await.error(400, "M_BAD_JSON");
        bob.post(&format!("{V3}/users/{}/report", alice.user_id), &reason).await.ok();
        let unknown = format!("{V3}/rooms/!unknown:hearth.test/report");
        bob.post(&unknown, &reason).await.error(404, "M_NOT_FOUND");
    }
}
