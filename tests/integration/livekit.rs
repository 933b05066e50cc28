//! Calls on a LiveKit server (MatrixRTC, MSC4143 and MSC4195): a real one judges the tokens that this
//! server gives to members of a room.

use std::process::Command;

use hearth::config::{Config, Secret};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    both_databases,
    conversation::make_room,
    harness::{Backend, Client, Network, ScriptedPeer, Server, run_pair_test},
};

const KEY: &str = "hearth";
const SECRET: &str = "a secret of both, of at least 32 characters";
const OLD_PATH: &str = "/livekit/jwt/sfu/get";
const PATH: &str = "/livekit/jwt/get_token";

/// A running LiveKit.
struct Livekit {
    directory: TempDir,
    url: String,
}

impl Livekit {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let text = Self::run(&["start", "--key", KEY, "--secret", SECRET], &directory);
        let url = text.lines().find_map(|line| line.strip_prefix("url=")).unwrap().to_owned();
        Self { directory, url }
    }

    fn run(words: &[&str], directory: &TempDir) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/livekit");
        let output = Command::new(script).args(words).arg(directory.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn configure(&self, config: &mut Config) {
        configure(config, &self.url);
    }

    /// The status with which LiveKit answers who wants to enter with a token.
    async fn enter(&self, token: &str) -> u16 {
        let address = self.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /rtc?access_token={token}&protocol=15&auto_subscribe=1 HTTP/1.1\r\nHost: {address}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).await.unwrap();
        let status = std::str::from_utf8(&line[9..]).unwrap().parse().unwrap();
        // Whoever is in the call stays there until the end of the test.
        std::mem::forget(stream);
        status
    }
}

impl Drop for Livekit {
    fn drop(&mut self) {
        Self::run(&["stop"], &self.directory);
    }
}

fn configure(config: &mut Config, url: &str) {
    config.livekit.url = Some(url.replace("http://", "ws://"));
    config.livekit.key = Some(KEY.to_owned());
    config.livekit.secret = Some(Secret::new(SECRET));
}

async fn openid_token(client: &Client) -> Value {
    let user = &client.user_id;
    let path = format!("/_matrix/client/v3/user/{user}/openid/request_token");
    client.post(&path, &json!({})).await.ok()
}

fn entry(room: &str, token: &Value, client: &Client) -> Value {
    json!({
        "room_id": room, "slot_id": "m.call#ROOM", "openid_token": token,
        "member": {
            "id": "member", "claimed_user_id": client.user_id, "claimed_device_id": client.device_id,
        },
    })
}

fn old_entry(room: &str, token: &Value, client: &Client) -> Value {
    json!({ "room": room, "openid_token": token, "device_id": client.device_id })
}

fn jwt(answer: &Value) -> String {
    answer["jwt"].as_str().unwrap().to_owned()
}

both_databases! {
    async fn who_is_no_member_gets_no_token(backend: Backend) {
        // Nothing listens there: nobody who is asked for below gets that far.
        let server = Server::start_with(backend, |config| configure(config, "http://127.0.0.1:1")).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = make_room(&[&alice]).await;
        let anybody = server.client();
        let (alices, bobs) = (openid_token(&alice).await, openid_token(&bob).await);
        anybody.post(PATH, &entry(&room, &bobs, &bob)).await.error(403, "M_FORBIDDEN");
        anybody.post(OLD_PATH, &old_entry(&room, &bobs, &bob)).await.error(403, "M_FORBIDDEN");
        anybody.post(PATH, &entry("!none:hearth.test", &alices, &alice)).await.error(403, "M_FORBIDDEN");
        // With the token of another, and with none.
        anybody.post(PATH, &entry(&room, &bobs, &alice)).await.error(401, "M_UNAUTHORIZED");
        let mut wrong = alices.clone();
        wrong["access_token"] = "guessed".into();
        anybody.post(PATH, &entry(&room, &wrong, &alice)).await.error(401, "M_UNAUTHORIZED");
        anybody.post(PATH, &json!({ "room_id": room })).await.error(400, "M_BAD_JSON");
        let mut delegating = entry(&room, &alices, &alice);
        delegating["delay_id"] = "x".into();
        anybody.post(PATH, &delegating).await.error(400, "M_BAD_JSON");
        // A member would be let in if LiveKit answered.
        anybody.post(PATH, &entry(&room, &alices, &alice)).await.error(502, "M_UNKNOWN");
        server.stop().await;

        let server = Server::start(backend).await;
        let (alice, anybody) = (server.reconnect(&alice), server.client());
        let token = openid_token(&alice).await;
        anybody.post(PATH, &entry(&room, &token, &alice)).await.error(404, "M_NOT_FOUND");
        server.stop().await;
    }

    async fn who_is_out_or_is_named_by_a_liar_gets_no_token(backend: Backend) {
        let network = Network::new();
        let name = network.new_name();
        let server = network
            .start_with(backend, &name, |config| configure(config, "http://127.0.0.1:1"))
            .await;
        let peer = ScriptedPeer::start(&network).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = make_room(&[&alice, &bob]).await;
        let anybody = server.client();
        let bobs = openid_token(&bob).await;
        let base = format!("/_matrix/client/v3/rooms/{room}");
        let ban = json!({ "user_id": bob.user_id });
        for (client, path, body) in [
            (&bob, format!("{base}/leave"), &json!({})),
            (&alice, format!("{base}/invite"), &ban),
            (&alice, format!("{base}/ban"), &ban),
        ] {
            client.post(&path, body).await.ok();
            anybody.post(PATH, &entry(&room, &bobs, &bob)).await.error(403, "M_FORBIDDEN");
        }
        // No server speaks for the users of another.
        let userinfo = "/_matrix/federation/v1/openid/userinfo";
        peer.reply_json(userinfo, json!({ "sub": alice.user_id }));
        let lie = json!({
            "access_token": "x", "token_type": "Bearer", "expires_in": 3600,
            "matrix_server_name": peer.name,
        });
        anybody.post(PATH, &entry(&room, &lie, &alice)).await.error(401, "M_UNAUTHORIZED");
        anybody.post(OLD_PATH, &old_entry(&room, &lie, &alice)).await.error(401, "M_UNAUTHORIZED");
        assert_eq!(peer.list_asked(userinfo).len(), 2);
        // Its own user is known by then, and is not in the room.
        peer.reply_json(userinfo, json!({ "sub": format!("@carol:{}", peer.name) }));
        anybody.post(OLD_PATH, &old_entry(&room, &lie, &alice)).await.error(403, "M_FORBIDDEN");
        let alices = openid_token(&alice).await;
        let mut long = entry(&room, &alices, &alice);
        long["slot_id"] = "x".repeat(5000).into();
        anybody.post(PATH, &long).await.error(400, "M_BAD_JSON");
        server.stop().await;
    }

    async fn clients_are_told_where_calls_take_place(backend: Backend) {
        let server = Server::start_with(backend, |config| {
            config.server.public_url = Some("https://matrix.example.org/".to_owned());
            config.well_known.livekit_service_urls = vec!["https://other.example.org".to_owned()];
            configure(config, "http://127.0.0.1:1");
        }).await;
        let foci = json!([
            { "type": "livekit", "livekit_service_url": "https://matrix.example.org/livekit/jwt" },
            { "type": "livekit", "livekit_service_url": "https://other.example.org" },
        ]);
        let answer = server.client().get("/.well-known/matrix/client").await.ok();
        assert_eq!(answer["org.matrix.msc4143.rtc_foci"], foci);
        let alice = server.register("alice").await;
        let path = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";
        assert_eq!(alice.get(path).await.ok()["rtc_transports"], foci);
        server.client().get("/livekit/jwt/healthz").await.ok();
        server.stop().await;
    }
}

#[test]
fn livekit_lets_members_in_and_keeps_strangers_out() {
    let livekit = Livekit::start();
    run_pair_test(Backend::sqlite, async |one, two| {
        let network = Network::new();
        let (name, other_name) = (network.new_name(), network.new_name());
        let server = network.start_with(one, &name, |config| livekit.configure(config)).await;
        let other = network.start(two, &other_name).await;
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let carol = other.register("carol").await;
        let room = make_room(&[&alice, &bob]).await;
        let join = format!("/_matrix/client/v3/join/{room}?server_name={name}");
        carol.post(&join, &json!({})).await.ok();
        let anybody = server.client();

        // Somebody of another server comes to a call, and begins none.
        let carols = openid_token(&carol).await;
        let early = anybody.post(PATH, &entry(&room, &carols, &carol)).await.ok();
        assert_eq!(early["url"], livekit.url.replace("http://", "ws://"));
        assert_eq!(livekit.enter(&jwt(&early)).await, 404);

        let alices = openid_token(&alice).await;
        let answer = anybody.post(PATH, &entry(&room, &alices, &alice)).await.ok();
        let token = jwt(&answer);
        assert_eq!(livekit.enter(&token).await, 101);
        let bobs = openid_token(&bob).await;
        let answer = anybody.post(OLD_PATH, &old_entry(&room, &bobs, &bob)).await.ok();
        assert_eq!(livekit.enter(&jwt(&answer)).await, 101);
        assert_eq!(livekit.enter(&jwt(&early)).await, 101);

        // A stranger has no token, a token of their own making, or one that was changed.
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let swapped: String = signature.chars().rev().collect();
        for wrong in ["", "x.y.z", &format!("{signed}."), &format!("{signed}.{swapped}")] {
            assert_eq!(livekit.enter(wrong).await, 401, "{wrong}");
        }
        server.stop().await;
        other.stop().await;
    });
}
