//! What users store for themselves and show to others: profiles, account data, tags, filters, push
//! rules, and what the server can do.

use hearth::config::Secret;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
};

const ROOM: &str = "!room:hearth.test";

fn user_path(client: &Client, rest: &str) -> String {
    format!("/_matrix/client/v3/user/{}/{rest}", client.user_id)
}

fn profile_path(client: &Client, field: &str) -> String {
    format!("/_matrix/client/v3/profile/{}/{field}", client.user_id)
}

async fn sync(client: &Client, query: &str) -> Value {
    client.get(&format!("/_matrix/client/v3/sync?{query}")).await.ok()
}

fn find_kind(sync: &Value, kind: &str) -> Option<Value> {
    let events = sync["account_data"]["events"].as_array()?;
    Some(events.iter().find(|event| event["type"] == kind)?["content"].clone())
}

both_databases! {
    async fn settings_of_a_device_go_with_it(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let mut second = server.client();
        let login = json!({
            "type": "m.login.password", "password": "password of alice",
            "identifier": { "type": "m.id.user", "user": "alice" },
        });
        second.take_login(&second.post("/_matrix/client/v3/login", &login).await.ok());
        let path = format!(
            "/_matrix/client/v3/user/{}/account_data/\
             org.matrix.msc3890.local_notification_settings.{}",
            alice.user_id, second.device_id
        );
        alice.put(&path, &json!({ "is_silenced": true })).await.ok();
        let sync = "/_matrix/client/v3/sync?set_presence=offline";
        let first = alice.get(sync).await.ok();
        second.post("/_matrix/client/v3/logout", &json!({})).await.ok();
        alice.get(&path).await.error(404, "M_NOT_FOUND");
        let since = first["next_batch"].as_str().unwrap();
        let news = alice.get(&format!("{sync}&since={since}")).await.ok();
        assert_eq!(news["account_data"]["events"][0]["content"], json!({}), "{news}");
        server.stop().await;
    }

    async fn profile_fields_are_set_read_and_deleted(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let nobody = server.client();
        let path = |field: &str| profile_path(&alice, field);
        // Others see the localpart until the user chooses a name.
        assert_eq!(nobody.get(&path("displayname")).await.ok(), json!({ "displayname": "alice" }));
        for (field, value) in [
            ("displayname", json!("Alice Ä")),
            ("avatar_url", json!("mxc://hearth.test/abc")),
            ("m.tz", json!("Europe/London")),
            ("org.example.pets", json!([{ "name": "Rex" }, null])),
        ] {
            alice.put(&path(field), &json!({ field: value })).await.ok();
            assert_eq!(nobody.get(&path(field)).await.ok(), json!({ field: value }));
        }
        let all = nobody.get(&format!("/_matrix/client/v3/profile/{}", alice.user_id)).await.ok();
        assert_eq!(all.as_object().unwrap().len(), 4);
        alice.delete(&path("m.tz")).await.ok();
        alice.delete(&path("m.tz")).await.ok();
        nobody.get(&path("m.tz")).await.error(404, "M_NOT_FOUND");
        // Older clients empty the picture instead of deleting it.
        alice.put(&path("avatar_url"), &json!({ "avatar_url": "" })).await.ok();
        nobody.get(&path("avatar_url")).await.error(404, "M_NOT_FOUND");
        server.kill().await;
        let server = Server::start(backend).await;
        let name = server.client().get(&path("displayname")).await.ok();
        assert_eq!(name, json!({ "displayname": "Alice Ä" }));
    }

    async fn bad_profile_changes_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let path = |field: &str| profile_path(&alice, field);
        bob.put(&path("displayname"), &json!({ "displayname": "B" })).await.error(403, "M_FORBIDDEN");
        bob.delete(&path("displayname")).await.error(403, "M_FORBIDDEN");
        let long = "m.".to_owned() + &"a".repeat(254);
        for (field, body, errcode) in [
            ("displayname", json!({ "displayname": 5 }), "M_BAD_JSON"),
            ("displayname", json!({}), "M_MISSING_PARAM"),
            ("displayname", json!([]), "M_BAD_JSON"),
            ("displayname", json!({ "displayname": "x".repeat(300) }), "M_INVALID_PARAM"),
            ("avatar_url", json!({ "avatar_url": "m".repeat(5000) }), "M_INVALID_PARAM"),
            ("m.tz", json!({ "m.tz": 1 }), "M_BAD_JSON"),
            ("Bad", json!({ "Bad": 1 }), "M_INVALID_PARAM"),
            (&long, json!({ &*long: 1 }), "M_KEY_TOO_LARGE"),
            ("m.big", json!({ "m.big": "x".repeat(70_000) }), "M_PROFILE_TOO_LARGE"),
        ] {
            alice.put(&path(field), &body).await.error(400, errcode);
        }
        alice.get("/_matrix/client/v3/profile/alice").await.error(400, "M_INVALID_PARAM");
        alice.get("/_matrix/client/v3/profile/@nobody:hearth.test").await.error(404, "M_NOT_FOUND");
        alice.get("/_matrix/client/v3/profile/@a%00b:hearth.test").await;
        server.client().put(&path("displayname"), &json!({})).await.error(401, "M_MISSING_TOKEN");
    }

    async fn account_data_are_stored_and_reach_sync(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let first = sync(&alice, "").await;
        assert!(find_kind(&first, "m.push_rules").unwrap()["global"]["override"].is_array());
        let since = first["next_batch"].as_str().unwrap();
        let path = user_path(&alice, "account_data/org.example.colour");
        alice.get(&path).await.error(404, "M_NOT_FOUND");
        // A sync that waits is woken.
        let content = json!({ "colour": "gr\u{fc}n", "nul": "\0" });
        let query = format!("since={since}&timeout=20000");
        let (put, woken) = tokio::join!(alice.put(&path, &content), sync(&alice, &query));
        put.ok();
        assert_eq!(find_kind(&woken, "org.example.colour"), Some(content.clone()));
        assert_eq!(alice.get(&path).await.ok(), content);
        let since = woken["next_batch"].as_str().unwrap();
        assert_eq!(find_kind(&sync(&alice, &format!("since={since}")).await, "org.example.colour"), None);
        let of_room = user_path(&alice, &format!("rooms/{ROOM}/account_data/org.example.colour"));
        alice.put(&of_room, &json!({ "colour": "red" })).await.ok();
        assert_eq!(alice.get(&of_room).await.ok(), json!({ "colour": "red" }));
        server.kill().await;
        let server = Server::start(backend).await;
        assert_eq!(server.reconnect(&alice).get(&path).await.ok(), content);
    }

    async fn bad_account_data_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let path = |kind: &str| user_path(&alice, &format!("account_data/{kind}"));
        let empty = json!({});
        bob.get(&path("m.direct")).await.error(403, "M_FORBIDDEN");
        bob.put(&path("m.direct"), &empty).await.error(403, "M_FORBIDDEN");
        for kind in ["m.fully_read", "m.push_rules"] {
            alice.put(&path(kind), &empty).await.error(405, "M_BAD_JSON");
            let of_room = user_path(&alice, &format!("rooms/{ROOM}/account_data/{kind}"));
            alice.put(&of_room, &empty).await.error(405, "M_BAD_JSON");
        }
        alice.put(&path("m.direct"), &json!([])).await.error(400, "M_BAD_JSON");
        alice.send_text(Method::PUT, &path("m.direct"), "nope").await.error(400, "M_NOT_JSON");
        alice.send_text(Method::PUT, &path("m.direct"), "").await.error(400, "M_NOT_JSON");
        alice.put(&path("a%00b"), &empty).await.error(400, "M_INVALID_PARAM");
        alice.put(&path(&"x".repeat(256)), &empty).await.error(400, "M_INVALID_PARAM");
        let bad_room = user_path(&alice, "rooms/nonsense/account_data/m.x");
        alice.put(&bad_room, &empty).await.error(400, "M_INVALID_PARAM");
        alice.get(&bad_room).await.error(400, "M_INVALID_PARAM");
        alice.delete(&path("m.direct")).await.error(405, "M_UNRECOGNIZED");
    }

    async fn tags_are_kept_per_room(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let tags = user_path(&alice, &format!("rooms/{ROOM}/tags"));
        assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": {} }));
        alice.put(&format!("{tags}/m.favourite"), &json!({ "order": 0.25 })).await.ok();
        alice.put(&format!("{tags}/u.work"), &json!({})).await.ok();
        let expect = json!({ "tags": { "m.favourite": { "order": 0.25 }, "u.work": {} } });
        assert_eq!(alice.get(&tags).await.ok(), expect);
        alice.delete(&format!("{tags}/u.work")).await.ok();
        alice.delete(&format!("{tags}/u.work")).await.ok();
        assert_eq!(alice.get(&tags).await.ok(), json!({ "tags": { "m.favourite": { "order": 0.25 } } }));
        alice.put(&format!("{tags}/u.x"), &json!({ "order": "first" })).await.error(400, "M_BAD_JSON");
        server.register("bob").await.get(&tags).await.error(403, "M_FORBIDDEN");
        // Tags set at the same time do not overwrite one another.
        let names: Vec<_> = (0..10).map(|n| format!("{tags}/u.{n}")).collect();
        let body = json!({});
        let puts = names.iter().map(|path| alice.put(path, &body));
        for answer in futures_util::future::join_all(puts).await {
            answer.ok();
        }
        assert_eq!(alice.get(&tags).await.ok()["tags"].as_object().unwrap().len(), 11);
    }

    async fn filters_are_checked_and_kept_once(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let path = user_path(&alice, "filter");
        let filter = json!({
            "event_format": "client",
            "presence": { "types": ["m.presence"], "limit": 5 },
            "room": {
                "include_leave": true,
                "timeline": { "limit": 10, "not_senders": ["@spam:hearth.test"], "lazy_load_members": true },
            },
        });
        let id = alice.post(&path, &filter).await.ok()["filter_id"].clone();
        assert_eq!(alice.post(&path, &filter).await.ok()["filter_id"], id);
        let stored = format!("{path}/{}", id.as_str().unwrap());
        assert_eq!(alice.get(&stored).await.ok(), filter);
        alice.get(&format!("{path}/none")).await.error(404, "M_NOT_FOUND");
        sync(&alice, &format!("filter={}", id.as_str().unwrap())).await;
        alice.get("/_matrix/client/v3/sync?filter=none").await.error(400, "M_INVALID_PARAM");
        for bad in [
            json!({ "event_format": "xml" }),
            json!({ "room": { "timeline": { "limit": "ten" } } }),
            json!({ "room": { "rooms": ["nonsense"] } }),
            json!({ "room": { "timeline": { "senders": ["nonsense"] } } }),
            json!([]),
        ] {
            alice.post(&path, &bad).await.error(400, "M_BAD_JSON");
        }
        let bob = server.register("bob").await;
        bob.post(&path, &filter).await.error(403, "M_FORBIDDEN");
        bob.get(&stored).await.error(403, "M_FORBIDDEN");
        // Nobody fills the disk with filters.
        let user = alice.user_id.as_str().try_into().unwrap();
        for number in 1..1000 {
            let filter = format!("{{\"number\":{number}}}");
            server.app.accounts.store_filter(user, &filter).await.unwrap();
        }
        alice.post(&path, &json!({ "one": "more" })).await.error(413, "M_TOO_LARGE");
        assert_eq!(alice.post(&path, &filter).await.ok()["filter_id"], id);
    }

    async fn push_rules_are_changed_one_by_one(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let root = "/_matrix/client/v3/pushrules";
        let all = alice.get(&format!("{root}/")).await.ok();
        for kind in ["override", "content", "room", "sender", "underride"] {
            assert!(all["global"][kind].is_array(), "{all}");
        }
        let rule = |rest: &str| format!("{root}/global/{rest}");
        let loud = json!({ "actions": ["notify", { "set_tweak": "highlight" }] });
        let mut word = loud.clone();
        word["pattern"] = json!("cake");
        alice.put(&rule("content/cake"), &word).await.ok();
        let stored = alice.get(&rule("content/cake")).await.ok();
        assert_eq!((&stored["pattern"], &stored["enabled"], &stored["default"]), (&json!("cake"), &json!(true), &json!(false)));
        alice.put(&rule("room/!room:hearth.test"), &json!({ "actions": [] })).await.ok();
        alice.put(&rule("sender/@bob:hearth.test"), &json!({ "actions": [] })).await.ok();
        let conditions = json!({
            "actions": ["notify"],
            "conditions": [{ "kind": "event_match", "key": "type", "pattern": "org.example.*" }],
        });
        alice.put(&rule("override/one"), &conditions).await.ok();
        alice.put(&rule("override/two?after=one"), &conditions).await.ok();
        let ids = |all: &Value| -> Vec<String> {
            let rules = all["global"]["override"].as_array().unwrap();
            rules.iter().map(|rule| rule["rule_id"].as_str().unwrap().to_owned()).collect()
        };
        let order = ids(&alice.get(&format!("{root}/")).await.ok());
        let place = |id: &str| order.iter().position(|known| known == id).unwrap();
        assert_eq!((place(".m.rule.master"), place("one") + 1), (0, place("two")));
        // Those of rooms have no predefined ones behind them.
        for name in ["!b:x", "!a:x"] {
            alice.put(&rule(&format!("room/{name}")), &json!({ "actions": [] })).await.ok();
        }
        let switch = rule("room/!a:x/enabled");
        alice.put(&switch, &json!({ "enabled": false })).await.ok();
        for (place, expect) in [
            ("after=!b:x", ["!b:x", "!a:x", "!room:hearth.test"]),
            ("after=!room:hearth.test", ["!b:x", "!room:hearth.test", "!a:x"]),
            ("before=!b:x", ["!a:x", "!b:x", "!room:hearth.test"]),
            ("after=!b:x&before=!room:hearth.test", ["!b:x", "!a:x", "!room:hearth.test"]),
        ] {
            let path = rule(&format!("room/!a:x?{place}"));
            alice.put(&path, &json!({ "actions": ["notify"] })).await.ok();
            let all = alice.get(&format!("{root}/")).await.ok();
            let rules = all["global"]["room"].as_array().unwrap();
            let found: Vec<_> = rules.iter().map(|rule| rule["rule_id"].as_str().unwrap()).collect();
            assert_eq!(found, expect, "{place}");
        }
        assert_eq!(alice.get(&switch).await.ok(), json!({ "enabled": false }));
        let enabled = rule("override/.m.rule.master/enabled");
        assert_eq!(alice.get(&enabled).await.ok(), json!({ "enabled": false }));
        alice.put(&enabled, &json!({ "enabled": true })).await.ok();
        assert_eq!(alice.get(&enabled).await.ok(), json!({ "enabled": true }));
        let actions = rule("content/cake/actions");
        alice.put(&actions, &json!({ "actions": ["notify"] })).await.ok();
        assert_eq!(alice.get(&actions).await.ok(), json!({ "actions": ["notify"] }));
        alice.delete(&rule("content/cake")).await.ok();
        alice.get(&rule("content/cake")).await.error(404, "M_NOT_FOUND");
        // They are account data, and survive a restart.
        server.kill().await;
        let server = Server::start(backend).await;
        let alice = server.reconnect(&alice);
        assert_eq!(alice.get(&enabled).await.ok(), json!({ "enabled": true }));
        let content = find_kind(&sync(&alice, "").await, "m.push_rules").unwrap();
        assert_eq!(ids(&content), order);
        assert_eq!(alice.get(&user_path(&alice, "account_data/m.push_rules")).await.ok(), content);
    }

    async fn bad_push_rules_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let rule = |rest: &str| format!("/_matrix/client/v3/pushrules/global/{rest}");
        let body = json!({ "actions": ["notify"] });
        for (path, body, status, errcode) in [
            ("content/cake", &body, 400, "M_MISSING_PARAM"),
            ("nonsense/cake", &body, 400, "M_INVALID_PARAM"),
            ("room/nonsense", &body, 400, "M_INVALID_PARAM"),
            ("override/.m.rule.mine", &body, 400, "M_INVALID_PARAM"),
            ("override/a%2Fb", &body, 400, "M_INVALID_PARAM"),
            ("override/x?before=nothing", &body, 404, "M_NOT_FOUND"),
            ("override/x?before=.m.rule.master", &body, 400, "M_INVALID_PARAM"),
            ("override/x?after=x", &body, 400, "M_INVALID_PARAM"),
            ("room/!a:b?before=!a:b", &body, 400, "M_INVALID_PARAM"),
            ("override/x", &json!({}), 400, "M_BAD_JSON"),
            ("override/x", &json!({ "actions": [5] }), 400, "M_BAD_JSON"),
            ("override/x/enabled", &json!({ "enabled": true }), 404, "M_NOT_FOUND"),
            ("override/x/actions", &body, 404, "M_NOT_FOUND"),
            ("override/.m.rule.master/enabled", &json!({ "enabled": 1 }), 400, "M_BAD_JSON"),
        ] {
            alice.put(&rule(path), body).await.error(status, errcode);
        }
        alice.delete(&rule("override/.m.rule.master")).await.error(400, "M_INVALID_PARAM");
        alice.delete(&rule("override/x")).await.error(404, "M_NOT_FOUND");
        alice.get(&rule("override/x")).await.error(404, "M_NOT_FOUND");
    }

    async fn openid_token_tells_another_service_who_somebody_is(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let answer = alice.post(&user_path(&alice, "openid/request_token"), &json!({})).await.ok();
        assert_eq!(answer["matrix_server_name"], "hearth.test");
        let info = "/_matrix/federation/v1/openid/userinfo";
        let token = answer["access_token"].as_str().unwrap();
        let nobody = server.client();
        let who = nobody.get(&format!("{info}?access_token={token}")).await.ok();
        assert_eq!(who, json!({ "sub": alice.user_id }));
        nobody.get(&format!("{info}?access_token=no")).await.error(401, "M_UNKNOWN_TOKEN");
        nobody.get(info).await.error(401, "M_MISSING_TOKEN");
        // It admits nobody to this server.
        let stolen = Client { access_token: Some(token.to_owned()), ..nobody };
        stolen.get("/_matrix/client/v3/account/whoami").await.error(401, "M_UNKNOWN_TOKEN");
        let bob = server.register("bob").await;
        bob.post(&user_path(&alice, "openid/request_token"), &json!({})).await.error(403, "M_FORBIDDEN");
    }

    async fn capabilities_and_what_is_not_kept_are_told(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.registration.shared_secret = Some(Secret::new("x"));
        })
        .await;
        let alice = server.register("alice").await;
        let body = alice.get("/_matrix/client/v3/capabilities").await.ok();
        assert_eq!(body["capabilities"]["m.room_versions"]["default"], "12");
        assert_eq!(body["capabilities"]["m.room_versions"]["available"]["1"], "stable");
        let ids = alice.get("/_matrix/client/v3/account/3pid").await.ok();
        assert_eq!(ids, json!({ "threepids": [] }));
        let mail = json!({ "client_secret": "s", "email": "a@b.c", "send_attempt": 1 });
        let reset = "/_matrix/client/v3/account/password/email/requestToken";
        let unsupported = "M_THREEPID_MEDIUM_NOT_SUPPORTED";
        server.client().post(reset, &mail).await.error(400, unsupported);
        let add = "/_matrix/client/v3/register/email/requestToken";
        server.client().post(add, &mail).await.error(400, unsupported);
        assert_eq!(alice.get("/_matrix/client/v3/thirdparty/protocols").await.ok(), json!({}));
        alice.get("/_matrix/client/v3/thirdparty/protocol/irc").await.error(404, "M_NOT_FOUND");
        let whois = format!("/_matrix/client/v3/admin/whois/{}", alice.user_id);
        alice.get(&whois).await.ok();
        alice.get("/_matrix/client/v3/admin/whois/@bob:hearth.test").await.error(403, "M_FORBIDDEN");
    }

    async fn users_find_those_whom_they_may_know(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let carol = server.register("carol").await;
        let search = async |client: &Client, term: &str| -> Vec<String> {
            let body = json!({ "search_term": term });
            let found = client.post("/_matrix/client/v3/user_directory/search", &body).await.ok();
            let results = found["results"].as_array().unwrap().clone();
            results.iter().map(|user| user["user_id"].as_str().unwrap().to_owned()).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(search(&alice, "bob").await, none);
        let create = "/_matrix/client/v3/createRoom";
        let private = json!({ "preset": "private_chat", "invite": [alice.user_id] });
        let room = bob.post(create, &private).await.ok();
        let join = format!("/_matrix/client/v3/join/{}", room["room_id"].as_str().unwrap());
        alice.post(&join, &json!({})).await.ok();
        bob.put(&profile_path(&bob, "displayname"), &json!({ "displayname": "Robert B." })).await.ok();
        for term in ["bob", "BO", "@bob:hearth.test", "robert b"] {
            assert_eq!(search(&alice, term).await, [&*bob.user_id], "{term}");
        }
        for term in ["", "%", "_", "hearth", "rob!", "\0"] {
            let body = json!({ "search_term": term });
            let answer = alice.post("/_matrix/client/v3/user_directory/search", &body).await;
            let found = answer.body["results"].as_array().is_some_and(|list| !list.is_empty());
            assert!(!found, "{term}: {answer:?}");
        }
        assert_eq!(search(&carol, "bob").await, none);
        assert_eq!(search(&alice, "alice").await, none);
        alice.post(create, &json!({ "preset": "public_chat" })).await.ok();
        assert_eq!(search(&carol, "alice").await, [&*alice.user_id]);
        assert_eq!(search(&alice, "alice").await, [&*alice.user_id], "who is in a public room");
        alice.post("/_matrix/client/v3/user_directory/search", &json!({})).await.error(400, "M_BAD_JSON");
    }
}
