//! Client-Server API, "Push Notifications": pushers.

use serde_json::{Value, json};

use crate::{both_databases, harness::Server};

const LIST: &str = "/_matrix/client/v3/pushers";
const SET: &str = "/_matrix/client/v3/pushers/set";

fn pusher(pushkey: &str) -> Value {
    json!({
        "kind": "http", "app_id": "org.example.app", "pushkey": pushkey, "lang": "en",
        "app_display_name": "App", "device_display_name": "Phone", "profile_tag": "abc",
        "data": {
            "url": "https://push.example.org/_matrix/push/v1/notify", "format": "event_id_only",
            "org.example.extra": { "kept": true },
        },
    })
}

fn with(mut pusher: Value, key: &str, value: Value) -> Value {
    pusher[key] = value;
    pusher
}

both_databases! {
    async fn pushers_are_set_changed_and_deleted(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        assert_eq!(alice.get(LIST).await.ok(), json!({ "pushers": [] }));
        alice.post(SET, &pusher("one")).await.ok();
        alice.post(SET, &pusher("two")).await.ok();
        alice.post(SET, &with(pusher("one"), "lang", json!("de"))).await.ok();
        let listed = alice.get(LIST).await.ok();
        assert_eq!(listed["pushers"][0], with(pusher("one"), "lang", json!("de")));
        assert_eq!(listed["pushers"][1], pusher("two"));
        let delete = json!({ "kind": null, "app_id": "org.example.app", "pushkey": "one" });
        alice.post(SET, &delete).await.ok();
        alice.post(SET, &delete).await.ok();
        assert_eq!(alice.get(LIST).await.ok()["pushers"].as_array().unwrap().len(), 1);
    }

    async fn phone_that_changes_hands_notifies_its_new_owner_only(backend: Backend) {
        let server = Server::start(backend).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let count = async |client: &crate::harness::Client| {
            client.get(LIST).await.ok()["pushers"].as_array().unwrap().len()
        };
        alice.post(SET, &pusher("phone")).await.ok();
        bob.post(SET, &with(pusher("phone"), "append", json!(true))).await.ok();
        assert_eq!((count(&alice).await, count(&bob).await), (1, 1));
        bob.post(SET, &pusher("phone")).await.ok();
        assert_eq!((count(&alice).await, count(&bob).await), (0, 1));

        // A pusher goes with the device that set it.
        let tablet = server.login("bob").await;
        tablet.post(SET, &pusher("tablet")).await.ok();
        assert_eq!(count(&bob).await, 2);
        tablet.post("/_matrix/client/v3/logout", &json!({})).await.ok();
        assert_eq!(count(&bob).await, 1);
    }

    async fn pushers_that_could_not_work_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let url = |url: &str| with(pusher("a"), "data", json!({ "url": url }));
        for (wrong, errcode) in [
            (url("http://push.example.org/_matrix/push/v1/notify"), "M_INVALID_PARAM"),
            (url("http://127.0.0.1:1/_matrix/push/v1/notify"), "M_INVALID_PARAM"),
            (url("https://push.example.org/elsewhere"), "M_INVALID_PARAM"),
            (with(pusher("a"), "data", json!({})), "M_MISSING_PARAM"),
            (with(pusher("a"), "kind", json!("pigeon")), "M_INVALID_PARAM"),
            (with(pusher("a"), "lang", Value::Null), "M_MISSING_PARAM"),
            (with(pusher("a"), "app_id", json!("x".repeat(65))), "M_INVALID_PARAM"),
            (pusher(&"x".repeat(513)), "M_INVALID_PARAM"),
            (json!({ "app_id": "a", "pushkey": "b" }), "M_BAD_JSON"),
        ] {
            alice.post(SET, &wrong).await.error(400, errcode);
        }
        server.client().get(LIST).await.error(401, "M_MISSING_TOKEN");
    }
}
