//! Mail addresses of accounts: proving them, registering and logging in with them, replacing a
//! forgotten password (client-server API, "Adding Account Administrative Contact Information").

use hearth::{clock::Clock, config::Terms};
use reqwest::{StatusCode, redirect::Policy};
use serde_json::{Value, json};

use crate::{
    both_databases,
    harness::{Answer, Backend, Client, MailSink, Server},
};

const REGISTER: &str = "/_matrix/client/v3/register";
const LOGIN: &str = "/_matrix/client/v3/login";
const PASSWORD: &str = "/_matrix/client/v3/account/password";
const IDS: &str = "/_matrix/client/v3/account/3pid";
const CONFIRM: &str = "/_matrix/client/unstable/hearth/confirm_address";
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

async fn start(backend: &Backend) -> (Server, MailSink) {
    let sink = MailSink::start().await;
    let server = Server::start_with(backend, |config| sink.configure(config)).await;
    (server, sink)
}

fn request(email: &str, send_attempt: i64) -> Value {
    json!({ "client_secret": "monkey.s=cret", "email": email, "send_attempt": send_attempt })
}

/// What a client proves an address with.
fn proof(sid: &Value) -> Value {
    json!({ "sid": sid, "client_secret": "monkey.s=cret" })
}

/// Follows the link of a mail, as a browser does that shows the page and clicks the button.
async fn click(client: &Client, link: &str) -> reqwest::Response {
    let query = link.split_once('?').unwrap().1.to_owned();
    let url = format!("{}{CONFIRM}", client.url);
    let browser = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
    let page = browser.get(format!("{url}?{query}")).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    assert!(page.text().await.unwrap().contains("<form method=\"post\">"));
    let form = browser.post(url).header("content-type", "application/x-www-form-urlencoded");
    form.body(query).send().await.unwrap()
}

/// Adds an address to an account, by all steps.
async fn add_address(sink: &mut MailSink, client: &Client, email: &str) {
    let path = format!("{IDS}/email/requestToken");
    let sid = client.post(&path, &request(email, 1)).await.ok()["sid"].clone();
    let link = sink.next().await.link();
    assert_eq!(click(client, &link).await.status(), 200);
    client.post_with_password(&format!("{IDS}/add"), &proof(&sid)).await.ok();
}

async fn log_in(server: &Server, identifier: Value, password: &str) -> Answer {
    let body =
        json!({ "type": "m.login.password", "identifier": identifier, "password": password });
    server.client().post(LOGIN, &body).await
}

fn by_address(address: &str) -> Value {
    json!({ "type": "m.id.thirdparty", "medium": "email", "address": address })
}

both_databases! {
    async fn address_is_proven_while_registering(backend: Backend) {
        let (server, mut sink) = start(backend).await;
        let client = server.client();
        let path = format!("{REGISTER}/email/requestToken");
        let mut wish = request("Alice@Example.org", 1);
        wish["next_link"] = "https://app.example.org/#/welcome".into();
        let sid = client.post(&path, &wish).await.ok()["sid"].clone();
        let mail = sink.next().await;
        assert_eq!(mail.to, "Alice@Example.org");

        let mut body = json!({ "username": "alice", "password": "password of alice" });
        let challenge = client.post(REGISTER, &body).await;
        let flow = json!({ "stages": ["m.login.email.identity", "m.login.dummy"] });
        assert!(challenge.body["flows"].as_array().unwrap().contains(&flow), "{challenge:?}");
        let session = challenge.body["session"].clone();
        body["auth"] = json!({
            "type": "m.login.email.identity",
            "threepid_creds": proof(&sid),
            "session": session,
        });
        client.post(REGISTER, &body).await.error(401, "M_UNAUTHORIZED");
        let answer = click(&client, &mail.link()).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        assert_eq!(answer.headers()["location"], "https://app.example.org/#/welcome");
        let passed = client.post(REGISTER, &body).await;
        assert_eq!(passed.body["completed"], json!(["m.login.email.identity"]), "{passed:?}");
        body["auth"] = json!({ "type": "m.login.dummy", "session": session });
        let mut alice = server.client();
        alice.take_login(&client.post(REGISTER, &body).await.ok());

        let ids = alice.get(IDS).await.ok();
        assert_eq!(ids["threepids"][0]["medium"], "email");
        assert_eq!(ids["threepids"][0]["address"], "alice@example.org");
        let identifier = by_address("ALICE@example.ORG");
        let login = log_in(&server, identifier.clone(), "password of alice").await.ok();
        assert_eq!(login["user_id"], alice.user_id);
        log_in(&server, identifier, "wrong").await.error(403, "M_FORBIDDEN");
        let older = json!({ "type": "m.login.password", "medium": "email",
            "address": "alice@example.org", "password": "password of alice" });
        assert_eq!(client.post(LOGIN, &older).await.ok()["user_id"], alice.user_id);
        // Nobody else gets it now, and the proof has been used.
        client.post(&path, &request("alice@example.org", 2)).await.error(400, "M_THREEPID_IN_USE");
    }

    async fn mail_is_sent_once_per_attempt(backend: Backend) {
        let (server, mut sink) = start(backend).await;
        let client = server.client();
        let path = format!("{REGISTER}/email/requestToken");
        let sid = client.post(&path, &request("a@example.org", 1)).await.ok();
        assert_eq!(client.post(&path, &request("a@example.org", 1)).await.ok(), sid);
        assert_eq!(client.post(&path, &request("a@example.org", 2)).await.ok(), sid);
        let (first, second) = (sink.next().await, sink.next().await);
        assert_eq!(first.link(), second.link());
        let other = client.post(&path, &request("b@example.org", 1)).await.ok();
        assert_ne!(other, sid);
        assert_eq!(sink.next().await.to, "b@example.org");
    }

    async fn bad_requests_for_mails_are_refused(backend: Backend) {
        let (server, _sink) = start(backend).await;
        let alice = server.register("alice").await;
        let client = server.client();
        let path = format!("{REGISTER}/email/requestToken");
        for (field, value) in [
            ("email", "alice"),
            ("email", "a@example.org\r\nBcc: b@example.org"),
            ("email", "refused@example.org"),
            ("client_secret", ""),
            ("client_secret", "a b"),
            ("next_link", "javascript:alert(1)"),
            ("next_link", "/somewhere"),
        ] {
            let mut body = request("a@example.org", 1);
            body[field] = value.into();
            client.post(&path, &body).await.error(400, "M_INVALID_PARAM");
        }
        let reset = format!("{PASSWORD}/email/requestToken");
        client.post(&reset, &request("a@example.org", 1)).await.error(400, "M_THREEPID_NOT_FOUND");
        let phone = json!({ "client_secret": "s", "country": "DE", "phone_number": "1",
            "send_attempt": 1 });
        for path in ["account/3pid", "account/password", "register"] {
            let path = format!("/_matrix/client/v3/{path}/msisdn/requestToken");
            client.post(&path, &phone).await.error(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED");
        }
        let nothing = json!({ "sid": "x", "client_secret": "monkey.s=cret" });
        let add = alice.post_with_password(&format!("{IDS}/add"), &nothing).await;
        add.error(403, "M_THREEPID_AUTH_FAILED");
    }

    async fn forgotten_password_is_replaced(backend: Backend) {
        let (server, mut sink) = start(backend).await;
        let alice = server.register("alice").await;
        add_address(&mut sink, &alice, "alice@example.org").await;

        let client = server.client();
        let reset = format!("{PASSWORD}/email/requestToken");
        let sid = client.post(&reset, &request("alice@example.org", 1)).await.ok()["sid"].clone();
        let mut body = json!({ "new_password": "another password" });
        let challenge = client.post(PASSWORD, &body).await;
        let flows = json!([{ "stages": ["m.login.email.identity"] }]);
        assert_eq!(challenge.body["flows"], flows, "{challenge:?}");
        body["auth"] = json!({
            "type": "m.login.email.identity",
            "threepid_creds": proof(&sid),
            "session": challenge.body["session"],
        });
        client.post(PASSWORD, &body).await.error(401, "M_UNAUTHORIZED");
        click(&client, &sink.next().await.link()).await;
        client.post(PASSWORD, &body).await.ok();
        alice.get(IDS).await.error(401, "M_UNKNOWN_TOKEN");
        let me = json!({ "type": "m.id.user", "user": "alice" });
        log_in(&server, me.clone(), "password of alice").await.error(403, "M_FORBIDDEN");
        log_in(&server, me, "another password").await.ok();
        client.post(PASSWORD, &body).await.error(401, "M_UNKNOWN");
    }

    async fn proof_for_one_purpose_serves_for_no_other(backend: Backend) {
        let (server, mut sink) = start(backend).await;
        let alice = server.register("alice").await;
        let mallory = server.register("mallory").await;
        add_address(&mut sink, &alice, "alice@example.org").await;
        // Mallory has Alice confirm something harmless.
        let path = format!("{REGISTER}/email/requestToken");
        let sid = mallory.post(&path, &request("other@example.org", 1)).await.ok()["sid"].clone();
        click(&mallory, &sink.next().await.link()).await;
        let add = mallory.post_with_password(&format!("{IDS}/add"), &proof(&sid)).await;
        add.error(403, "M_THREEPID_AUTH_FAILED");
        let client = server.client();
        let mut body = json!({ "new_password": "another password" });
        let session = client.post(PASSWORD, &body).await.body["session"].clone();
        body["auth"] = json!({ "type": "m.login.email.identity", "session": session,
            "threepid_creds": proof(&sid) });
        client.post(PASSWORD, &body).await.error(401, "M_THREEPID_AUTH_FAILED");
    }

    async fn addresses_are_added_and_removed(backend: Backend) {
        let (server, mut sink) = start(backend).await;
        let alice = server.register("alice").await;
        let bob = server.register("bob").await;
        let can = alice.get("/_matrix/client/v3/capabilities").await.ok();
        assert_eq!(can["capabilities"]["m.3pid_changes"]["enabled"], true);
        add_address(&mut sink, &alice, "alice@example.org").await;
        let path = format!("{IDS}/email/requestToken");
        let taken = bob.post(&path, &request("ALICE@example.org", 1)).await;
        taken.error(400, "M_THREEPID_IN_USE");
        // The older way, without a password.
        let sid = alice.post(&path, &request("second@example.org", 1)).await.ok()["sid"].clone();
        let old = json!({ "three_pid_creds": proof(&sid) });
        alice.post(IDS, &old).await.error(403, "M_THREEPID_AUTH_FAILED");
        click(&alice, &sink.next().await.link()).await;
        alice.post(IDS, &old).await.ok();
        assert_eq!(alice.get(IDS).await.ok()["threepids"].as_array().unwrap().len(), 2);

        let gone = json!({ "medium": "email", "address": "Alice@example.org" });
        let answer = bob.post(&format!("{IDS}/delete"), &gone).await.ok();
        assert_eq!(answer, json!({ "id_server_unbind_result": "no-support" }));
        assert_eq!(alice.get(IDS).await.ok()["threepids"].as_array().unwrap().len(), 2);
        alice.post(&format!("{IDS}/delete"), &gone).await.ok();
        let ids = alice.get(IDS).await.ok();
        assert_eq!(ids["threepids"][0]["address"], "second@example.org");
        add_address(&mut sink, &bob, "alice@example.org").await;
        let path = "/_matrix/client/v3/account/deactivate";
        let answer = alice.post_with_password(path, &json!({})).await.ok();
        assert_eq!(answer, json!({ "id_server_unbind_result": "success" }));
        add_address(&mut sink, &bob, "second@example.org").await;
    }

    async fn link_is_valid_for_a_day_and_only_as_it_is(backend: Backend) {
        let sink = MailSink::start().await;
        let clock = Clock::scripted(1_700_000_000_000, 1);
        let server = Server::start_at(backend, clock.clone(), |config| sink.configure(config));
        let (server, mut sink) = (server.await, sink);
        let client = server.client();
        let path = format!("{REGISTER}/email/requestToken");
        let sid = client.post(&path, &request("a@example.org", 1)).await.ok()["sid"].clone();
        let link = sink.next().await.link();
        let token = link.rsplit_once("token=").unwrap().1;
        let mut wrong = proof(&sid);
        wrong["token"] = "wrong".into();
        client.post(CONFIRM, &wrong).await.error(400, "M_TOKEN_INCORRECT");
        let page = client.http.get(format!("{}{CONFIRM}?sid=a&client_secret=b&token=c", server.url));
        assert_eq!(page.send().await.unwrap().status(), 400);
        clock.advance_ms(DAY_MS);
        let mut late = proof(&sid);
        late["token"] = token.into();
        client.post(CONFIRM, &late).await.error(400, "M_SESSION_EXPIRED");
        // A new session comes in the place of the old one.
        let next = client.post(&path, &request("a@example.org", 1)).await.ok()["sid"].clone();
        assert_ne!(next, sid);
        let link = sink.next().await.link();
        let mut good = proof(&next);
        good["token"] = link.rsplit_once("token=").unwrap().1.into();
        assert_eq!(client.post(CONFIRM, &good).await.ok(), json!({ "success": true }));
        late["sid"] = "unknown".into();
        client.post(CONFIRM, &late).await.error(400, "M_NO_VALID_SESSION");
    }

    async fn address_can_be_required(backend: Backend) {
        let sink = MailSink::start().await;
        let server = Server::start_with(backend, |config| {
            sink.configure(config);
            config.registration.require_email = true;
        })
        .await;
        let body = json!({ "username": "alice", "password": "password of alice" });
        let challenge = server.client().post(REGISTER, &body).await;
        for flow in challenge.body["flows"].as_array().unwrap() {
            assert_eq!(flow["stages"][0], "m.login.email.identity", "{challenge:?}");
        }
        let mut dummy = body;
        dummy["auth"] = json!({ "type": "m.login.dummy" });
        assert_eq!(server.client().post(REGISTER, &dummy).await.status, 401);
    }

    async fn terms_are_accepted_before_anything_else(backend: Backend) {
        let terms = |language: &str, name: &str| Terms {
            id: "privacy_policy".to_owned(),
            version: "1.2".to_owned(),
            language: language.to_owned(),
            name: name.to_owned(),
            url: format!("https://example.org/privacy-{language}"),
        };
        let server = Server::start_with(backend, |config| {
            config.registration.terms = vec![terms("en", "Privacy"), terms("de", "Datenschutz")];
        })
        .await;
        let client = server.client();
        let mut body = json!({ "username": "alice", "password": "password of alice" });
        let challenge = client.post(REGISTER, &body).await.body;
        let policy = &challenge["params"]["m.login.terms"]["policies"]["privacy_policy"];
        assert_eq!(*policy, json!({
            "version": "1.2",
            "en": { "name": "Privacy", "url": "https://example.org/privacy-en" },
            "de": { "name": "Datenschutz", "url": "https://example.org/privacy-de" },
        }));
        for flow in challenge["flows"].as_array().unwrap() {
            assert_eq!(flow["stages"][0], "m.login.terms");
        }
        body["auth"] = json!({ "type": "m.login.dummy", "session": challenge["session"] });
        assert_eq!(client.post(REGISTER, &body).await.status, 401);
        body["auth"]["type"] = "m.login.terms".into();
        assert_eq!(client.post(REGISTER, &body).await.body["completed"], json!(["m.login.terms"]));
        body["auth"]["type"] = "m.login.dummy".into();
        client.post(REGISTER, &body).await.ok();
    }

    async fn mails_are_limited_per_address(backend: Backend) {
        let sink = MailSink::start().await;
        let server = Server::start_with(backend, |config| {
            sink.configure(config);
            config.rate_limits.enabled = true;
            config.rate_limits.mails.burst = 2;
            config.rate_limits.mails.per_second = 0.001;
        })
        .await;
        let client = server.client();
        let path = format!("{REGISTER}/email/requestToken");
        for attempt in 1..=2 {
            client.post(&path, &request("a@example.org", attempt)).await.ok();
        }
        client.post(&path, &request("a@example.org", 3)).await.error(429, "M_LIMIT_EXCEEDED");
    }

    async fn page_passes_stages_that_a_client_does_not_know(backend: Backend) {
        let (server, mut sink) = start(backend).await;
        let client = server.client();
        let mut body = json!({ "username": "alice", "password": "password of alice" });
        let session = client.post(REGISTER, &body).await.body["session"].clone();
        let page = |kind: &str| {
            let session = session.as_str().unwrap();
            format!("{}/_matrix/client/v3/auth/{kind}/fallback/web?session={session}", server.url)
        };
        let submit = async |kind: &str, form: String| {
            let form_type = "application/x-www-form-urlencoded";
            let request = client.http.post(page(kind)).header("content-type", form_type);
            let answer = request.body(form).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            answer.text().await.unwrap()
        };
        let email = "m.login.email.identity";
        let shown = client.http.get(page(email)).send().await.unwrap().text().await.unwrap();
        assert!(shown.contains("name=\"address\""), "{shown}");
        let shown = submit(email, "address=alice%40example.org".to_owned()).await;
        let value = |name: &str| {
            let (_, rest) = shown.split_once(&format!("name=\"{name}\" value=\"")).unwrap();
            rest.split_once('"').unwrap().0.to_owned()
        };
        let form = format!("sid={}&client_secret={}", value("sid"), value("client_secret"));
        let early = submit(email, form.clone()).await;
        assert!(early.contains("not followed yet") && !early.contains("onAuthDone"), "{early}");
        click(&client, &sink.next().await.link()).await;
        let done = submit(email, form).await;
        assert!(done.contains("window.onAuthDone()"), "{done}");
        body["auth"] = json!({ "session": session });
        let challenge = client.post(REGISTER, &body).await;
        assert_eq!(challenge.body["completed"], json!([email]), "{challenge:?}");
        submit("m.login.dummy", String::new()).await;
        client.post(REGISTER, &body).await.ok();
        let gone = client.http.get(page("m.login.dummy")).send().await.unwrap();
        assert_eq!(gone.status(), 404);
    }
}
