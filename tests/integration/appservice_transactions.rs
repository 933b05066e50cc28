//! What is brought to application services (application-service API, "Pushing events"): what concerns
//! them, in order, each event exactly once, whatever happens to either side.

use hearth::clock::Clock;
use serde_json::{Value, json};

use crate::{
    appservice::{Service, events_of, start_with, texts_of, write_registration},
    both_databases,
    conversation::{make_room, next_batch, read, say, sync, wait_for},
    harness::{Client, Server},
};

const V3: &str = "/_matrix/client/v3";

async fn bridged_room(server: &Server, service: &Service, alice: &Client) -> String {
    let room = make_room(&[alice]).await;
    let bridge = service.client(server);
    bridge.post(&format!("{V3}/join/{room}"), &json!({})).await.ok();
    room
}

both_databases! {
    async fn services_get_what_concerns_them(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let alice = server.register("alice").await;
        let elsewhere = make_room(&[&alice]).await;
        say(&alice, &elsewhere, "unheard").await;
        let room = bridged_room(&server, &service, &alice).await;
        let event_id = say(&alice, &room, "heard").await;
        let event = service.wait_for_text("heard").await;
        assert_eq!(event["event_id"], event_id);
        assert_eq!(event["room_id"], room);
        assert_eq!(event["sender"], "@alice:hearth.test");
        assert!(event["unsigned"]["age"].is_number() && event["origin_server_ts"].is_number());
        // An invitation of a user who is nowhere yet.
        let bridge = service.client(&server);
        let body = json!({ "type": "m.login.application_service", "username": "_irc_bob", "inhibit_login": true });
        bridge.post(&format!("{V3}/register"), &body).await.ok();
        let invite = json!({ "user_id": "@_irc_bob:hearth.test" });
        alice.post(&format!("{V3}/rooms/{elsewhere}/invite"), &invite).await.ok();
        say(&alice, &elsewhere, "unheard still").await;
        let leave = json!({});
        bridge.post(&format!("{V3}/rooms/{room}/leave"), &leave).await.ok();
        say(&alice, &room, "gone").await;
        let join = format!("{V3}/join/{elsewhere}?user_id=@_irc_bob:hearth.test");
        bridge.post(&join, &json!({})).await.ok();
        say(&alice, &elsewhere, "heard there").await;
        service.wait_for_text("heard there").await;
        assert_eq!(service.texts(), ["heard", "heard there"]);
        let members: Vec<_> = events_of(&service.accepted())
            .iter()
            .filter(|event| event["type"] == "m.room.member")
            .map(|event| (event["state_key"].clone(), event["content"]["membership"].clone()))
            .collect();
        let expect = [
            ("@_irc_bot:hearth.test", "join"), ("@_irc_bob:hearth.test", "invite"),
            ("@_irc_bot:hearth.test", "leave"), ("@_irc_bob:hearth.test", "join"),
        ];
        assert_eq!(members, expect.map(|(user, membership)| (json!(user), json!(membership))));
        assert_eq!(service.bad_tokens(), 0);
        server.stop().await;
    }

    async fn rooms_and_aliases_can_be_claimed(backend: Backend) {
        let service = Service::start().await;
        let mut registration = service.registration();
        registration["namespaces"]["aliases"] = json!([{ "regex": "#open_.*", "exclusive": false }]);
        let file = write_registration(&registration);
        let server = start_with(backend, &file).await;
        let alice = server.register("alice").await;
        // What comes later in the stream is decided later: when the service has heard of a message
        // in this room, nothing before it is undecided.
        let other = make_room(&[&alice]).await;
        let other_path = format!("{V3}/directory/room/%23open_b:hearth.test");
        alice.put(&other_path, &json!({ "room_id": other })).await.ok();
        let room = make_room(&[&alice]).await;
        say(&alice, &room, "before").await;
        say(&alice, &other, "first mark").await;
        service.wait_for_text("first mark").await;
        let path = format!("{V3}/directory/room/%23open_a:hearth.test");
        alice.put(&path, &json!({ "room_id": room })).await.ok();
        say(&alice, &room, "with").await;
        service.wait_for_text("with").await;
        alice.delete(&path).await.ok();
        say(&alice, &room, "after").await;
        say(&alice, &other, "second mark").await;
        service.wait_for_text("second mark").await;
        alice.put(&path, &json!({ "room_id": room })).await.ok();
        say(&alice, &room, "again").await;
        service.wait_for_text("again").await;
        assert_eq!(service.texts(), ["first mark", "with", "second mark", "again"]);
        server.stop().await;
    }

    async fn failed_transactions_are_repeated_as_they_were(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let alice = server.register("alice").await;
        let room = bridged_room(&server, &service, &alice).await;
        say(&alice, &room, "0").await;
        service.wait_for_text("0").await;
        service.answer_with(&[500, 502]);
        let texts: Vec<String> = (1..=70).map(|number| number.to_string()).collect();
        say(&alice, &room, &texts[0]).await;
        let refused = service.wait_for_refusal().await;
        for text in &texts[1..] {
            say(&alice, &room, text).await;
        }
        service.wait_for_text("70").await;
        let accepted = service.accepted();
        let again: Vec<_> = accepted.iter().filter(|(path, _)| *path == refused.0).collect();
        assert_eq!(again, [&refused], "what was refused comes again as it was");
        let heard = texts_of(&accepted);
        assert_eq!(heard[1..], texts);
        let sizes = accepted.iter().map(|(_, body)| body["events"].as_array().unwrap().len());
        assert!(sizes.max() <= Some(50));
        server.stop().await;
    }

    async fn dead_services_lose_nothing_and_delay_nobody(backend: Backend) {
        let (dead, healthy) = (Service::start().await, Service::start().await);
        let mut second = healthy.registration();
        for (key, value) in [("id", "other"), ("sender_localpart", "_other_bot"), ("as_token", "another token")] {
            second[key] = value.into();
        }
        second["namespaces"]["users"] = json!([]);
        second["namespaces"]["rooms"] = json!([{ "regex": "!.*", "exclusive": false }]);
        let files = [dead.registration_file(), write_registration(&second)];
        let paths = files.each_ref().map(|file| file.path().to_str().unwrap().to_owned());
        let start = || Server::start_with(backend, |config| {
            config.appservices.registrations = paths.to_vec();
        });
        let server = start().await;
        let alice = server.register("alice").await;
        let room = bridged_room(&server, &dead, &alice).await;
        dead.fail(true);
        let texts: Vec<String> = (0..120).map(|number| number.to_string()).collect();
        for text in &texts[..60] {
            say(&alice, &room, text).await;
        }
        healthy.wait_for_text("59").await;
        assert!(dead.texts().is_empty());
        server.kill().await;
        let server = start().await;
        let alice = server.reconnect(&alice);
        for text in &texts[60..] {
            say(&alice, &room, text).await;
        }
        healthy.wait_for_text("119").await;
        assert_eq!(healthy.texts(), texts);
        dead.fail(false);
        // It says itself that it is back, so that nothing has to be waited for.
        dead.set_page("/_matrix/app/v1/ping", 200, json!({}));
        let bridge = dead.client(&server);
        bridge.post("/_matrix/client/v1/appservice/irc/ping", &json!({})).await.ok();
        dead.wait_for_text("119").await;
        assert_eq!(dead.texts(), texts);
        server.stop().await;
    }

    async fn administrators_hear_of_services_that_are_gone_for_days(backend: Backend) {
        let service = Service::start().await;
        let path = service.registration_file();
        let clock = Clock::scripted(1_700_000_000_000, 11);
        let server = Server::start_at(backend, clock.clone(), |config| {
            config.appservices.registrations = vec![path.path().to_str().unwrap().to_owned()];
            config.rate_limits.enabled = false;
        })
        .await;
        let alice = server.register("alice").await;
        let user_id = alice.user_id.as_str().try_into().unwrap();
        let flag = hearth::accounts::flags::AccountFlags::ADMIN;
        server.app.accounts.set_flag(user_id, flag, true).await.unwrap();
        let room = bridged_room(&server, &service, &alice).await;
        let status = async || server.app.appservices.list_statuses().await.unwrap().remove(0);
        service.fail(true);
        say(&alice, &room, "while it is away").await;
        service.wait_for_refusal().await;
        let since = next_batch(&sync(&alice, None).await);
        clock.advance_ms(3 * 24 * 60 * 60 * 1000);
        let invited = |answer: &Value| {
            Some(answer["rooms"]["invite"].as_object()?.keys().next()?.clone())
        };
        let (notices, since) = wait_for(&alice, &since, invited).await;
        alice.post(&format!("{V3}/join/{notices}"), &json!({})).await.ok();
        let said = |answer: &Value| {
            let events = answer["rooms"]["join"][&notices]["timeline"]["events"].as_array()?.clone();
            events.iter().find_map(|e| Some(e["content"]["body"].as_str()?.to_owned()))
        };
        let (text, _) = wait_for(&alice, &since, said).await;
        assert!(text.contains("\"irc\" has taken nothing for 3 days"), "{text}");
        let gone = status().await;
        assert!(gone.behind > 0 && gone.failing_since_ts.is_some(), "{gone:?}");
        // Back, it gets all that it missed.
        service.fail(false);
        service.set_page("/_matrix/app/v1/ping", 200, json!({}));
        let bridge = service.client(&server);
        bridge.post("/_matrix/client/v1/appservice/irc/ping", &json!({})).await.ok();
        service.wait_for_text("while it is away").await;
        server.stop().await;
    }

    async fn nothing_is_lost_or_doubled_over_kills(backend: Backend) {
        let service = Service::start().await;
        let file = service.registration_file();
        let mut server = start_with(backend, &file).await;
        let mut alice = server.register("alice").await;
        let room = bridged_room(&server, &service, &alice).await;
        let mut expect = Vec::new();
        for round in 0..4 {
            for number in 0..20 {
                let text = format!("{round}.{number}");
                say(&alice, &room, &text).await;
                expect.push(text);
            }
            server.kill().await;
            server = start_with(backend, &file).await;
            alice = server.reconnect(&alice);
        }
        service.wait_for_text("3.19").await;
        assert_eq!(service.texts(), expect);
        server.stop().await;
    }

    async fn what_passes_is_told_to_who_wants_it(backend: Backend) {
        let service = Service::start().await;
        let server = start_with(backend, &service.registration_file()).await;
        let alice = server.register("alice").await;
        let room = bridged_room(&server, &service, &alice).await;
        let event = say(&alice, &room, "x").await;
        let find = |kind: &'static str| {
            let room = room.clone();
            move |accepted: &[(String, Value)]| {
                let mut bodies = accepted.iter().rev().map(|(_, body)| body);
                let of_kind = |event: &&Value| {
                    event["type"] == kind && (kind == "m.presence" || event["room_id"] == room)
                };
                bodies.find_map(|body| body["ephemeral"].as_array()?.iter().find(of_kind).cloned())
            }
        };
        let typing = format!("{V3}/rooms/{room}/typing/{}", alice.user_id);
        alice.put(&typing, &json!({ "typing": true, "timeout": 60_000 })).await.ok();
        let told = service.wait_for(find("m.typing")).await;
        assert_eq!(told["content"]["user_ids"], json!([alice.user_id]));
        alice.put(&typing, &json!({ "typing": false })).await.ok();
        let ended = find("m.typing");
        service.wait_for(|accepted| ended(accepted).filter(|e| e["content"]["user_ids"] == json!([]))).await;
        let bridge = service.client(&server);
        // Its own private receipts are the service's business, those of others are not.
        let path = format!("{V3}/rooms/{room}/receipt/m.read.private/{event}");
        alice.post(&path, &json!({})).await.ok();
        bridge.post(&path, &json!({})).await.ok();
        let private = service.wait_for(find("m.receipt")).await;
        let readers = private["content"][&event]["m.read.private"].as_object().unwrap();
        assert_eq!(readers.keys().collect::<Vec<_>>(), ["@_irc_bot:hearth.test"]);
        read(&alice, &room, &event).await;
        let receipts = find("m.receipt");
        service.wait_for(|accepted| {
            receipts(accepted).filter(|e| e["content"][&event]["m.read"][&alice.user_id].is_object())
        })
        .await;
        let presence = format!("{V3}/presence/{}/status", alice.user_id);
        alice.put(&presence, &json!({ "presence": "online", "status_msg": "here" })).await.ok();
        let present = find("m.presence");
        let told = service.wait_for(|accepted| {
            present(accepted).filter(|e| e["content"]["status_msg"] == "here")
        })
        .await;
        assert_eq!(told["sender"], alice.user_id);
        server.stop().await;
    }

    async fn services_come_and_go_while_the_server_runs(backend: Backend) {
        let service = Service::start().await;
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bridge = service.client(&server);
        let whoami = format!("{V3}/account/whoami");
        bridge.get(&whoami).await.error(401, "M_UNKNOWN_TOKEN");
        let registration = service.registration().to_string();
        server.app.appservices.add(&registration).await.unwrap();
        let error = server.app.appservices.add(&registration).await.unwrap_err().to_string();
        assert!(error.contains("`id`"), "{error}");
        let room = bridged_room(&server, &service, &alice).await;
        say(&alice, &room, "one").await;
        service.wait_for_text("one").await;
        server.stop().await;
        // It is kept in the database.
        let server = Server::start(backend).await;
        let (alice, bridge) = (server.reconnect(&alice), service.client(&server));
        say(&alice, &room, "two").await;
        service.wait_for_text("two").await;
        server.app.appservices.remove("irc").await.unwrap();
        bridge.get(&whoami).await.error(401, "M_UNKNOWN_TOKEN");
        say(&alice, &room, "three").await;
        server.app.appservices.add(&registration).await.unwrap();
        bridge.get(&whoami).await.ok();
        say(&alice, &room, "four").await;
        service.wait_for_text("four").await;
        assert_eq!(service.texts(), ["one", "two", "four"]);
        server.stop().await;
    }
}
