//! Backups of room keys (Client-Server API, "Server-side key backups").

use futures_util::future::{join, join_all};
use hearth::storage::Param;
use serde_json::{Value, json};

use crate::{
    both_databases,
    conversation::register,
    harness::{Client, Server},
};

const VERSIONS: &str = "/_matrix/client/v3/room_keys/version";
const KEYS: &str = "/_matrix/client/v3/room_keys/keys";
const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

async fn create(client: &Client) -> String {
    let body = json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": "abc" } });
    let answer = client.post(VERSIONS, &body).await.ok();
    answer["version"].as_str().unwrap().to_owned()
}

/// A key; `data` makes it recognisable.
fn key(is_verified: bool, first_message_index: u32, forwarded_count: u32, data: &str) -> Value {
    json!({
        "first_message_index": first_message_index,
        "forwarded_count": forwarded_count,
        "is_verified": is_verified,
        "session_data": { "ephemeral": data, "ciphertext": "c", "mac": "m" },
    })
}

both_databases! {
    async fn backups_have_versions(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        let [alice, bob] = clients.as_slice() else { panic!() };
        alice.get(VERSIONS).await.error(404, "M_NOT_FOUND");
        alice.put(&format!("{KEYS}?version=1"), &json!({ "rooms": {} })).await.error(404, "M_NOT_FOUND");
        let (one, two) = (create(alice).await, create(alice).await);
        assert_ne!(one, two);
        let current = alice.get(VERSIONS).await.ok();
        assert_eq!((&current["version"], &current["count"]), (&json!(two), &json!(0)));
        assert_eq!(current["auth_data"], json!({ "public_key": "abc" }));
        assert_eq!(alice.get(&format!("{VERSIONS}/{one}")).await.ok()["version"], one.as_str());
        bob.get(&format!("{VERSIONS}/{one}")).await.error(404, "M_NOT_FOUND");
        alice.get(&format!("{VERSIONS}/17")).await.error(404, "M_NOT_FOUND");

        let path = format!("{VERSIONS}/{two}");
        let changed = json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": "new" } });
        alice.put(&path, &changed).await.ok();
        assert_eq!(alice.get(VERSIONS).await.ok()["auth_data"], json!({ "public_key": "new" }));
        let other = json!({ "algorithm": "other", "auth_data": {} });
        alice.put(&path, &other).await.error(400, "M_INVALID_PARAM");
        let other = json!({ "algorithm": ALGORITHM, "auth_data": {}, "version": one });
        alice.put(&path, &other).await.error(400, "M_INVALID_PARAM");
        alice.put(&format!("{VERSIONS}/17"), &changed).await.error(404, "M_NOT_FOUND");

        alice.delete(&path).await.ok();
        alice.delete(&path).await.ok();
        alice.get(&path).await.error(404, "M_NOT_FOUND");
        alice.delete(&format!("{VERSIONS}/17")).await.error(404, "M_NOT_FOUND");
        assert_eq!(alice.get(VERSIONS).await.ok()["version"], one.as_str());
        let three = create(alice).await;
        assert!(three != one && three != two, "a version is never given out again");
        server.stop().await;
    }

    async fn keys_are_stored_read_and_deleted_by_room_and_session(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice"]).await;
        let [alice] = clients.as_slice() else { panic!() };
        let version = create(alice).await;
        let all = format!("{KEYS}?version={version}");
        let body = json!({ "rooms": {
            "!one:hearth.test": { "sessions": { "a": key(true, 0, 0, "1a"), "b+/b": key(true, 0, 0, "1b") } },
            "!two:hearth.test": { "sessions": { "a": key(true, 0, 0, "2a") } },
        } });
        let answer = alice.put(&all, &body).await.ok();
        assert_eq!(answer["count"], 3);
        let etag = answer["etag"].clone();
        assert_eq!(alice.get(&all).await.ok(), body);
        let room = format!("{KEYS}/!one:hearth.test?version={version}");
        assert_eq!(alice.get(&room).await.ok(), body["rooms"]["!one:hearth.test"]);
        let session = format!("{KEYS}/!one:hearth.test/b%2B%2Fb?version={version}");
        assert_eq!(alice.get(&session).await.ok(), key(true, 0, 0, "1b"));
        let none = format!("{KEYS}/!one:hearth.test/c?version={version}");
        alice.get(&none).await.error(404, "M_NOT_FOUND");
        let empty = format!("{KEYS}/!none:hearth.test?version={version}");
        assert_eq!(alice.get(&empty).await.ok(), json!({ "sessions": {} }));
        alice.get(&format!("{KEYS}?version=9")).await.error(404, "M_NOT_FOUND");

        let answer = alice.delete(&session).await.ok();
        assert_eq!(answer["count"], 2);
        assert_ne!(answer["etag"], etag);
        assert_eq!(alice.delete(&room).await.ok()["count"], 1);
        let put = format!("{KEYS}/!three:hearth.test?version={version}");
        let body = json!({ "sessions": { "x": key(false, 1, 2, "3x") } });
        assert_eq!(alice.put(&put, &body).await.ok()["count"], 2);
        let current = alice.get(VERSIONS).await.ok();
        assert_eq!(current["count"], 2);
        assert_eq!(alice.delete(&all).await.ok()["count"], 0);
        assert_eq!(alice.get(&all).await.ok(), json!({ "rooms": {} }));
        server.stop().await;
    }

    async fn better_key_of_a_session_stays(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice"]).await;
        let [alice] = clients.as_slice() else { panic!() };
        let version = create(alice).await;
        let path = format!("{KEYS}/!one:hearth.test/s?version={version}");
        // Whether each of these replaces what is there.
        let uploads = [
            (key(false, 5, 5, "first"), true),
            (key(false, 6, 0, "later index"), false),
            (key(false, 5, 5, "the same"), false),
            (key(false, 5, 4, "forwarded less"), true),
            (key(false, 4, 9, "earlier index"), true),
            (key(true, 9, 9, "verified"), true),
            (key(false, 0, 0, "unverified"), false),
        ];
        let mut etag = Value::Null;
        let mut expected = Value::Null;
        for (upload, replaces) in uploads {
            let answer = alice.put(&path, &upload).await.ok();
            assert_eq!(answer["count"], 1);
            assert_eq!(answer["etag"] != etag, replaces, "{upload}");
            etag = answer["etag"].clone();
            expected = if replaces { upload } else { expected };
            assert_eq!(alice.get(&path).await.ok(), expected);
        }
        server.stop().await;
    }

    async fn keys_go_into_the_current_backup_only(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice"]).await;
        let [alice] = clients.as_slice() else { panic!() };
        let (old, new) = (create(alice).await, create(alice).await);
        let path = format!("{KEYS}/!one:hearth.test/s?version={old}");
        let error = alice.put(&path, &key(true, 0, 0, "x")).await.error(403, "M_WRONG_ROOM_KEYS_VERSION");
        assert_eq!(error["current_version"], new.as_str());
        alice.put(&format!("{KEYS}/!one:hearth.test/s"), &key(true, 0, 0, "x")).await
            .error(400, "M_MISSING_PARAM");
        server.stop().await;
    }

    async fn names_that_no_database_takes_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let version = create(&alice).await;
        let all = format!("{KEYS}?version={version}");
        for (room, session) in [("!a\u{0}:h", "s"), ("!a:h", "s\u{0}")] {
            let body = json!({ "rooms": { room: { "sessions": { session: key(true, 0, 0, "x") } } } });
            alice.put(&all, &body).await.error(400, "M_INVALID_PARAM");
        }
        let long = "s".repeat(256);
        let body = json!({ "rooms": { "!a:h": { "sessions": { long: key(true, 0, 0, "x") } } } });
        alice.put(&all, &body).await.error(413, "M_TOO_LARGE");
        let body = json!({ "rooms": { "!a:h": { "sessions": { "s": key(true, 0, 0, "a\u{0}b") } } } });
        assert_eq!(alice.put(&all, &body).await.ok()["count"], 1);
        assert_eq!(alice.get(&all).await.ok(), body, "the data are the client's");
        server.stop().await;
    }

    async fn uploads_and_deletions_at_a_time_agree_with_the_count(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let alice = &alice;
        let version = create(alice).await;
        let path = |number: u32| format!("{KEYS}/!r:h/s{number}?version={version}");
        let paths: Vec<_> = (0..20).map(path).collect();
        let uploads = paths
            .iter()
            .map(|path| async move { alice.put(path, &key(true, 0, 0, "x")).await.ok() });
        let deletions = paths.iter().map(|path| async move { alice.delete(path).await.ok() });
        let (added, deleted) = join(join_all(uploads), join_all(deletions)).await;
        let stored = alice.get(&format!("{KEYS}/!r:h?version={version}")).await.ok();
        let kept = stored["sessions"].as_object().unwrap().len();
        let current = alice.get(VERSIONS).await.ok();
        assert_eq!(current["count"], kept);
        // No two changes have one etag, and an answer's etag goes with its count.
        let mut told = std::collections::BTreeMap::new();
        for answer in added.iter().chain(&deleted) {
            let etag = answer["etag"].as_str().unwrap().to_owned();
            let count = answer["count"].clone();
            assert_eq!(told.entry(etag).or_insert_with(|| count.clone()), &count);
        }
        server.stop().await;
    }

    async fn concurrent_uploads_are_all_counted(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice"]).await;
        let [alice] = clients.as_slice() else { panic!() };
        let version = create(alice).await;
        let uploads = (0..20).map(|number| {
            let path = format!("{KEYS}/!room{}:hearth.test/s{}?version={version}", number % 4, number % 10);
            async move { alice.put(&path, &key(true, number, 0, "x")).await.ok() }
        });
        join_all(uploads).await;
        let current = alice.get(VERSIONS).await.ok();
        let stored = alice.get(&format!("{KEYS}?version={version}")).await.ok();
        let sessions = stored["rooms"].as_object().unwrap().values();
        let sessions: usize = sessions.map(|room| room["sessions"].as_object().unwrap().len()).sum();
        assert_eq!(current["count"], sessions);
        assert_eq!(sessions, 20);
        server.stop().await;
    }

    async fn backups_go_with_the_account(backend: Backend) {
        let server = Server::start(backend).await;
        let clients = register(&server, ["alice", "bob"]).await;
        for client in &clients {
            let version = create(client).await;
            let body = json!({ "rooms": { "!r:h": { "sessions": { "s": key(true, 0, 0, "x") } } } });
            client.put(&format!("{KEYS}?version={version}"), &body).await.ok();
        }
        let path = "/_matrix/client/v3/account/deactivate";
        clients[0].post_with_password(path, &json!({})).await.ok();
        for (client, kept) in [(&clients[0], 0), (&clients[1], 1)] {
            for sql in [
                "SELECT count(*) FROM key_backups WHERE user_id = $1",
                "SELECT count(*) FROM backed_up_keys WHERE user_id = $1",
            ] {
                let user = [Param::Text(client.user_id.clone())];
                let rows: Vec<(i64,)> = server.app.database.fetch_all(sql, &user).await.unwrap();
                assert_eq!(rows, [(kept,)], "{sql}");
            }
        }
        server.stop().await;
    }
}
