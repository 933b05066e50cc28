//! Entering rooms through other servers, over TLS: with and without the list of members, through a server
//! that can let somebody in, and what becomes of it when the first server is gone.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    conversation::say,
    federation::{await_membership, create, join, start_pair, state_of},
    graph_room,
    harness::{Backend, Client, Network, Server},
    two_servers,
};

async fn joined_members(client: &Client, room_id: &str) -> usize {
    let path = format!("/_matrix/client/v3/rooms/{room_id}/joined_members");
    client.get(&path).await.ok()["joined"].as_object().unwrap().len()
}

/// A public room on the server of `alice` with so many members.
async fn crowd(server: &Server, alice: &Client, members: usize) -> String {
    let room = create(alice, json!({ "preset": "public_chat", "name": "Crowd" })).await;
    for number in 1..members {
        let member = server.register(&format!("member{number}")).await;
        let path = format!("/_matrix/client/v3/join/{room}");
        member.post(&path, &json!({})).await.ok();
    }
    room
}

two_servers! {
    async fn rooms_are_entered_without_their_members_and_become_whole(
        one: Backend,
        two: Backend
    ) {
        let pair = start_pair(one, two).await;
        let room = crowd(&pair.servers[0], &pair.alice, 6).await;
        join(&pair.bob, &room, &pair.names[0]).await;
        await_membership(&pair.alice, &room, &pair.bob.user_id, "join").await;
        assert_eq!(joined_members(&pair.bob, &room).await, 7);
        assert_eq!(state_of(&pair.alice, &room).await, state_of(&pair.bob, &room).await);
        // Back again after leaving.
        let leave = format!("/_matrix/client/v3/rooms/{room}/leave");
        pair.bob.post(&leave, &json!({})).await.ok();
        await_membership(&pair.alice, &room, &pair.bob.user_id, "leave").await;
        join(&pair.bob, &room, &pair.names[0]).await;
        assert_eq!(joined_members(&pair.bob, &room).await, 7);
    }

    async fn rooms_are_entered_with_all_members_where_that_is_wanted(one: Backend, two: Backend) {
        let network = Network::new();
        let names = [network.new_name(), network.new_name()];
        let first = network.start(one, &names[0]).await;
        let second = network.start_with(two, &names[1], |config| {
            config.federation.partial_state_joins = false;
        });
        let second = second.await;
        let (alice, bob) = (first.register("alice").await, second.register("bob").await);
        let room = crowd(&first, &alice, 4).await;
        join(&bob, &room, &names[0]).await;
        assert!(second.app.rooms.list_partial().await.unwrap().is_empty());
        assert_eq!(joined_members(&bob, &room).await, 5);
    }

    async fn a_room_becomes_whole_after_a_restart_through_another_server(
        one: Backend,
        two: Backend
    ) {
        let network = Network::new();
        let names = [network.new_name(), network.new_name(), network.new_name()];
        let first = network.start(one, &names[0]).await;
        let third_backend = Backend::sqlite();
        let third = network.start(&third_backend, &names[2]).await;
        let (alice, carol) = (first.register("alice").await, third.register("carol").await);
        let room = crowd(&first, &alice, 3).await;
        join(&carol, &room, &names[0]).await;
        assert_eq!(joined_members(&carol, &room).await, 4);

        let second = network.start(two, &names[1]).await;
        let bob = second.register("bob").await;
        // Nobody tells anything for now.
        second.app.rooms.set_event_source(Arc::new(graph_room::Network::default()));
        join(&bob, &room, &names[0]).await;
        await_membership(&carol, &room, &bob.user_id, "join").await;
        assert_eq!(second.app.rooms.list_partial().await.unwrap().len(), 1);
        let eager = bob.get("/_matrix/client/v3/sync?timeout=0").await.ok();
        assert!(eager["rooms"]["join"][&room].is_null(), "{eager}");
        say(&bob, &room, "I am here").await;
        second.stop().await;
        first.stop().await;

        let second = network.start(two, &names[1]).await;
        let bob = second.reconnect(&bob);
        assert_eq!(joined_members(&bob, &room).await, 5);
        let eager = bob.get("/_matrix/client/v3/sync?timeout=0").await.ok();
        assert!(eager["rooms"]["join"][&room].is_object(), "{eager}");
        assert!(second.app.rooms.list_partial().await.unwrap().is_empty());
        third.stop().await;
        second.stop().await;
    }

    async fn who_may_not_be_let_in_here_is_let_in_elsewhere(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let carol = pair.servers[1].register("carol").await;
        let space = create(alice, json!({
            "preset": "public_chat", "creation_content": { "type": "m.space" },
        }))
        .await;
        join(bob, &space, &pair.names[0]).await;
        let rules = json!({
            "join_rule": "restricted",
            "allow": [{ "type": "m.room_membership", "room_id": space }],
        });
        let room = create(alice, json!({
            "preset": "private_chat",
            "power_level_content_override": { "invite": 50 },
            "initial_state": [{ "type": "m.room.join_rules", "state_key": "", "content": rules }],
        }))
        .await;
        let body = json!({ "user_id": carol.user_id });
        alice.post(&format!("/_matrix/client/v3/rooms/{room}/invite"), &body).await.ok();
        join(&carol, &room, &pair.names[0]).await;
        assert_eq!(joined_members(&carol, &room).await, 2);
        // Carol's server is in the room, but she has no power to let anybody in.
        await_membership(alice, &room, &carol.user_id, "join").await;
        await_membership(alice, &space, &bob.user_id, "join").await;
        join(bob, &room, &pair.names[0]).await;
        await_membership(alice, &room, &bob.user_id, "join").await;
        assert_eq!(joined_members(bob, &room).await, 3);
        assert_eq!(state_of(alice, &room).await, state_of(bob, &room).await);
    }

    async fn rooms_of_other_servers_are_shown_in_the_tree_of_a_space(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let open = create(alice, json!({ "preset": "public_chat", "name": "Open" })).await;
        let secret = create(alice, json!({ "preset": "private_chat", "name": "Secret" })).await;
        let body = |name: &str| {
            json!({
                "preset": "public_chat", "name": name, "creation_content": { "type": "m.space" },
            })
        };
        let inner = create(alice, body("Inner")).await;
        let outer = create(alice, body("Outer")).await;
        for (space, child) in [(&outer, &inner), (&inner, &open), (&inner, &secret)] {
            let path = format!("/_matrix/client/v3/rooms/{space}/state/m.space.child/{child}");
            alice.put(&path, &json!({ "via": [pair.names[0]] })).await.ok();
        }
        join(bob, &outer, &pair.names[0]).await;
        let path = format!("/_matrix/client/v1/rooms/{outer}/hierarchy");
        let answer = bob.get(&path).await.ok();
        let names: Vec<_> = answer["rooms"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|room| room["name"].as_str())
            .collect();
        assert_eq!(names, ["Outer", "Inner", "Open"], "{answer}");
        assert_eq!(answer["rooms"][1]["children_state"].as_array().map(Vec::len), Some(2));
        let shallow = bob.get(&format!("{path}?max_depth=1")).await.ok();
        assert_eq!(shallow["rooms"].as_array().map(Vec::len), Some(2), "{shallow}");
    }

    async fn rooms_of_other_servers_are_summed_up(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let body = json!({ "preset": "public_chat", "name": "Den", "room_alias_name": "den" });
        let room = create(alice, body).await;
        let secret = create(alice, json!({})).await;
        let summary = |name: &str| format!("/_matrix/client/v1/room_summary/{name}");
        let via = format!("?via={}", pair.names[0]);
        bob.get(&summary(&room)).await.error(404, "M_NOT_FOUND");
        let alias = format!("%23den:{}", pair.names[0]);
        for path in [summary(&room) + &via, summary(&alias)] {
            let told = bob.get(&path).await.ok();
            let seen = (&told["room_id"], &told["name"], &told["membership"]);
            assert_eq!(seen, (&json!(room), &json!("Den"), &json!("leave")), "{told}");
            assert_eq!(told["num_joined_members"], 1);
            assert!(told.get("children_state").is_none(), "{told}");
        }
        bob.get(&(summary(&secret) + &via)).await.error(404, "M_NOT_FOUND");
        // Other servers are asked for those only who are logged in.
        let nobody = pair.servers[1].client();
        nobody.get(&(summary(&room) + &via)).await.error(404, "M_NOT_FOUND");
        join(bob, &room, &pair.names[0]).await;
        assert_eq!(bob.get(&summary(&room)).await.ok()["membership"], "join");
    }

    async fn users_of_other_servers_are_found_by_those_who_share_a_room(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let eve = pair.servers[0].register("eve").await;
        let find = async |client: &Client, term: &str| {
            let body = json!({ "search_term": term });
            client.post("/_matrix/client/v3/user_directory/search", &body).await.ok()["results"].clone()
        };
        let room = create(alice, json!({ "invite": [bob.user_id] })).await;
        assert_eq!(find(alice, "bob").await, json!([]));
        join(bob, &room, &pair.names[0]).await;
        await_membership(alice, &room, &bob.user_id, "join").await;
        let expect = json!([{ "user_id": bob.user_id, "display_name": "bob" }]);
        for term in ["bob", "BO", &bob.user_id] {
            assert_eq!(find(alice, term).await, expect, "{term}");
        }
        // What else stands in the event of their membership is no name of theirs.
        assert_eq!(find(alice, "membership").await, json!([]));
        assert_eq!(find(&eve, "bob").await, json!([]));
        // Who else is in the room is known a little later than the room itself.
        assert_eq!(joined_members(bob, &room).await, 2);
        let ours = json!([{ "user_id": alice.user_id, "display_name": "alice" }]);
        assert_eq!(find(bob, "alice").await, ours);
    }

    async fn nobody_is_invited_to_a_blocked_room_from_elsewhere(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let room = create(alice, json!({})).await;
        let rooms = &pair.servers[1].app.rooms;
        let id: &ruma::RoomId = room.as_str().try_into().unwrap();
        rooms.close(id, bob.user_id.as_str().try_into().unwrap()).await.unwrap();
        let invite = format!("/_matrix/client/v3/rooms/{room}/invite");
        let body = json!({ "user_id": bob.user_id });
        alice.post(&invite, &body).await.error(403, "M_FORBIDDEN");
        rooms.reopen(id).await.unwrap();
        alice.post(&invite, &body).await.ok();
    }

    async fn who_joins_later_does_not_get_what_an_erased_user_said(one: Backend, two: Backend) {
        let pair = start_pair(one, two).await;
        let (alice, bob) = (&pair.alice, &pair.bob);
        let eve = pair.servers[0].register("eve").await;
        let room = create(alice, json!({ "preset": "public_chat" })).await;
        join(&eve, &room, &pair.names[0]).await;
        say(&eve, &room, "forget me").await;
        let path = "/_matrix/client/v3/account/deactivate";
        eve.post_with_password(path, &json!({ "erase": true })).await.ok();
        await_membership(alice, &room, &eve.user_id, "leave").await;
        join(bob, &room, &pair.names[0]).await;
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=50");
        let page = bob.get(&path).await.ok();
        let said: Vec<&Value> = page["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["type"] == "m.room.message")
            .collect();
        assert_eq!(said.len(), 1, "{page}");
        assert_eq!(said[0]["content"], json!({}));
    }
}
