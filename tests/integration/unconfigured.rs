//! Operations whose counterpart is not configured here: single sign-on, application services, a policy
//! server. What they answer is exact all the same.

use serde_json::json;

use crate::{both_databases, harness::Server};

both_databases! {
    async fn single_sign_on_leads_nowhere_without_a_provider(backend: Backend) {
        let server = Server::start(backend).await;
        let client = server.client();
        let path = "/_matrix/client/v3/login/sso/redirect";
        let query = "?redirectUrl=https%3A%2F%2Fapp.example.org%2F&action=login";
        client.get(&format!("{path}{query}")).await.error(404, "M_NOT_FOUND");
        client.get(&format!("{path}/github{query}")).await.error(404, "M_NOT_FOUND");
        client.get(path).await.error(400, "M_MISSING_PARAM");
        let wrong = format!("{path}?redirectUrl=https%3A%2F%2Fa&action=dance");
        client.get(&wrong).await.error(400, "M_INVALID_PARAM");
        let flows = client.get("/_matrix/client/v3/login").await.ok();
        assert!(!flows.to_string().contains("m.login.sso"));
    }

    async fn operations_of_application_services_refuse_users(backend: Backend) {
        let server = Server::start(backend).await;
        let alice = server.register("alice").await;
        let list = "/_matrix/client/v3/directory/list/appservice/irc/!room:hearth.test";
        let ping = "/_matrix/client/v1/appservice/bridge/ping";
        let public = json!({ "visibility": "public" });
        alice.put(list, &public).await.error(403, "M_FORBIDDEN");
        alice.post(ping, &json!({})).await.error(403, "M_FORBIDDEN");
        server.client().put(list, &public).await.error(401, "M_MISSING_TOKEN");
        server.client().post(ping, &json!({})).await.error(401, "M_MISSING_TOKEN");
    }

    async fn policy_server_key_is_told_when_there_is_one(backend: Backend) {
        let path = "/.well-known/matrix/policy_server";
        let key = "6yhHGKhCiXTSEN2ksjV7kX+N6rBQZ3Xb+M7LlC6NS+s";
        let server = Server::start_with(backend, |config| {
            config.well_known.policy_server_key = Some(key.to_owned());
        }).await;
        let answer = server.client().get(path).await.ok();
        assert_eq!(answer, json!({ "public_keys": { "ed25519": key } }));
        server.stop().await;
        let server = Server::start(backend).await;
        server.client().get(path).await.error(404, "M_NOT_FOUND");
    }
}
