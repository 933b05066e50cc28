//! Who may join, invite, kick, ban, unban and knock, and what becomes of memberships.

use serde_json::json;

use crate::{
    both_databases,
    harness::Server,
    rooms::{V3, act, content_of, create_room, join, set_state, state_of},
};

both_databases! {
    async fn memberships_follow_the_matrix_of_permissions(backend: Backend) {
        let server = Server::start(backend).await;
        let admin = server.register("admin").await;
        let user = server.register("user").await;
        let target = server.register("target").await;
        let stranger = server.register("stranger").await;
        let room = create_room(&admin, json!({ "preset": "public_chat" })).await;
        join(&user, &room).await.ok();
        let body = json!({ "user_id": target.user_id, "reason": "because" });
        // Who, does what, with which outcome.
        for (who, action, status, errcode) in [
            (&stranger, "invite", 403, "M_FORBIDDEN"),
            (&user, "invite", 403, "M_FORBIDDEN"),
            (&admin, "kick", 403, "M_FORBIDDEN"),
            (&admin, "unban", 403, "M_BAD_STATE"),
            (&admin, "invite", 200, ""),
            (&admin, "invite", 200, ""),
            (&target, "join", 200, ""),
            (&target, "join", 200, ""),
            (&admin, "invite", 403, "M_FORBIDDEN"),
            (&stranger, "kick", 403, "M_FORBIDDEN"),
            (&user, "kick", 403, "M_FORBIDDEN"),
            (&user, "ban", 403, "M_FORBIDDEN"),
            (&admin, "kick", 200, ""),
            (&admin, "kick", 403, "M_FORBIDDEN"),
            (&target, "leave", 200, ""),
            (&target, "join", 200, ""),
            (&admin, "ban", 200, ""),
            (&target, "join", 403, "M_FORBIDDEN"),
            (&admin, "invite", 403, "M_FORBIDDEN"),
            (&admin, "kick", 403, "M_FORBIDDEN"),
            (&user, "unban", 403, "M_FORBIDDEN"),
            (&admin, "unban", 200, ""),
            (&admin, "unban", 403, "M_BAD_STATE"),
            (&target, "join", 200, ""),
            (&target, "leave", 200, ""),
            (&stranger, "leave", 403, "M_FORBIDDEN"),
        ] {
            let answer = act(who, &room, action, body.clone()).await;
            let found = (answer.status.as_u16(), answer.body["errcode"].as_str().unwrap_or(""));
            assert_eq!(found, (status, errcode), "{} {action}: {answer:?}", who.user_id);
        }
        let member = content_of(&admin, &room, "m.room.member", &target.user_id).await;
        assert_eq!(member["membership"], "leave");
    }

    async fn knocks_are_taken_where_the_room_takes_them(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let knock = async |room: &str| {
            bob.post(&format!("{V3}/knock/{room}"), &json!({ "reason": "please" })).await
        };
        let closed = create_room(&alice, json!({})).await;
        knock(&closed).await.error(403, "M_FORBIDDEN");
        knock("!unknown:hearth.test").await.error(404, "M_NOT_FOUND");
        knock("nonsense").await.error(400, "M_INVALID_PARAM");
        let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
        let room = create_room(&alice, json!({ "initial_state": [rules] })).await;
        assert_eq!(knock(&room).await.ok()["room_id"], room.as_str());
        knock(&room).await.ok();
        let member = content_of(&alice, &room, "m.room.member", &bob.user_id).await;
        assert_eq!((&member["membership"], &member["reason"]), (&json!("knock"), &json!("please")));
        act(&bob, &room, "leave", json!({})).await.ok();
        knock(&room).await.ok();
        act(&alice, &room, "invite", json!({ "user_id": bob.user_id })).await.ok();
        knock(&room).await.error(403, "M_FORBIDDEN");
        join(&bob, &room).await.ok();
    }

    async fn restricted_rooms_let_members_of_other_rooms_in(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let club = create_room(&alice, json!({ "preset": "public_chat" })).await;
        for (version, join_rule) in
            [("8", "restricted"), ("11", "restricted"), ("12", "knock_restricted")]
        {
            let rules = json!({
                "join_rule": join_rule,
                "allow": [{ "type": "m.room_membership", "room_id": club }],
            });
            let state = json!([{ "type": "m.room.join_rules", "content": rules }]);
            let room =
                create_room(&alice, json!({ "room_version": version, "initial_state": state }));
            let room = room.await;
            join(&bob, &room).await.error(403, "M_FORBIDDEN");
            join(&bob, &club).await.ok();
            join(&bob, &room).await.ok();
            let member = content_of(&bob, &room, "m.room.member", &bob.user_id).await;
            assert_eq!(member["join_authorised_via_users_server"], alice.user_id.as_str());
            act(&bob, &club, "leave", json!({})).await.ok();
        }
    }

    async fn names_and_pictures_go_into_member_events(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let path = format!("{V3}/profile/{}/displayname", bob.user_id);
        bob.put(&path, &json!({ "displayname": "Bob!" })).await.ok();
        let room = create_room(&alice, json!({ "invite": [bob.user_id] })).await;
        let member = content_of(&alice, &room, "m.room.member", &bob.user_id).await;
        assert_eq!(member["displayname"], "Bob!");
        act(&bob, &room, "join", json!({ "reason": "hello" })).await.ok();
        let member = content_of(&alice, &room, "m.room.member", &bob.user_id).await;
        assert_eq!((&member["displayname"], &member["reason"]), (&json!("Bob!"), &json!("hello")));
        let joined = alice.get(&format!("{V3}/rooms/{room}/joined_members")).await.ok();
        assert_eq!(joined["joined"][&bob.user_id]["display_name"], "Bob!");
    }

    async fn rooms_are_forgotten_only_after_leaving(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        join(&bob, &room).await.ok();
        act(&bob, &room, "forget", json!({})).await.error(400, "M_UNKNOWN");
        act(&bob, &room, "leave", json!({})).await.ok();
        assert!(!state_of(&bob, &room).await.is_empty());
        act(&bob, &room, "forget", json!({})).await.ok();
        act(&bob, &room, "forget", json!({})).await.ok();
        let path = format!("{V3}/rooms/{room}/messages?dir=b");
        bob.get(&path).await.error(403, "M_FORBIDDEN");
        join(&bob, &room).await.ok();
        bob.get(&path).await.ok();
    }

    async fn invitations_can_be_rejected_and_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let room = create_room(&alice, json!({ "invite": [bob.user_id] })).await;
        act(&bob, &room, "leave", json!({})).await.ok();
        join(&bob, &room).await.error(403, "M_FORBIDDEN");
        let path =
            format!("{V3}/user/{}/account_data/m.invite_permission_config", bob.user_id);
        bob.put(&path, &json!({ "default_action": "block" })).await.ok();
        let invite = json!({ "user_id": bob.user_id });
        act(&alice, &room, "invite", invite.clone()).await.error(403, "M_INVITE_BLOCKED");
        let member = format!("m.room.member/{}", bob.user_id);
        let content = json!({ "membership": "invite" });
        set_state(&alice, &room, &member, content).await.error(403, "M_INVITE_BLOCKED");
        bob.put(&path, &json!({})).await.ok();
        act(&alice, &room, "invite", invite).await.ok();
        act(&alice, &room, "invite", json!({})).await.error(400, "M_BAD_JSON");
        let email = json!({ "medium": "email", "address": "a@b.c", "id_server": "x" });
        act(&alice, &room, "invite", email).await.error(403, "M_SERVER_NOT_TRUSTED");
    }

    async fn guests_leave_rooms_that_take_them_no_more(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let mut guest = server.client();
        let answer = guest.post(&format!("{V3}/register?kind=guest"), &json!({})).await.ok();
        guest.take_login(&answer);
        let room = create_room(&alice, json!({ "preset": "public_chat" })).await;
        join(&bob, &room).await.ok();
        join(&guest, &room).await.error(403, "M_GUEST_ACCESS_FORBIDDEN");
        let access = |access: &str| json!({ "guest_access": access });
        set_state(&alice, &room, "m.room.guest_access", access("can_join")).await.ok();
        join(&guest, &room).await.ok();
        set_state(&alice, &room, "m.room.guest_access", access("forbidden")).await.ok();
        let joined = format!("{V3}/rooms/{room}/joined_members");
        // The job runs on its own; nothing tells when it is done but the state.
        loop {
            let members = alice.get(&joined).await.ok();
            if members["joined"].as_object().unwrap().len() == 2 {
                break;
            }
            tokio::task::yield_now().await;
        }
        let member = content_of(&alice, &room, "m.room.member", &guest.user_id).await;
        assert_eq!(member["membership"], "leave");
    }
}
