//! Mentions by names in texts, as version 1.16 of the specification had them (Client-Server API, "Predefined
//! Rules", removed with version 1.17), where the configuration wants them.

use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, next_batch, register, say, send, sync, wait_for},
    counts::counts,
    harness::{Backend, Client, Server},
};

const RULES: &str = "/_matrix/client/v3/pushrules/global";

async fn start(backend: &Backend) -> Server {
    Server::start_with(backend, |config| config.push.legacy_mentions = true).await
}

/// The IDs of a user's rules of a kind.
async fn rules(client: &Client, kind: &str) -> Vec<String> {
    let all = client.get(&format!("{RULES}/")).await.ok();
    let rules = all[kind].as_array().unwrap().iter();
    rules.map(|rule| rule["rule_id"].as_str().unwrap().to_owned()).collect()
}

/// Changes the name of a user, and waits until the room knows.
async fn rename(client: &Client, room: &str, name: &str) {
    let since = next_batch(&sync(client, None).await);
    let path = format!("/_matrix/client/v3/profile/{}/displayname", client.user_id);
    client.put(&path, &json!({ "displayname": name })).await.ok();
    let renamed = |answer: &Value| {
        let events = answer["rooms"]["join"][room]["timeline"]["events"].as_array()?;
        let mut names = events.iter().map(|event| &event["content"]["displayname"]);
        names.any(|found| found == name).then_some(())
    };
    wait_for(client, &since, renamed).await;
}

both_databases! {
    async fn names_in_texts_highlight_where_that_is_wanted(backend: Backend) {
        let server = start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        say(alice, &room, "Hello Bob!").await;
        assert_eq!((counts(bob, &room).await, counts(carol, &room).await), ((1, 1), (1, 0)));
        say(alice, &room, &format!("Thread response {}!", carol.user_id)).await;
        say(alice, &room, "bobsleigh").await;
        assert_eq!((counts(bob, &room).await, counts(carol, &room).await), ((3, 1), (3, 1)));
        // An event that says whom it means means nobody else.
        let nobody = json!({ "msgtype": "m.text", "body": "bob", "m.mentions": {} });
        send(alice, &room, &nobody).await;
        assert_eq!(counts(bob, &room).await, (4, 1));
        rename(bob, &room, "The Builder").await;
        say(alice, &room, "so, the builder it is").await;
        say(alice, &room, "a builder").await;
        assert_eq!((counts(bob, &room).await, counts(carol, &room).await), ((6, 2), (6, 1)));
        let highlights = bob.get("/_matrix/client/v3/notifications?only=highlight").await.ok();
        let highlights = highlights["notifications"].as_array().unwrap();
        let bodies: Vec<_> = highlights.iter().map(|it| &it["event"]["content"]["body"]).collect();
        assert_eq!(bodies, ["so, the builder it is", "Hello Bob!"]);
        server.stop().await;

        let server = start(backend).await;
        let [alice, bob] = [alice, bob].map(|client| server.reconnect(client));
        assert_eq!(counts(&bob, &room).await, (6, 2));
        say(&alice, &room, "The Builder, again").await;
        assert_eq!(counts(&bob, &room).await, (7, 3));
        server.stop().await;
    }

    async fn everybody_is_called_by_those_who_may(backend: Backend) {
        let server = start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        say(alice, &room, "Dinner, @Room!").await;
        assert_eq!(counts(bob, &room).await, (1, 1));
        say(bob, &room, "@room: I have not the power").await;
        assert_eq!(counts(alice, &room).await, (1, 0));
        server.stop().await;
    }

    async fn muted_rooms_tell_of_names_and_rules_for_names_can_be_disabled(backend: Backend) {
        let server = start(backend).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        bob.put(&format!("{RULES}/room/{room}"), &json!({ "actions": [] })).await.ok();
        say(alice, &room, "hush").await;
        say(alice, &room, "bob?").await;
        assert_eq!(counts(bob, &room).await, (1, 1));
        for rule in ["override/.m.rule.contains_display_name", "content/.m.rule.contains_user_name"] {
            let path = format!("{RULES}/{rule}");
            assert_eq!(bob.get(&path).await.ok()["default"], true);
            bob.put(&format!("{path}/enabled"), &json!({ "enabled": false })).await.ok();
        }
        say(alice, &room, "bob!").await;
        assert_eq!(counts(bob, &room).await, (1, 1));
        // With an action of their own it counts, and is no highlight.
        let path = format!("{RULES}/content/.m.rule.contains_user_name");
        bob.put(&format!("{path}/actions"), &json!({ "actions": ["notify"] })).await.ok();
        bob.put(&format!("{path}/enabled"), &json!({ "enabled": true })).await.ok();
        say(alice, &room, "bob, bob, bob").await;
        assert_eq!(counts(bob, &room).await, (2, 1));
        bob.delete(&path).await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }

    async fn the_switch_changes_what_comes_and_not_what_was_counted(backend: Backend) {
        let server = Server::start(backend).await;
        let users = register(&server, ["alice", "bob", "carol"]).await;
        let [alice, bob, carol] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob, carol]).await;
        // Carol has rules of her own, Bob has none.
        carol.put(&format!("{RULES}/room/!other:hearth.test"), &json!({ "actions": [] })).await.ok();
        say(alice, &room, "bob and carol").await;
        say(alice, &room, "@room").await;
        assert_eq!((counts(bob, &room).await, counts(carol, &room).await), ((2, 0), (2, 0)));
        assert_eq!(rules(bob, "content").await, Vec::<String>::new());
        server.stop().await;

        let server = start(backend).await;
        let [alice, bob, carol] = [alice, bob, carol].map(|client| server.reconnect(client));
        assert_eq!((counts(&bob, &room).await, counts(&carol, &room).await), ((2, 0), (2, 0)));
        for client in [&bob, &carol] {
            assert_eq!(rules(client, "content").await, [".m.rule.contains_user_name"]);
            assert!(rules(client, "override").await.contains(&".m.rule.roomnotif".to_owned()));
        }
        say(&alice, &room, "now bob and carol").await;
        assert_eq!((counts(&bob, &room).await, counts(&carol, &room).await), ((3, 1), (3, 1)));
        server.stop().await;

        let server = Server::start(backend).await;
        let [alice, bob, carol] = [&alice, &bob, &carol].map(|client| server.reconnect(client));
        assert_eq!((counts(&bob, &room).await, counts(&carol, &room).await), ((3, 1), (3, 1)));
        say(&alice, &room, "no more bob and carol").await;
        assert_eq!((counts(&bob, &room).await, counts(&carol, &room).await), ((4, 1), (4, 1)));
        assert!(!rules(&carol, "override").await.contains(&".m.rule.roomnotif".to_owned()));
        server.stop().await;
    }
}
