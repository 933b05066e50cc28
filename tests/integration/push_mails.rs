//! Mails about what is unread (client-server API, pushers of kind `email`).

use std::time::Duration;

use hearth::{
    config::Config,
    storage::{
        StorageError,
        third_party_ids::{self, StoredThirdPartyId},
    },
};
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::{make_room, read, register, say},
    harness::{Backend, Client, MailSink, Server},
};

const V3: &str = "/_matrix/client/v3";

async fn start(backend: &Backend, sink: &MailSink, delay: Duration) -> Server {
    start_with_pause(backend, sink, delay, Duration::ZERO).await
}

async fn start_with_pause(
    backend: &Backend,
    sink: &MailSink,
    delay: Duration,
    pause: Duration,
) -> Server {
    Server::start_with(backend, |config: &mut Config| {
        sink.configure(config);
        config.server.public_url = Some("https://matrix.example.org".to_owned());
        config.push.mail_delay = delay;
        config.push.mail_pause = pause;
    })
    .await
}

/// Gives a user a mail address that they have proven.
async fn own_address(server: &Server, client: &Client, address: &str) {
    let id = StoredThirdPartyId {
        medium: "email".to_owned(),
        address: address.to_owned(),
        user_id: client.user_id.clone(),
        validated_ts: 1,
        added_ts: 1,
    };
    let inserted: Result<bool, StorageError> = server
        .app
        .writer
        .transact(move |tx| Box::pin(async move { third_party_ids::insert(tx, &id).await }))
        .await;
    assert!(inserted.unwrap());
}

fn pusher(address: &str) -> Value {
    json!({
        "kind": "email", "app_id": "m.email", "pushkey": address, "lang": "en", "data": {},
        "app_display_name": "Email Notifications", "device_display_name": address,
    })
}

/// Has a user get mails at `bob@example.org`.
async fn want_mails(server: &Server, client: &Client) {
    own_address(server, client, "bob@example.org").await;
    client.post(&format!("{V3}/pushers/set"), &pusher("bob@example.org")).await.ok();
}

both_databases! {
    async fn unread_messages_come_in_one_mail_by_room(backend: Backend) {
        let mut sink = MailSink::start().await;
        let server = start(backend, &sink, Duration::from_secs(2)).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let (one, two) = (make_room(&[alice, bob]).await, make_room(&[alice, bob]).await);
        let name = format!("{V3}/rooms/{one}/state/m.room.name/");
        alice.put(&name, &json!({ "name": "Kitchen <3" })).await.ok();
        want_mails(&server, bob).await;
        let early = say(alice, &two, "read in time").await;
        read(bob, &two, &early).await;
        say(alice, &one, "Tea?").await;
        say(alice, &two, "Are you there?").await;
        say(alice, &one, "It gets cold.").await;
        let mail = sink.next().await;
        assert_eq!(mail.to, "bob@example.org");
        let text = mail.text();
        for part in ["Kitchen <3", "alice: Tea?", "It gets cold.", "Are you there?"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("read in time"), "{text}");
        assert!(text.contains("a conversation with alice"), "{text}");
        assert!(mail.raw.contains("Subject: [hearth.test] 3 unread in 2 rooms"), "{}", mail.raw);
        assert!(mail.html().contains("Kitchen &lt;3"), "{}", mail.html());
        assert!(mail.raw.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click"), "{}", mail.raw);
        // What is told once is not told again.
        say(alice, &one, "Now it is cold.").await;
        let text = sink.next().await.text();
        assert!(text.contains("Now it is cold.") && !text.contains("Tea?"), "{text}");
        server.stop().await;
    }

    async fn mail_waits_for_its_time_over_a_restart(backend: Backend) {
        let mut sink = MailSink::start().await;
        let server = start(backend, &sink, Duration::from_secs(2)).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        want_mails(&server, bob).await;
        say(alice, &room, "before the restart").await;
        server.stop().await;
        let server = start(backend, &sink, Duration::from_secs(2)).await;
        assert!(sink.next().await.text().contains("before the restart"));
        server.stop().await;
    }

    async fn mail_that_comes_twice_is_known_as_one(backend: Backend) {
        let mut sink = MailSink::start().await;
        let server = start(backend, &sink, Duration::from_millis(1)).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        want_mails(&server, bob).await;
        sink.lose_acknowledgements(2);
        say(alice, &room, "one").await;
        let first = sink.next().await;
        let again = sink.next().await;
        assert_eq!(again.message_id(), first.message_id());
        assert_eq!(again.text(), first.text());
        // Over a kill, too.
        server.kill().await;
        let server = start(backend, &sink, Duration::from_millis(1)).await;
        let once_more = sink.next().await;
        assert_eq!(once_more.message_id(), first.message_id());
        // One that tells something else is another mail.
        say(&server.reconnect(alice), &room, "two").await;
        let mut next = sink.next().await;
        while !next.text().contains("two") {
            assert_eq!(next.message_id(), first.message_id());
            next = sink.next().await;
        }
        assert_ne!(next.message_id(), first.message_id());
        server.stop().await;
    }

    async fn mails_keep_their_distance(backend: Backend) {
        let mut sink = MailSink::start().await;
        let (delay, pause) = (Duration::from_millis(1), Duration::from_secs(4));
        let server = start_with_pause(backend, &sink, delay, pause).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        want_mails(&server, bob).await;
        say(alice, &room, "one").await;
        assert!(sink.next().await.text().contains("one"));
        say(alice, &room, "two").await;
        say(alice, &room, "three").await;
        let text = sink.next().await.text();
        assert!(text.contains("two") && text.contains("three"), "{text}");
        assert!(!text.contains("alice: one"), "{text}");
        server.stop().await;
    }

    async fn messages_of_encrypted_rooms_and_invitations_are_named_only(backend: Backend) {
        let mut sink = MailSink::start().await;
        let server = start(backend, &sink, Duration::from_secs(1)).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let (room, other) = (make_room(&[alice, bob]).await, make_room(&[alice]).await);
        want_mails(&server, bob).await;
        let secret = json!({
            "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgAEnACgAkLmt6",
            "session_id": "x", "sender_key": "y", "device_id": "z",
        });
        alice.put(&format!("{V3}/rooms/{room}/send/m.room.encrypted/1"), &secret).await.ok();
        let invitation = json!({ "user_id": bob.user_id });
        alice.post(&format!("{V3}/rooms/{other}/invite"), &invitation).await.ok();
        let text = sink.next().await.text();
        for part in ["alice has sent an encrypted message.", "alice invites you."] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("AwgAEnACgAkLmt6"), "{text}");
        server.stop().await;
    }

    async fn link_ends_the_mails_and_only_these(backend: Backend) {
        let mut sink = MailSink::start().await;
        let server = start(backend, &sink, Duration::from_millis(1)).await;
        let users = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = users.as_slice() else { panic!() };
        let room = make_room(&[alice, bob]).await;
        want_mails(&server, bob).await;
        say(alice, &room, "x").await;
        let link = sink.next().await.link();
        let path = link.strip_prefix("https://matrix.example.org").unwrap();
        let anybody = server.client();
        let count = async || {
            let pushers = bob.get(&format!("{V3}/pushers")).await.ok();
            pushers["pushers"].as_array().unwrap().len()
        };
        let forged = path.replace("%40bob", "%40alice");
        assert_ne!(forged, path);
        assert_eq!(anybody.post(&forged, &json!({})).await.status, 403);
        // The link of a mail outlives the key that signed it. Looking at the page ends nothing.
        let key_path = server.app.config.signing_key_path();
        server.app.federation.rotate_key(&key_path).await.unwrap();
        assert_eq!(anybody.get(path).await.status, 200);
        assert_eq!(count().await, 1);
        assert_eq!(anybody.post(path, &json!({})).await.status, 200);
        assert_eq!(count().await, 0);
        server.stop().await;
    }

    async fn mails_go_to_addresses_of_the_account_only(backend: Backend) {
        let sink = MailSink::start().await;
        let server = start(backend, &sink, Duration::from_secs(1)).await;
        let bob = server.register("bob").await;
        let set = format!("{V3}/pushers/set");
        bob.post(&set, &pusher("somebody@example.org")).await.error(400, "M_INVALID_PARAM");
        own_address(&server, &bob, "bob@example.org").await;
        let mut wrong = pusher("bob@example.org");
        wrong["app_id"] = "app".into();
        bob.post(&set, &wrong).await.error(400, "M_INVALID_PARAM");
        bob.post(&set, &pusher("bob@example.org")).await.ok();
        // With the address go its mails.
        let address = json!({ "medium": "email", "address": "bob@example.org" });
        bob.post(&format!("{V3}/account/3pid/delete"), &address).await.ok();
        let pushers = bob.get(&format!("{V3}/pushers")).await.ok();
        assert_eq!(pushers["pushers"], json!([]));
        own_address(&server, &bob, "bob@example.org").await;
        server.stop().await;

        // Where no mail is sent, nobody is promised any.
        let server = Server::start(backend).await;
        let bob = server.reconnect(&bob);
        bob.post(&set, &pusher("bob@example.org")).await.error(400, "M_INVALID_PARAM");
        server.stop().await;
    }
}
