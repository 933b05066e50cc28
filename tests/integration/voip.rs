//! Client-Server API, "Voice over IP": logins for relays; a real coturn judges them.

use std::process::Command;

use hearth::config::{Config, Secret};
use serde_json::json;

use crate::{
    both_databases,
    harness::{Backend, Server, run_test},
};

const PATH: &str = "/_matrix/client/v3/voip/turnServer";

fn share_secret(config: &mut Config) {
    config.voip.turn_uris = vec!["turn:127.0.0.1:3478?transport=udp".to_owned()];
    config.voip.turn_secret = Some(Secret::new("the secret of both"));
}

/// Starts a coturn that shares `secret`, and asks it for a relay.
fn coturn_takes(secret: &str, user: &str, password: &str) -> bool {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/coturn");
    let mut command = Command::new(script);
    command.args(["--secret", secret, "--user", user, "--password", password]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)) && text.is_empty(), "{output:?}");
    output.status.success()
}

both_databases! {
    async fn logins_for_relays_come_from_the_secret_or_the_configuration(backend: Backend) {
        let server = Server::start_with(backend, share_secret).await;
        let alice = server.register("alice").await;
        let login = alice.get(PATH).await.ok();
        assert_eq!(login["uris"], json!(["turn:127.0.0.1:3478?transport=udp"]));
        assert_eq!(login["ttl"], 86_400);
        assert!(login["username"].as_str().unwrap().ends_with(":@alice:hearth.test"));
        server.client().get(PATH).await.error(401, "M_MISSING_TOKEN");
        server.stop().await;

        let server = Server::start_with(backend, |config| {
            config.voip.turn_uris = vec!["turns:turn.example.org".to_owned()];
            config.voip.turn_username = Some("everybody".to_owned());
            config.voip.turn_password = Some(Secret::new("the same"));
        }).await;
        let login = server.reconnect(&alice).get(PATH).await.ok();
        assert_eq!((&login["username"], &login["password"]), (&json!("everybody"), &json!("the same")));
        server.stop().await;

        let server = Server::start(backend).await;
        assert_eq!(server.reconnect(&alice).get(PATH).await.ok()["uris"], json!([]));
    }
}

#[test]
fn coturn_takes_logins_that_this_server_gives_out() {
    run_test(Backend::sqlite, async |backend| {
        let server = Server::start_with(backend, share_secret).await;
        let login = server.register("alice").await.get(PATH).await.ok();
        let text = |key: &str| login[key].as_str().unwrap().to_owned();
        let (user, password) = (text("username"), text("password"));
        assert!(coturn_takes("the secret of both", &user, &password));
        assert!(!coturn_takes("another secret", &user, &password));
    });
}
