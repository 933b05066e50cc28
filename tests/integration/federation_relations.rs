//! Relations of events that one of two servers lacks (MSC2836).

use serde_json::{Value, json};

use crate::{
    conversation::{say, send},
    federation::{create, join, start_pair},
    harness::Client,
    two_servers,
};

const PATH: &str = "/_matrix/client/unstable/event_relationships";

/// Says something that points at an event.
async fn point_at(client: &Client, room: &str, target: &str, text: &str) -> String {
    let relationship = json!({ "rel_type": "m.reference", "event_id": target });
    let content = json!({ "msgtype": "m.text", "body": text, "m.relationship": relationship });
    send(client, room, &content).await
}

fn ids(answer: &Value) -> Vec<&str> {
    let events = answer["events"].as_array().unwrap();
    events.iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

two_servers! {
    async fn relations_are_asked_for_where_they_are_known(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let room = create(alice, json!({ "preset": "public_chat" })).await;
        let first = say(alice, &room, "first").await;
        let second = point_at(alice, &room, &first, "second").await;
        let third = point_at(alice, &room, &second, "third").await;
        let fourth = point_at(alice, &room, &second, "fourth").await;
        join(bob, &room, &pair.names[0]).await;
        // What this server has never seen is known elsewhere, with its parent and that one's children.
        let body = json!({
            "event_id": fourth, "room_id": room, "direction": "down", "include_parent": true,
        });
        let answer = bob.post(PATH, &body).await.ok();
        assert_eq!(ids(&answer), [&fourth, &second]);
        let children = &answer["events"][1]["unsigned"]["children"];
        assert_eq!(*children, json!({ "m.reference": 2 }));
        let body = json!({
            "event_id": second, "room_id": room, "direction": "down", "include_parent": true,
            "recent_first": false,
        });
        let answer = bob.post(PATH, &body).await.ok();
        assert_eq!(ids(&answer), [&second, &first, &third, &fourth]);
        assert_eq!(answer["limited"], false);
        // Both servers count alike.
        let theirs = alice.post(PATH, &body).await.ok();
        for (ours, theirs) in
            answer["events"].as_array().unwrap().iter().zip(theirs["events"].as_array().unwrap())
        {
            assert_eq!(ours["unsigned"]["children_hash"], theirs["unsigned"]["children_hash"]);
        }
        // What nobody knows is not found.
        let body = json!({ "event_id": format!("${:0>43}", 1), "room_id": room });
        bob.post(PATH, &body).await.error(404, "M_NOT_FOUND");
    }
}
