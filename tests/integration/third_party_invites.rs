//! Identity servers: publishing addresses, and invitations to addresses (client-server API, "Third-party
//! invites"; server-server API, the same).

use hearth::config::Config;
use serde_json::{Value, json};

use super::federation::{create, join};
use crate::{
    both_databases,
    harness::{Answer, Backend, Client, IdentityServer, Network, Server},
    two_servers,
};

const V3: &str = "/_matrix/client/v3";
const BOB: &str = "bob@example.org";

/// A server with a user, and the identity server that it trusts.
async fn start(backend: &Backend) -> (Server, Client, IdentityServer, Network) {
    let network = Network::new();
    let identity = IdentityServer::start(&network).await;
    let name = network.new_name();
    let server = network.start_with(backend, &name, |config| trust(config, &identity)).await;
    let alice = server.register("alice").await;
    (server, alice, identity, network)
}

fn trust(config: &mut Config, identity: &IdentityServer) {
    config.identity_servers.trusted = vec![identity.name.clone()];
}

async fn invite(client: &Client, room: &str, body: &Value) -> Answer {
    client.post(&format!("{V3}/rooms/{room}/invite"), body).await
}

async fn membership(client: &Client, room: &str, user: &str) -> Value {
    let path = format!("{V3}/rooms/{room}/state/m.room.member/{user}");
    client.get(&path).await.body["membership"].clone()
}

/// The token of the invitation that waits in the room.
async fn waiting(client: &Client, room: &str) -> String {
    let state = client.get(&format!("{V3}/rooms/{room}/state")).await.ok();
    let mut events = state.as_array().unwrap().iter();
    let event = events.find(|event| event["type"] == "m.room.third_party_invite").unwrap();
    assert_eq!(event["content"]["display_name"], "b...@e...");
    assert!(!event.to_string().contains(BOB));
    event["state_key"].as_str().unwrap().to_owned()
}

/// What an identity server says when an address has become somebody's.
fn bound(room: &str, sender: &Client, user: &Client, signed: &Value) -> Value {
    json!({
        "medium": "email",
        "address": BOB,
        "mxid": user.user_id,
        "invites": [{
            "medium": "email",
            "address": BOB,
            "mxid": user.user_id,
            "room_id": room,
            "sender": sender.user_id,
            "signed": signed,
        }],
    })
}

async fn on_bind(server: &Server, body: &Value) -> Answer {
    server.client().put("/_matrix/federation/v1/3pid/onbind", body).await
}

both_databases! {
    async fn address_of_a_user_invites_the_user(backend: Backend) {
        let (server, alice, identity, _network) = start(backend).await;
        let bob = server.register("bob").await;
        identity.bind(BOB, &bob.user_id);
        let room = create(&alice, json!({})).await;
        invite(&alice, &room, &identity.invitation("Bob@Example.org")).await.ok();
        assert_eq!(membership(&alice, &room, &bob.user_id).await, "invite");
        let body = json!({ "invite_3pid": [identity.invitation(BOB)], "is_direct": true });
        let room = create(&alice, body).await;
        assert_eq!(membership(&alice, &room, &bob.user_id).await, "invite");
    }

    async fn invitation_waits_until_the_address_is_somebodys(backend: Backend) {
        let (server, alice, identity, _network) = start(backend).await;
        let bob = server.register("bob").await;
        let room = create(&alice, json!({ "name": "Waiting" })).await;
        invite(&alice, &room, &identity.invitation(BOB)).await.ok();
        let token = waiting(&alice, &room).await;
        let good = identity.sign(&bob.user_id, &token);

        // Nothing but the right signature for the right user does it.
        let eve = server.register("eve").await;
        on_bind(&server, &bound(&room, &alice, &eve, &good)).await.ok();
        let mut forged = good.clone();
        forged["mxid"] = eve.user_id.clone().into();
        on_bind(&server, &bound(&room, &alice, &eve, &forged)).await.ok();
        on_bind(&server, &bound(&room, &bob, &bob, &good)).await.ok();
        assert_eq!(membership(&alice, &room, &eve.user_id).await, Value::Null);
        assert_eq!(membership(&alice, &room, &bob.user_id).await, Value::Null);

        on_bind(&server, &bound(&room, &alice, &bob, &good)).await.ok();
        assert_eq!(membership(&alice, &room, &bob.user_id).await, "invite");
        on_bind(&server, &bound(&room, &alice, &bob, &good)).await.ok();
        join(&bob, &room, "x.test").await;
        assert_eq!(membership(&alice, &room, &bob.user_id).await, "join");
    }

    async fn invitation_whose_key_was_revoked_leads_nowhere(backend: Backend) {
        let (server, alice, identity, _network) = start(backend).await;
        let bob = server.register("bob").await;
        let room = create(&alice, json!({})).await;
        invite(&alice, &room, &identity.invitation(BOB)).await.ok();
        let signed = identity.sign(&bob.user_id, &waiting(&alice, &room).await);
        identity.revoke_key();
        on_bind(&server, &bound(&room, &alice, &bob, &signed)).await.ok();
        assert_eq!(membership(&alice, &room, &bob.user_id).await, Value::Null);
    }

    async fn identity_server_is_asked_for_those_who_may_invite_only(backend: Backend) {
        let (server, alice, identity, _network) = start(backend).await;
        let bob = server.register("bob").await;
        let levels = json!({ "invite": 50 });
        let body =
            json!({ "preset": "public_chat", "power_level_content_override": levels });
        let room = create(&alice, body).await;
        let invitation = identity.invitation(BOB);
        invite(&bob, &room, &invitation).await.error(403, "M_FORBIDDEN");
        join(&bob, &room, "x.test").await;
        invite(&bob, &room, &invitation).await.error(403, "M_FORBIDDEN");
        let mut elsewhere = invitation.clone();
        elsewhere["id_server"] = "evil.test".into();
        invite(&alice, &room, &elsewhere).await.error(403, "M_SERVER_NOT_TRUSTED");
        let mut nowhere = invitation.clone();
        nowhere["address"] = "nobody".into();
        invite(&alice, &room, &nowhere).await.error(400, "M_INVALID_PARAM");
        assert_eq!(identity.requests(), Vec::<String>::new());
        let mut stranger = invitation;
        stranger["id_access_token"] = "bad".into();
        let refused = invite(&alice, &room, &stranger).await;
        refused.error(401, "M_UNAUTHORIZED");
    }

    async fn published_addresses_are_taken_back(backend: Backend) {
        let (_server, alice, identity, _network) = start(backend).await;
        let mut body = identity.access();
        body["client_secret"] = "secret".into();
        for address in ["a@example.org", "b@example.org", "c@example.org"] {
            body["sid"] = address.into();
            alice.post(&format!("{V3}/account/3pid/bind"), &body).await.ok();
            assert_eq!(identity.find(address).as_ref(), Some(&alice.user_id));
        }
        body["id_server"] = "evil.test".into();
        let untrusted = alice.post(&format!("{V3}/account/3pid/bind"), &body).await;
        untrusted.error(403, "M_SERVER_NOT_TRUSTED");
        let gone = json!({ "medium": "email", "address": "a@example.org" });
        let success = json!({ "id_server_unbind_result": "success" });
        let unbound = alice.post(&format!("{V3}/account/3pid/unbind"), &gone).await.ok();
        assert_eq!(unbound, success);
        assert_eq!(identity.find("a@example.org"), None);
        let unbound = alice.post(&format!("{V3}/account/3pid/unbind"), &gone).await.ok();
        assert_eq!(unbound, json!({ "id_server_unbind_result": "no-support" }));
        let gone = json!({ "medium": "email", "address": "b@example.org" });
        assert_eq!(alice.post(&format!("{V3}/account/3pid/delete"), &gone).await.ok(), success);
        let path = format!("{V3}/account/deactivate");
        assert_eq!(alice.post_with_password(&path, &json!({})).await.ok(), success);
        assert_eq!(identity.find("c@example.org"), None);
    }
}

two_servers! {
    async fn invitation_finds_a_user_of_another_server(one: Backend, two: Backend) {
        let network = Network::new();
        let identity = IdentityServer::start(&network).await;
        let (first, second) = (network.new_name(), network.new_name());
        let servers = [
            network.start_with(one, &first, |config| trust(config, &identity)).await,
            network.start_with(two, &second, |config| trust(config, &identity)).await,
        ];
        let alice = servers[0].register("alice").await;
        let bob = servers[1].register("bob").await;
        let room = create(&alice, json!({})).await;
        invite(&alice, &room, &identity.invitation(BOB)).await.ok();
        let signed = identity.sign(&bob.user_id, &waiting(&alice, &room).await);
        on_bind(&servers[1], &bound(&room, &alice, &bob, &signed)).await.ok();
        assert_eq!(membership(&alice, &room, &bob.user_id).await, "invite");
        let invites = bob.get(&format!("{V3}/sync")).await.ok();
        assert!(invites["rooms"]["invite"][&room].is_object(), "{invites}");
        join(&bob, &room, &first).await;
        assert_eq!(membership(&alice, &room, &bob.user_id).await, "join");
    }
}
