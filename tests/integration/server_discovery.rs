//! How apps, other servers and administrators find this server, and whether it is well.

use hearth::config::SupportContact;
use serde_json::json;

use crate::{both_databases, harness::Server};

const CLIENT: &str = "/.well-known/matrix/client";
const SERVER: &str = "/.well-known/matrix/server";
const SUPPORT: &str = "/.well-known/matrix/support";

both_databases! {
    async fn discovery_tells_what_is_configured(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.server.public_url = Some("https://matrix.hearth.test/".to_owned());
            config.well_known.server = Some("matrix.hearth.test:443".to_owned());
            config.well_known.support_page = Some("https://hearth.test/help".to_owned());
            config.well_known.support_contacts = vec![SupportContact {
                matrix_id: Some("@admin:hearth.test".try_into().unwrap()),
                ..SupportContact::default()
            }];
        })
        .await;
        let client = server.client();
        let homeserver = json!({ "base_url": "https://matrix.hearth.test" });
        let answer = client.get(CLIENT).await;
        assert_eq!(answer.headers["access-control-allow-origin"], "*");
        assert_eq!(answer.ok(), json!({ "m.homeserver": homeserver }));
        let expected = json!({ "m.server": "matrix.hearth.test:443" });
        assert_eq!(client.get(SERVER).await.ok(), expected);
        let contact = json!({ "matrix_id": "@admin:hearth.test", "role": "m.role.admin" });
        let expected =
            json!({ "contacts": [contact], "support_page": "https://hearth.test/help" });
        assert_eq!(client.get(SUPPORT).await.ok(), expected);
    }

    async fn discovery_that_is_not_configured_is_not_found(backend: Backend) {
        let server = Server::start(backend).await;
        for path in [CLIENT, SERVER, SUPPORT] {
            server.client().get(path).await.error(404, "M_NOT_FOUND");
        }
    }

    async fn client_address_of_its_own_wins_over_the_public_one(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.server.public_url = Some("https://matrix.hearth.test".to_owned());
            config.well_known.client_base_url = Some("https://apps.hearth.test".to_owned());
        })
        .await;
        let homeserver = json!({ "base_url": "https://apps.hearth.test" });
        let body = server.client().get(CLIENT).await.ok();
        assert_eq!(body, json!({ "m.homeserver": homeserver }));
    }

    async fn health_is_good_while_the_store_answers(backend: Backend) {
        let server = Server::start(backend).await;
        server.client().get("/health").await.ok();
        server.stop().await;
    }
}
