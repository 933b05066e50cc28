//! Questions to application services and by them: users and aliases on demand, networks, pings
//! (application-service API, "Querying", "Third-party networks", "Pinging").

use reqwest::Method;
use serde_json::json;

use crate::{
    appservice::{Service, start_with, write_registration},
    both_databases,
    conversation::make_room,
};

const V3: &str = "/_matrix/client/v3";

both_databases! {
    async fn rooms_are_made_when_somebody_asks_for_them(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        let alice = server.register("alice").await;
        let join = format!("{V3}/join/%23_irc_new:hearth.test");
        alice.post(&join, &json!({})).await.error(404, "M_NOT_FOUND");
        let new = json!({ "room_alias_name": "_irc_new", "preset": "public_chat" });
        let create = (bridge.clone(), Method::POST, format!("{V3}/createRoom"), new);
        service.react("/_matrix/app/v1/rooms/%23_irc_new%3Ahearth.test", vec![create]);
        let joined = alice.post(&join, &json!({})).await.ok();
        let found = alice.get(&format!("{V3}/directory/room/%23_irc_new:hearth.test")).await.ok();
        assert_eq!(joined["room_id"], found["room_id"]);
        // Nobody is asked about what lies in no namespace.
        let asked = service.asked().len();
        let other = format!("{V3}/directory/room/%23other:hearth.test");
        alice.get(&other).await.error(404, "M_NOT_FOUND");
        assert_eq!(service.asked().len(), asked);
        server.stop().await;
    }

    async fn users_are_made_when_somebody_asks_for_them(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        let alice = server.register("alice").await;
        let register = |name: &str| {
            let body = json!({ "type": "m.login.application_service", "username": name, "inhibit_login": true });
            (bridge.clone(), Method::POST, format!("{V3}/register"), body)
        };
        let profile = format!("{V3}/profile/@_irc_zoe:hearth.test");
        alice.get(&profile).await.error(404, "M_NOT_FOUND");
        service.react("/_matrix/app/v1/users/%40_irc_zoe%3Ahearth.test", vec![register("_irc_zoe")]);
        assert_eq!(alice.get(&profile).await.ok()["displayname"], "_irc_zoe");
        service.react("/_matrix/app/v1/users/%40_irc_yan%3Ahearth.test", vec![register("_irc_yan")]);
        let room = make_room(&[&alice]).await;
        let body = json!({ "user_id": "@_irc_yan:hearth.test" });
        alice.post(&format!("{V3}/rooms/{room}/invite"), &body).await.ok();
        bridge.post(&format!("{V3}/join/{room}?user_id=@_irc_yan:hearth.test"), &json!({})).await.ok();
        server.stop().await;
    }

    async fn networks_are_passed_through(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let alice = server.register("alice").await;
        let app = "/_matrix/app/v1/thirdparty";
        let field = json!({ "regexp": ".*", "placeholder": "x" });
        service.set_page(&format!("{app}/protocol/irc"), 200, json!({
            "user_fields": ["nickname"], "location_fields": ["channel"], "icon": "mxc://hearth.test/a",
            "field_types": { "nickname": field, "channel": field },
            "instances": [{ "desc": "Libera", "network_id": "libera", "fields": { "network": "libera" } }],
        }));
        let protocol = alice.get(&format!("{V3}/thirdparty/protocol/irc")).await.ok();
        assert_eq!(protocol["instances"][0]["instance_id"], "irc|libera");
        let all = alice.get(&format!("{V3}/thirdparty/protocols")).await.ok();
        assert_eq!(all["irc"], protocol);
        alice.get(&format!("{V3}/thirdparty/protocol/xmpp")).await.error(404, "M_NOT_FOUND");
        let location = json!([{ "alias": "#_irc_a:hearth.test", "protocol": "irc", "fields": { "channel": "#a" } }]);
        service.set_page(&format!("{app}/location/irc?channel=%23a"), 200, location.clone());
        let path = format!("{V3}/thirdparty/location/irc?channel=%23a");
        assert_eq!(alice.get(&path).await.ok(), location);
        alice.get(&format!("{V3}/thirdparty/location/xmpp?channel=a")).await.error(404, "M_NOT_FOUND");
        let user = json!([{ "userid": "@_irc_a:hearth.test", "protocol": "irc", "fields": { "nickname": "a" } }]);
        service.set_page(&format!("{app}/user?userid=%40_irc_a%3Ahearth.test"), 200, user.clone());
        let path = format!("{V3}/thirdparty/user?userid=@_irc_a:hearth.test");
        assert_eq!(alice.get(&path).await.ok(), user);
        alice.get(&format!("{V3}/thirdparty/user")).await.error(400, "M_MISSING_PARAM");
        server.stop().await;
    }

    async fn networks_have_directories_of_their_own(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        let alice = server.register("alice").await;
        let rooms = [make_room(&[&alice]).await, make_room(&[&alice]).await];
        let path = |room: &str| format!("{V3}/directory/list/appservice/libera/{room}");
        for room in &rooms {
            bridge.put(&path(room), &json!({ "visibility": "public" })).await.ok();
        }
        alice.put(&path(&rooms[0]), &json!({ "visibility": "public" })).await.error(403, "M_FORBIDDEN");
        let search = format!("{V3}/publicRooms");
        let body = json!({ "third_party_instance_id": "irc|libera", "limit": 1 });
        let first = alice.post(&search, &body).await.ok();
        let body = json!({ "third_party_instance_id": "irc|libera", "since": first["next_batch"] });
        let second = alice.post(&search, &body).await.ok();
        let mut listed = [&first, &second].map(|page| page["chunk"][0]["room_id"].as_str().unwrap());
        listed.sort_unstable();
        let mut expect = rooms.each_ref().map(String::as_str);
        expect.sort_unstable();
        assert_eq!(listed, expect);
        let everywhere = alice.post(&search, &json!({})).await.ok();
        assert_eq!(everywhere["chunk"], json!([]));
        bridge.put(&path(&rooms[0]), &json!({ "visibility": "private" })).await.ok();
        let body = json!({ "third_party_instance_id": "irc|libera" });
        let left = alice.post(&search, &body).await.ok();
        assert_eq!(left["chunk"].as_array().unwrap().len(), 1);
        server.stop().await;
    }

    async fn pings_go_both_ways(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let bridge = service.client(&server);
        let path = "/_matrix/client/v1/appservice/irc/ping";
        let body = json!({ "transaction_id": "meow" });
        let answer = bridge.post(path, &body).await;
        assert_eq!((answer.status.as_u16(), &answer.body["errcode"]), (502, &json!("M_BAD_STATUS")));
        assert_eq!(answer.body["status"], 404);
        service.set_page("/_matrix/app/v1/ping", 200, json!({}));
        assert!(bridge.post(path, &body).await.ok()["duration_ms"].is_number());
        let other = "/_matrix/client/v1/appservice/other/ping";
        bridge.post(other, &body).await.error(403, "M_FORBIDDEN");
        let alice = server.register("alice").await;
        alice.post(path, &body).await.error(403, "M_FORBIDDEN");
        server.client().post(path, &body).await.error(401, "M_MISSING_TOKEN");
        server.stop().await;
        let mut registration = service.registration();
        for (url, status, errcode) in [
            (json!(null), 400, "M_URL_NOT_SET"),
            // Nobody listens at port 1.
            (json!("http://127.0.0.1:1"), 502, "M_CONNECTION_FAILED"),
        ] {
            registration["url"] = url;
            let file = write_registration(&registration);
            let server = start_with(backend, &file).await;
            let answer = service.client(&server).post(path, &body).await;
            assert_eq!((answer.status.as_u16(), &answer.body["errcode"]), (status, &json!(errcode)));
            server.stop().await;
        }
    }
}
