//! Application services as clients (application-service API, "Client-Server API Extensions"): whom they
//! may be, what is theirs alone, and what others may not take.

use hearth::accounts::flags::AccountFlags;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    appservice::{Service, start_with, write_registration},
    both_databases,
    harness::{Client, Server},
    keyring::{CrossSigning, Device},
};

const V3: &str = "/_matrix/client/v3";
const USER: &str = "@_irc_alice:hearth.test";

async fn register(service: &Client, name: &str) -> Value {
    let body =
        json!({ "type": "m.login.application_service", "username": name, "inhibit_login": true });
    service.post(&format!("{V3}/register"), &body).await.ok()
}

async fn make_room(service: &Client, user: &str) -> String {
    let path = format!("{V3}/createRoom?user_id={user}");
    let answer = service.post(&path, &json!({ "preset": "public_chat" })).await.ok();
    answer["room_id"].as_str().unwrap().to_owned()
}

both_databases! {
    async fn services_act_as_their_users_only(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        let whoami = format!("{V3}/account/whoami");
        // The sender is there from the start, and has no device.
        let answer = bridge.get(&whoami).await.ok();
        assert_eq!(answer, json!({ "user_id": "@_irc_bot:hearth.test", "is_guest": false }));
        let as_user = format!("{whoami}?user_id={USER}");
        bridge.get(&as_user).await.error(403, "M_FORBIDDEN");
        assert_eq!(register(&bridge, "_irc_alice").await["user_id"], USER);
        assert_eq!(bridge.get(&as_user).await.ok()["user_id"], USER);
        let alice = server.register("alice").await;
        for outside in ["@alice:hearth.test", "@_irc_alice:elsewhere.test"] {
            bridge.get(&format!("{whoami}?user_id={outside}")).await.error(403, "M_FORBIDDEN");
        }
        bridge.get(&format!("{whoami}?user_id=nobody")).await.error(400, "M_INVALID_PARAM");
        // For others the parameter means nothing.
        let answer = alice.get(&as_user).await.ok();
        assert_eq!(answer["user_id"], "@alice:hearth.test");
        let stranger = Client { access_token: Some("wrong".to_owned()), ..bridge };
        stranger.get(&whoami).await.error(401, "M_UNKNOWN_TOKEN");
        server.stop().await;
    }

    async fn namespaces_are_kept_free_of_others(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        let body = json!({
            "username": "_irc_mallory", "password": "a long password", "auth": { "type": "m.login.dummy" },
        });
        let register_path = format!("{V3}/register");
        server.client().post(&register_path, &body).await.error(400, "M_EXCLUSIVE");
        let path = format!("{V3}/register/available?username=_irc_mallory");
        server.client().get(&path).await.error(400, "M_EXCLUSIVE");
        let body = json!({ "type": "m.login.application_service", "username": "mallory" });
        bridge.post(&register_path, &body).await.error(400, "M_EXCLUSIVE");
        server.client().post(&register_path, &body).await.error(401, "M_MISSING_TOKEN");
        let alice = server.register("alice").await;
        alice.post(&register_path, &body).await.error(401, "M_UNKNOWN_TOKEN");
        // Aliases.
        let room = crate::conversation::make_room(&[&alice]).await;
        let path = |alias: &str| format!("{V3}/directory/room/%23{alias}:hearth.test");
        let body = json!({ "room_id": room });
        alice.put(&path("_irc_room"), &body).await.error(400, "M_EXCLUSIVE");
        let new = json!({ "room_alias_name": "_irc_room" });
        alice.post(&format!("{V3}/createRoom"), &new).await.error(400, "M_EXCLUSIVE");
        bridge.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
        bridge.put(&path("room"), &body).await.error(400, "M_EXCLUSIVE");
        bridge.put(&path("_irc_room"), &body).await.ok();
        alice.delete(&path("_irc_room")).await.error(400, "M_EXCLUSIVE");
        bridge.delete(&path("_irc_room")).await.ok();
        server.stop().await;
    }

    async fn services_log_their_users_in(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        let login = format!("{V3}/login");
        let body = |user: &str| json!({
            "type": "m.login.application_service",
            "identifier": { "type": "m.id.user", "user": user },
        });
        bridge.post(&login, &body("_irc_alice")).await.error(403, "M_FORBIDDEN");
        register(&bridge, "_irc_alice").await;
        let answer = bridge.post(&login, &body("_irc_alice")).await.ok();
        let mut alice = server.client();
        alice.take_login(&answer);
        assert_eq!(alice.get(&format!("{V3}/account/whoami")).await.ok()["user_id"], USER);
        server.register("bob").await;
        bridge.post(&login, &body("bob")).await.error(400, "M_EXCLUSIVE");
        server.client().post(&login, &body("_irc_alice")).await.error(401, "M_MISSING_TOKEN");
        alice.post(&login, &body("_irc_alice")).await.error(401, "M_UNKNOWN_TOKEN");
        let flows = server.client().get(&login).await.ok();
        let types: Vec<_> = flows["flows"].as_array().unwrap().iter().map(|f| &f["type"]).collect();
        assert!(types.contains(&&json!("m.login.application_service")));
        server.stop().await;
    }

    async fn services_manage_devices_without_passwords(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        register(&bridge, "_irc_alice").await;
        let device = format!("{V3}/devices/PHONE?user_id={USER}");
        let answer = bridge.put(&device, &json!({ "display_name": "Phone" })).await;
        assert_eq!(answer.status, 201);
        let answer = bridge.put(&device, &json!({})).await;
        assert_eq!(answer.status, 200);
        assert_eq!(bridge.get(&device).await.ok()["display_name"], "Phone");
        let whoami = format!("{V3}/account/whoami?user_id={USER}");
        for name in ["device_id", "org.matrix.msc3202.device_id"] {
            let answer = bridge.get(&format!("{whoami}&{name}=PHONE")).await.ok();
            assert_eq!(answer["device_id"], "PHONE");
            let answer = bridge.get(&format!("{whoami}&{name}=OTHER")).await;
            assert_eq!((answer.status.as_u16(), &answer.body["errcode"]), (400, &json!("M_UNKNOWN_DEVICE")));
        }
        bridge.delete(&device).await.ok();
        bridge.get(&device).await.error(404, "M_NOT_FOUND");
        bridge.get(&format!("{whoami}&device_id=PHONE")).await;
        // Others make no devices this way.
        let bob = server.register("bob").await;
        bob.put(&format!("{V3}/devices/NEW"), &json!({})).await.error(404, "M_NOT_FOUND");
        server.stop().await;
    }

    async fn services_prove_nothing_for_keys_and_devices(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        register(&bridge, "_irc_alice").await;
        for device in ["ONE", "TWO"] {
            let path = format!("{V3}/devices/{device}?user_id={USER}");
            assert_eq!(bridge.put(&path, &json!({})).await.status, 201);
        }
        let phone =
            Client { user_id: USER.to_owned(), device_id: "ONE".to_owned(), ..bridge.clone() };
        let keys_path = format!("{V3}/keys/device_signing/upload?user_id={USER}");
        let others = CrossSigning::new(&phone, 40);
        // The first keys, and others in their place.
        bridge.post(&keys_path, &CrossSigning::new(&phone, 10).upload()).await.ok();
        bridge.post(&keys_path, &others.upload()).await.ok();
        let body = json!({ "device_keys": { USER: [] } });
        let found = bridge.post(&format!("{V3}/keys/query"), &body).await.ok();
        assert_eq!(found["master_keys"][USER], others.master_key());
        // Keys are a device's, so that one has to be named.
        let upload = json!({ "device_keys": Device::new(&phone, 1).identity() });
        let path = format!("{V3}/keys/upload?user_id={USER}");
        bridge.post(&path, &upload).await.error(400, "M_MISSING_PARAM");
        bridge.post(&format!("{path}&device_id=ONE"), &upload).await.ok();
        bridge.post(&format!("{path}&device_id=TWO"), &upload).await.error(400, "M_INVALID_PARAM");
        // With a token of their own, users prove who they are.
        let body = json!({
            "type": "m.login.application_service",
            "identifier": { "type": "m.id.user", "user": USER },
        });
        let mut own = server.client();
        own.take_login(&bridge.post(&format!("{V3}/login"), &body).await.ok());
        let gone = json!({ "devices": ["ONE", "TWO"] });
        assert_eq!(own.post(&format!("{V3}/delete_devices"), &gone).await.status, 401);
        let third = CrossSigning::new(&phone, 70).upload();
        let path = format!("{V3}/keys/device_signing/upload");
        assert_eq!(own.post(&path, &third).await.status, 401);
        bridge.post(&format!("{V3}/delete_devices?user_id={USER}"), &gone).await.ok();
        let left = bridge.get(&format!("{V3}/devices?user_id={USER}")).await.ok();
        let left: Vec<_> = left["devices"].as_array().unwrap().iter().map(|d| &d["device_id"]).collect();
        assert_eq!(left, [&json!(own.device_id)]);
        server.stop().await;
    }

    async fn open_namespaces_are_shared_with_others(backend: Backend) {
        let service = Service::start().await;
        let mut registration = service.registration();
        for kind in ["users", "aliases"] {
            registration["namespaces"][kind][0]["exclusive"] = false.into();
        }
        let server = start_with(backend, &write_registration(&registration)).await;
        let bridge = service.client(&server);
        let human = server.register("_irc_human").await;
        // The service may act as whoever is in its namespace.
        let whoami = format!("{V3}/account/whoami?user_id={}", human.user_id);
        assert_eq!(bridge.get(&whoami).await.ok()["user_id"], human.user_id);
        register(&bridge, "_irc_alice").await;
        let room = crate::conversation::make_room(&[&human]).await;
        let alias = format!("{V3}/directory/room/%23_irc_room:hearth.test");
        human.put(&alias, &json!({ "room_id": room })).await.ok();
        // But the name of its sender is its own in any case.
        let taken = format!("{V3}/register/available?username=_irc_bot");
        let answer = server.client().get(&taken).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        let outside = json!({ "type": "m.login.application_service", "username": "mallory" });
        bridge.post(&format!("{V3}/register"), &outside).await.error(400, "M_EXCLUSIVE");
        server.stop().await;
    }

    async fn services_act_as_nobody_whose_account_is_closed(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        register(&bridge, "_irc_alice").await;
        let whoami = format!("{V3}/account/whoami?user_id={USER}");
        bridge.get(&whoami).await.ok();
        let user_id: &ruma::UserId = USER.try_into().unwrap();
        let accounts = &server.app.accounts;
        for (locked, status) in [(true, 401), (false, 200)] {
            accounts.set_flag(user_id, AccountFlags::LOCKED, locked).await.unwrap();
            assert_eq!(bridge.get(&whoami).await.status, status);
        }
        accounts.deactivate(user_id, false).await.unwrap();
        bridge.get(&whoami).await.error(403, "M_FORBIDDEN");
        let again = json!({ "type": "m.login.application_service", "username": "_irc_alice" });
        bridge.post(&format!("{V3}/register"), &again).await.error(400, "M_USER_IN_USE");
        let login = json!({
            "type": "m.login.application_service",
            "identifier": { "type": "m.id.user", "user": "_irc_alice" },
        });
        bridge.post(&format!("{V3}/login"), &login).await.error(403, "M_USER_DEACTIVATED");
        server.stop().await;
    }

    async fn services_say_when_something_happened(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        register(&bridge, "_irc_alice").await;
        let room = make_room(&bridge, USER).await;
        let content = json!({ "msgtype": "m.text", "body": "old" });
        let send = |id: &str, ts: &str| format!("{V3}/rooms/{room}/send/m.room.message/{id}?user_id={USER}&ts={ts}");
        let answer = bridge.put(&send("1", "1000"), &content).await.ok();
        let event = format!("{V3}/rooms/{room}/event/{}?user_id={USER}", answer["event_id"].as_str().unwrap());
        assert_eq!(bridge.get(&event).await.ok()["origin_server_ts"], 1000);
        for wrong in ["-1", "soon", "9007199254740992"] {
            bridge.put(&send("2", wrong), &content).await.error(400, "M_INVALID_PARAM");
        }
        for (kind, key, content) in [
            ("m.room.topic", "", json!({ "topic": "old" })),
            ("m.room.member", "@_irc_bot:hearth.test", json!({ "membership": "invite" })),
        ] {
            let path = format!("{V3}/rooms/{room}/state/{kind}/{key}?user_id={USER}&ts=2000");
            let answer = bridge.put(&path, &content).await.ok();
            let event = format!("{V3}/rooms/{room}/event/{}?user_id={USER}", answer["event_id"].as_str().unwrap());
            assert_eq!(bridge.get(&event).await.ok()["origin_server_ts"], 2000);
        }
        // Of others it is ignored.
        let bob = server.register("bob").await;
        bob.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
        let path = format!("{V3}/rooms/{room}/send/m.room.message/1?ts=1000");
        let answer = bob.put(&path, &content).await.ok();
        let event = format!("{V3}/rooms/{room}/event/{}", answer["event_id"].as_str().unwrap());
        assert!(bob.get(&event).await.ok()["origin_server_ts"].as_u64().unwrap() > 1_000_000);
        server.stop().await;
    }

    async fn services_are_limited_as_their_registration_says(backend: Backend) {
        let service = Service::start().await;
        for (rate_limited, expect) in [(false, 200), (true, 429)] {
            let mut registration = service.registration();
            registration["rate_limited"] = rate_limited.into();
            let file = write_registration(&registration);
            let path = file.path().to_str().unwrap().to_owned();
            let server = Server::start_with(backend, |config| {
                config.appservices.registrations = vec![path];
                config.rate_limits.enabled = true;
                config.rate_limits.messages.burst = 1;
            })
            .await;
            let bridge = service.client(&server);
            if !rate_limited {
                register(&bridge, "_irc_alice").await;
            }
            let room = make_room(&bridge, "@_irc_bot:hearth.test").await;
            bridge.post(&format!("{V3}/join/{room}?user_id={USER}"), &json!({})).await.ok();
            let content = json!({ "msgtype": "m.text", "body": "x" });
            let mut statuses = Vec::new();
            for user in [USER, USER, "@_irc_bot:hearth.test", "@_irc_bot:hearth.test"] {
                let id = statuses.len();
                let path = format!("{V3}/rooms/{room}/send/m.room.message/{id}?user_id={user}");
                statuses.push(bridge.put(&path, &content).await.status.as_u16());
            }
            assert_eq!(statuses, [200, expect, 200, 200]);
            server.stop().await;
        }
    }

    async fn profiles_and_account_data_are_the_users_own(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        register(&bridge, "_irc_alice").await;
        let name = format!("{V3}/profile/{USER}/displayname");
        bridge.put(&name, &json!({ "displayname": "A" })).await.error(403, "M_FORBIDDEN");
        bridge.put(&format!("{name}?user_id={USER}"), &json!({ "displayname": "A" })).await.ok();
        assert_eq!(server.client().get(&name).await.ok()["displayname"], "A");
        let data = format!("{V3}/user/{USER}/account_data/org.example?user_id={USER}");
        bridge.put(&data, &json!({ "a": 1 })).await.ok();
        assert_eq!(bridge.get(&data).await.ok(), json!({ "a": 1 }));
        let sync = bridge.get(&format!("{V3}/sync?user_id={USER}")).await.ok();
        assert!(sync["account_data"].to_string().contains("org.example"));
        // A password that does not exist proves nothing.
        let path = format!("{V3}/account/password?user_id={USER}");
        let answer = bridge.send(bridge.request(Method::POST, &path).json(&json!({ "new_password": "long enough" }))).await;
        assert_eq!(answer.status, 401);
        server.stop().await;
    }
}
