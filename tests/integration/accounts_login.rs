//! Registration, login, sessions, devices and the end of an account.

use hearth::{clock::Clock, config::RegistrationMode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Client, Server},
};

const REGISTER: &str = "/_matrix/client/v3/register";
const LOGIN: &str = "/_matrix/client/v3/login";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
const PASSWORD: &str = "/_matrix/client/v3/account/password";

fn password_login(user: &str, password: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password,
    })
}

fn with_dummy(mut body: Value) -> Value {
    body["auth"] = json!({ "type": "m.login.dummy" });
    body
}

async fn whoami(client: &Client) -> Value {
    client.get(WHOAMI).await.ok()
}

both_databases! {
    async fn registration_leads_through_the_flows(backend: Backend) {
        let server = Server::start(backend).await;
        let mut client = server.client();
        let body = json!({ "username": "Alice", "password": "correct horse", "device_id": "PHONE" });
        let challenge = client.post(REGISTER, &body).await;
        assert_eq!(challenge.status, 401);
        assert!(challenge.body.get("errcode").is_none(), "{challenge:?}");
        let flows = &challenge.body["flows"];
        assert!(flows.as_array().unwrap().contains(&json!({ "stages": ["m.login.dummy"] })));
        let mut body = body;
        body["auth"] = json!({ "type": "m.login.dummy", "session": challenge.body["session"] });
        let answer = client.post(REGISTER, &body).await.ok();
        assert_eq!(answer["user_id"], "@alice:hearth.test");
        assert_eq!(answer["device_id"], "PHONE");
        client.take_login(&answer);
        let me = whoami(&client).await;
        let expect =
            json!({ "user_id": "@alice:hearth.test", "device_id": "PHONE", "is_guest": false });
        assert_eq!(me, expect);
        // The session of the authentication has ended with it.
        let again = client.post(REGISTER, &body).await;
        again.error(400, "M_USER_IN_USE");
    }

    async fn bad_registrations_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        server.register("alice").await;
        let client = server.client();
        let cases = [
            (json!({ "username": "al!ce", "password": "12345678" }), 400, "M_INVALID_USERNAME"),
            (json!({ "username": "", "password": "12345678" }), 400, "M_INVALID_USERNAME"),
            (json!({ "username": "a\0b", "password": "12345678" }), 400, "M_INVALID_USERNAME"),
            (json!({ "username": "a".repeat(255), "password": "12345678" }), 400, "M_INVALID_USERNAME"),
            (json!({ "username": "alice", "password": "12345678" }), 400, "M_USER_IN_USE"),
            (json!({ "username": "bob", "password": "1234567" }), 400, "M_WEAK_PASSWORD"),
            (json!({ "username": "bob" }), 400, "M_MISSING_PARAM"),
            (json!({ "username": "bob", "password": 1 }), 400, "M_BAD_JSON"),
            (json!({ "username": 1 }), 400, "M_BAD_JSON"),
            (json!({ "username": "bob", "password": "12345678", "device_id": "" }), 400, "M_INVALID_PARAM"),
        ];
        for (body, status, errcode) in cases {
            client.post(REGISTER, &with_dummy(body)).await.error(status, errcode);
        }
        let bad_auth = json!({ "username": "bob", "password": "12345678", "auth": 5 });
        client.post(REGISTER, &bad_auth).await.error(400, "M_BAD_JSON");
        let lost = json!({ "auth": { "type": "m.login.dummy", "session": "none" } });
        client.post(REGISTER, &lost).await.error(401, "M_UNKNOWN");
        let unknown = json!({ "auth": { "type": "m.login.magic" } });
        client.post(REGISTER, &unknown).await.error(401, "M_UNRECOGNIZED");
        client.post(&format!("{REGISTER}?kind=robot"), &json!({})).await.error(400, "M_INVALID_PARAM");
        client.send_text(Method::POST, REGISTER, "{").await.error(400, "M_NOT_JSON");
        client.send_text(Method::POST, REGISTER, b"\xff".to_vec()).await.error(400, "M_NOT_JSON");
        client.send_text(Method::POST, REGISTER, "[]").await.error(400, "M_BAD_JSON");
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(5 << 20));
        client.send_text(Method::POST, REGISTER, large).await.error(413, "M_TOO_LARGE");
    }

    async fn one_of_two_registrations_of_a_name_at_once_wins(backend: Backend) {
        let server = Server::start(backend).await;
        let client = server.client();
        let body = with_dummy(json!({ "username": "alice", "password": "12345678" }));
        let attempts = (0..8).map(|_| client.post(REGISTER, &body));
        let answers = futures_util::future::join_all(attempts).await;
        let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(|a| a.status == 200);
        assert_eq!(won.len(), 1);
        for answer in lost {
            answer.error(400, "M_USER_IN_USE");
        }
    }

    async fn names_are_told_to_be_free_or_not(backend: Backend) {
        let server = Server::start(backend).await;
        server.register("alice").await;
        let client = server.client();
        let available = format!("{REGISTER}/available");
        let path = |name: &str| format!("{available}?username={name}");
        assert_eq!(client.get(&path("bob")).await.ok(), json!({ "available": true }));
        client.get(&path("alice")).await.error(400, "M_USER_IN_USE");
        client.get(&path("a%20b")).await.error(400, "M_INVALID_USERNAME");
        client.get(&available).await.error(400, "M_MISSING_PARAM");
    }

    async fn first_administrator_registers_with_a_token_that_works_once(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.registration.mode = RegistrationMode::Closed;
        })
        .await;
        let token = server.app.accounts.find_admin_token().await.unwrap().unwrap();
        // The token is the same after a restart.
        server.stop().await;
        let server = Server::start_with(backend, |config| {
            config.registration.mode = RegistrationMode::Closed;
        })
        .await;
        assert_eq!(server.app.accounts.find_admin_token().await.unwrap(), Some(token.clone()));
        let client = server.client();
        let validity = "/_matrix/client/v1/register/m.login.registration_token/validity";
        let valid = client.get(&format!("{validity}?token={token}")).await.ok();
        assert_eq!(valid, json!({ "valid": true }));
        assert_eq!(client.get(&format!("{validity}?token=no")).await.ok(), json!({ "valid": false }));
        let mut body = json!({ "username": "root", "password": "12345678" });
        body["auth"] = json!({ "type": "m.login.registration_token", "token": "wrong" });
        client.post(REGISTER, &body).await.error(401, "M_UNAUTHORIZED");
        client.post(REGISTER, &with_dummy(body.clone())).await.error(401, "M_FORBIDDEN");
        body["auth"]["token"] = json!(token);
        let mut root = server.client();
        root.take_login(&client.post(REGISTER, &body).await.ok());
        let whois = "/_matrix/client/v3/admin/whois/@someone:hearth.test";
        root.get(whois).await.ok();
        assert_eq!(server.app.accounts.find_admin_token().await.unwrap(), None);
        body["username"] = json!("second");
        client.post(REGISTER, &body).await.error(403, "M_FORBIDDEN");
    }

    async fn configured_tokens_admit_anybody_who_knows_them(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.registration.mode = RegistrationMode::Token;
            config.registration.tokens = vec![hearth::config::Secret::new("welcome")];
        })
        .await;
        let client = server.client();
        for name in ["one", "two"] {
            let body = json!({
                "username": name,
                "password": "12345678",
                "inhibit_login": true,
                "auth": { "type": "m.login.registration_token", "token": "welcome" },
            });
            let answer = client.post(REGISTER, &body).await.ok();
            assert!(answer.get("access_token").is_none() && answer.get("device_id").is_none());
        }
        let alice = client.post(LOGIN, &password_login("one", "12345678")).await.ok();
        assert_eq!(alice["user_id"], "@one:hearth.test");
    }

    async fn guests_are_kept_from_what_is_not_for_them(backend: Backend) {
        let server = Server::start(backend).await;
        let mut guest = server.client();
        let answer = guest.post(&format!("{REGISTER}?kind=guest"), &json!({ "username": 1.5 })).await;
        answer.error(400, "M_BAD_JSON");
        let answer = guest.send_text(Method::POST, &format!("{REGISTER}?kind=guest"), "").await.ok();
        guest.take_login(&answer);
        assert_eq!(whoami(&guest).await["is_guest"], true);
        guest.get("/_matrix/client/v3/capabilities").await.error(403, "M_GUEST_ACCESS_FORBIDDEN");
        let profile = format!("/_matrix/client/v3/profile/{}", guest.user_id);
        guest.put(&format!("{profile}/displayname"), &json!({ "displayname": "Visitor" })).await.ok();
        let url = json!({ "avatar_url": "mxc://hearth.test/abc" });
        guest.put(&format!("{profile}/avatar_url"), &url).await.error(403, "M_GUEST_ACCESS_FORBIDDEN");
    }

    async fn guest_becomes_a_user_and_keeps_the_name(backend: Backend) {
        let server = Server::start(backend).await;
        let mut guest = server.client();
        guest.take_login(&guest.post(&format!("{REGISTER}?kind=guest"), &json!({})).await.ok());
        let name = guest.user_id[1..].split(':').next().unwrap().to_owned();
        let mut body = with_dummy(json!({
            "username": "other", "password": "12345678", "guest_access_token": guest.access_token,
        }));
        guest.post(REGISTER, &body).await.error(403, "M_FORBIDDEN");
        body["username"] = json!(name);
        let user = guest.post(REGISTER, &body).await.ok();
        assert_eq!(user["user_id"], guest.user_id);
        guest.take_login(&user);
        assert_eq!(whoami(&guest).await["is_guest"], false);
        guest.post(REGISTER, &body).await.error(403, "M_FORBIDDEN");
        guest.post(LOGIN, &password_login(&name, "12345678")).await.ok();
    }

    async fn sessions_of_interactive_authentication_end(backend: Backend) {
        let clock = Clock::scripted(1_700_000_000_000, 7);
        let server = Server::start_at(backend, clock.clone(), |_| ()).await;
        let client = server.client();
        let mut body = json!({ "username": "alice", "password": "12345678" });
        let session = client.post(REGISTER, &body).await.body["session"].clone();
        body["auth"] = json!({ "type": "m.login.dummy", "session": session });
        clock.advance_ms(15 * 60 * 1000);
        let late = client.post(REGISTER, &body).await.error(401, "M_UNKNOWN");
        body["auth"]["session"] = late["session"].clone();
        client.post(REGISTER, &body).await.ok();
    }

    async fn logins_name_the_user_in_every_way(backend: Backend) {
        let server = Server::start(backend).await;
        server.register("alice").await;
        let client = server.client();
        let password = "password of alice";
        for user in ["alice", "@alice:hearth.test", "Alice", "@ALICE:hearth.test"] {
            let answer = client.post(LOGIN, &password_login(user, password)).await.ok();
            assert_eq!(answer["user_id"], "@alice:hearth.test");
        }
        let old = json!({ "type": "m.login.password", "user": "alice", "password": password });
        client.post("/_matrix/client/r0/login", &old).await.ok();
        let flows = client.get(LOGIN).await.ok();
        assert_eq!(flows["flows"][0]["type"], "m.login.password");
    }

    async fn bad_logins_are_refused(backend: Backend) {
        let server = Server::start(backend).await;
        server.register("alice").await;
        let client = server.client();
        let third_party = json!({ "type": "m.id.thirdparty", "medium": "email", "address": "a@b.c" });
        let with_identifier = |identifier: Value| {
            json!({ "type": "m.login.password", "identifier": identifier, "password": "x" })
        };
        let cases = [
            (password_login("alice", "wrong"), 403, "M_FORBIDDEN"),
            (password_login("nobody", "wrong"), 403, "M_FORBIDDEN"),
            (password_login("@alice:elsewhere.test", "password of alice"), 403, "M_FORBIDDEN"),
            (password_login("a\0", "wrong"), 403, "M_FORBIDDEN"),
            (with_identifier(third_party), 403, "M_FORBIDDEN"),
            (with_identifier(json!({ "type": "m.id.magic" })), 400, "M_UNKNOWN"),
            (json!({ "type": "m.login.magic" }), 400, "M_UNKNOWN"),
            (json!({ "type": "m.login.token", "token": "no" }), 403, "M_FORBIDDEN"),
            (json!({ "type": "m.login.token" }), 400, "M_MISSING_PARAM"),
            (json!({ "type": "m.login.password", "password": "x" }), 400, "M_MISSING_PARAM"),
            (json!({ "type": "m.login.password", "user": "alice" }), 400, "M_MISSING_PARAM"),
            (json!({}), 400, "M_BAD_JSON"),
            (json!({ "type": 5 }), 400, "M_BAD_JSON"),
        ];
        for (body, status, errcode) in cases {
            client.post(LOGIN, &body).await.error(status, errcode);
        }
    }

    async fn tokens_are_checked(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let nobody = server.client();
        nobody.get(WHOAMI).await.error(401, "M_MISSING_TOKEN");
        let foreign = Client { access_token: Some("hat_foreign".into()), ..nobody.clone() };
        let body = foreign.get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
        assert!(body.get("soft_logout").is_none_or(|soft| soft == false));
        let basic = nobody.request(Method::GET, WHOAMI).header("authorization", "Basic eDp5");
        nobody.send(basic).await.error(401, "M_MISSING_TOKEN");
        let token = alice.access_token.clone().unwrap();
        nobody.get(&format!("{WHOAMI}?access_token={token}")).await.ok();
        nobody.get(&format!("{WHOAMI}?access_token=%00")).await.error(401, "M_UNKNOWN_TOKEN");
    }

    async fn logout_ends_one_session_or_all(backend: Backend) {
        let server = Server::start(backend).await;
        let phone = server.register("alice").await;
        let (laptop, tablet) = (server.login("alice").await, server.login("alice").await);
        phone.post("/_matrix/client/v3/logout", &json!({})).await.ok();
        phone.get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
        assert_eq!(whoami(&laptop).await["device_id"], laptop.device_id);
        let devices = laptop.get("/_matrix/client/v3/devices").await.ok();
        assert_eq!(devices["devices"].as_array().unwrap().len(), 2);
        laptop.send_text(Method::POST, "/_matrix/client/v3/logout/all", "").await.ok();
        tablet.get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
        // Nothing comes back with a restart.
        server.kill().await;
        let server = Server::start(backend).await;
        server.reconnect(&tablet).get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
    }

    async fn sessions_survive_a_restart(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        server.kill().await;
        let server = Server::start(backend).await;
        assert_eq!(whoami(&server.reconnect(&alice)).await["user_id"], alice.user_id);
        server.login("alice").await;
    }

    async fn login_on_a_device_ends_its_earlier_session(backend: Backend) {
        let server = Server::start(backend).await;
        let phone = server.register("alice").await;
        let mut body = password_login("alice", "password of alice");
        body["device_id"] = json!(phone.device_id);
        let mut again = server.client();
        again.take_login(&phone.post(LOGIN, &body).await.ok());
        assert_eq!(again.device_id, phone.device_id);
        phone.get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
        whoami(&again).await;
    }

    async fn refresh_tokens_rotate(backend: Backend) {
        let clock = Clock::scripted(1_700_000_000_000, 7);
        let server = Server::start_at(backend, clock.clone(), |_| ()).await;
        let mut alice = server.register("alice").await;
        let mut body = password_login("alice", "password of alice");
        body["refresh_token"] = json!(true);
        let first = alice.post(LOGIN, &body).await.ok();
        let lifetime_ms = first["expires_in_ms"].as_u64().unwrap();
        alice.take_login(&first);
        whoami(&alice).await;
        clock.advance_ms(lifetime_ms);
        let expired = alice.get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
        assert_eq!(expired["soft_logout"], true);

        let refresh = "/_matrix/client/v3/refresh";
        let old = json!({ "refresh_token": first["refresh_token"] });
        let second = alice.post(refresh, &old).await.ok();
        assert_ne!(second["refresh_token"], first["refresh_token"]);
        // The answer may have been lost: the old token works until the new one is used.
        let third = alice.post(refresh, &old).await.ok();
        let as_token = |answer: &Value| Client {
            access_token: Some(answer["access_token"].as_str().unwrap().to_owned()),
            ..alice.clone()
        };
        as_token(&second).get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
        assert_eq!(whoami(&as_token(&third)).await["device_id"], alice.device_id);
        alice.post(refresh, &old).await.error(401, "M_UNKNOWN_TOKEN");
        // Using the new refresh token counts as well.
        let fourth = alice.post(refresh, &json!({ "refresh_token": third["refresh_token"] })).await.ok();
        whoami(&as_token(&third)).await;
        let fifth = alice.post(refresh, &json!({ "refresh_token": fourth["refresh_token"] })).await.ok();
        as_token(&third).get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
        whoami(&as_token(&fifth)).await;
        alice.post(refresh, &json!({ "refresh_token": "hrt_no" })).await.error(401, "M_UNKNOWN_TOKEN");
        alice.post(refresh, &json!({})).await.error(400, "M_BAD_JSON");
    }

    async fn login_token_admits_one_further_device(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let path = "/_matrix/client/v1/login/get_token";
        let answer = alice.post_with_password(path, &json!({})).await.ok();
        let body = json!({ "type": "m.login.token", "token": answer["login_token"] });
        let login = server.client().post(LOGIN, &body).await.ok();
        assert_eq!(login["user_id"], alice.user_id);
        server.client().post(LOGIN, &body).await.error(403, "M_FORBIDDEN");
    }

    async fn devices_are_shown_renamed_and_deleted(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let other = server.login("alice").await;
        let bob = server.register("bob").await;
        whoami(&other).await;
        let path = format!("/_matrix/client/v3/devices/{}", other.device_id);
        alice.put(&path, &json!({ "display_name": "Kitchen" })).await.ok();
        let device = alice.get(&path).await.ok();
        assert_eq!(device["display_name"], "Kitchen");
        assert_eq!(device["last_seen_ip"], "127.0.0.1");
        assert!(device["last_seen_ts"].is_i64());
        bob.get(&path).await.error(404, "M_NOT_FOUND");
        bob.put(&path, &json!({ "display_name": "Mine" })).await.error(404, "M_NOT_FOUND");
        alice.put(&path, &json!({ "display_name": 5 })).await.error(400, "M_BAD_JSON");
        alice.get("/_matrix/client/v3/devices/%00").await.error(400, "M_INVALID_PARAM");

        assert_eq!(alice.delete_with(&path, &json!({})).await.status, 401);
        alice.authenticate(Method::DELETE, &path, &json!({})).await.ok();
        other.get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
        alice.get(&path).await.error(404, "M_NOT_FOUND");
        // A device that is gone already does not matter.
        let third = server.login("alice").await;
        let both = json!({ "devices": [third.device_id, other.device_id] });
        alice.post_with_password("/_matrix/client/v3/delete_devices", &both).await.ok();
        third.get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
    }

    async fn proof_for_one_request_is_none_for_another(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let path = "/_matrix/client/v3/delete_devices";
        let challenge = alice.post(path, &json!({ "devices": ["ONE"] })).await;
        let auth = |session: &Value, password: &str| json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": password,
            "session": session,
        });
        let session = &challenge.body["session"];
        let right = auth(session, "password of alice");
        let other = json!({ "devices": ["TWO"], "auth": right });
        alice.post(path, &other).await.error(403, "M_FORBIDDEN");
        let wrong = json!({ "devices": ["ONE"], "auth": auth(session, "wrong") });
        let body = alice.post(path, &wrong).await.error(401, "M_FORBIDDEN");
        assert_eq!(&body["session"], session);
        let bob = server.register("bob").await;
        bob.post(path, &json!({ "devices": ["ONE"], "auth": right })).await.error(403, "M_FORBIDDEN");
        alice.post(path, &json!({ "devices": ["ONE"], "auth": right })).await.ok();
    }

    async fn password_change_ends_the_other_sessions(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let other = server.login("alice").await;
        let weak = json!({ "new_password": "short" });
        alice.post(PASSWORD, &weak).await.error(400, "M_WEAK_PASSWORD");
        let body = json!({ "new_password": "a better one" });
        alice.post_with_password(PASSWORD, &body).await.ok();
        whoami(&alice).await;
        other.get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
        let client = server.client();
        client.post(LOGIN, &password_login("alice", "password of alice")).await.error(403, "M_FORBIDDEN");
        client.post(LOGIN, &password_login("alice", "a better one")).await.ok();
    }

    async fn deactivated_account_is_gone_and_its_name_taken(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let path = "/_matrix/client/v3/account/deactivate";
        let answer = alice.post_with_password(path, &json!({ "erase": true })).await.ok();
        assert_eq!(answer, json!({ "id_server_unbind_result": "success" }));
        alice.get(WHOAMI).await.error(401, "M_UNKNOWN_TOKEN");
        let client = server.client();
        let login = password_login("alice", "password of alice");
        client.post(LOGIN, &login).await.error(403, "M_USER_DEACTIVATED");
        client.get("/_matrix/client/v3/profile/@alice:hearth.test").await.error(404, "M_NOT_FOUND");
        let body = with_dummy(json!({ "username": "alice", "password": "12345678" }));
        client.post(REGISTER, &body).await.error(400, "M_USER_IN_USE");
    }

    async fn locked_users_only_log_out_and_suspended_ones_only_read(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.registration.shared_secret = Some(hearth::config::Secret::new("complement"));
        })
        .await;
        let admin = register_by_secret(&server, "root", true).await;
        let alice = server.register("alice").await;
        let lock = "/_matrix/client/v1/admin/lock/@alice:hearth.test";
        alice.put(lock, &json!({ "locked": true })).await.error(403, "M_FORBIDDEN");
        assert_eq!(admin.get(lock).await.ok(), json!({ "locked": false }));
        admin.put(lock, &json!({ "locked": true })).await.ok();
        let body = alice.get(WHOAMI).await.error(401, "M_USER_LOCKED");
        assert_eq!(body["soft_logout"], true);
        let login = password_login("alice", "password of alice");
        server.client().post(LOGIN, &login).await.error(401, "M_USER_LOCKED");
        admin.put(lock, &json!({ "locked": false })).await.ok();
        whoami(&alice).await;
        let suspend = "/_matrix/client/v1/admin/suspend/@alice:hearth.test";
        admin.put(suspend, &json!({ "suspended": true })).await.ok();
        assert_eq!(admin.get(suspend).await.ok(), json!({ "suspended": true }));
        let name = "/_matrix/client/v3/profile/@alice:hearth.test/displayname";
        alice.put(name, &json!({ "displayname": "A" })).await.error(403, "M_USER_SUSPENDED");
        let own = "/_matrix/client/v1/admin/lock/@root:hearth.test";
        admin.put(own, &json!({ "locked": true })).await.error(403, "M_FORBIDDEN");
        admin.put("/_matrix/client/v1/admin/lock/@x:elsewhere.test", &json!({ "locked": true }))
            .await
            .error(400, "M_INVALID_PARAM");
        admin.put(lock, &json!({ "locked": "yes" })).await.error(400, "M_BAD_JSON");
        admin.put(lock, &json!({ "locked": true })).await.ok();
        alice.post("/_matrix/client/v3/logout", &json!({})).await.ok();
    }

    async fn limits_answer_429_with_the_time_to_wait(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.rate_limits.enabled = true;
            config.rate_limits.login.burst = 3;
            config.rate_limits.login_failures.burst = 2;
        })
        .await;
        server.register("alice").await;
        let wrong = password_login("alice", "wrong");
        let client = server.client();
        client.post(LOGIN, &wrong).await.error(403, "M_FORBIDDEN");
        client.post(LOGIN, &wrong).await.error(403, "M_FORBIDDEN");
        // Even the right password has to wait after wrong ones.
        let right = password_login("alice", "password of alice");
        client.post(LOGIN, &right).await.error(429, "M_LIMIT_EXCEEDED");
        let answer = client.post(LOGIN, &right).await;
        assert!(answer.headers.contains_key("retry-after"));
        let body = answer.error(429, "M_LIMIT_EXCEEDED");
        assert!(body["retry_after_ms"].as_u64().unwrap() > 0);
    }
}

/// Registers through `/_synapse/admin/v1/register` with the secret `complement`.
async fn register_by_secret(server: &Server, name: &str, admin: bool) -> Client {
    let path = "/_synapse/admin/v1/register";
    let mut client = server.client();
    let nonce = client.get(path).await.ok()["nonce"].as_str().unwrap().to_owned();
    let role = if admin { "admin" } else { "notadmin" };
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"complement");
    let tag = ring::hmac::sign(&key, format!("{nonce}\0{name}\0secret words\0{role}").as_bytes());
    let mac: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut body = json!({
        "nonce": nonce, "username": name, "password": "secret words", "admin": admin, "mac": "00",
    });
    client.post(path, &body).await.error(403, "M_FORBIDDEN");
    body["mac"] = json!(mac);
    client.post(path, &body).await.error(400, "M_UNKNOWN");
    let nonce = client.get(path).await.ok()["nonce"].as_str().unwrap().to_owned();
    let tag = ring::hmac::sign(&key, format!("{nonce}\0{name}\0secret words\0{role}").as_bytes());
    let mac: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    body["nonce"] = json!(nonce);
    body["mac"] = json!(mac);
    client.take_login(&client.post(path, &body).await.ok());
    client
}
