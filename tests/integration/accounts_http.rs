//! What holds for every endpoint: unknown paths, wrong methods, missing and foreign tokens.

use reqwest::Method;

use crate::{both_databases, harness::Server};

both_databases! {
    async fn versions_are_listed_for_everyone(backend: Backend) {
        let server = Server::start(backend).await;
        let body = server.client().get("/_matrix/client/versions").await.ok();
        assert!(body["versions"].as_array().unwrap().contains(&"v1.19".into()));
        server.stop().await;
    }

    async fn unknown_endpoints_and_methods_are_unrecognized(backend: Backend) {
        let server = Server::start(backend).await;
        let client = server.client();
        for path in ["/", "/_matrix/client/v3/nothing", "/_matrix/client/v9/login", "/_matrix"] {
            client.get(path).await.error(404, "M_UNRECOGNIZED");
        }
        let versions = "/_matrix/client/versions";
        client.delete(versions).await.error(405, "M_UNRECOGNIZED");
        client.send_text(Method::PATCH, versions, "{}").await.error(405, "M_UNRECOGNIZED");
    }

    async fn data_survive_a_stop_and_a_kill(backend: Backend) {
        Server::start(backend).await.stop().await;
        Server::start(backend).await.kill().await;
        let server = Server::start(backend).await;
        server.client().get("/_matrix/client/versions").await.ok();
    }
}
