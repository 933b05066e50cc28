//! Bodies of requests, given to the whole server without a network: never its own fault (500), never an
//! answer that is no JSON.

use std::sync::OnceLock;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
};
use hearth::{
    app::App,
    clock::Clock,
    config::{Argon2Config, Config, RegistrationMode, Size},
    http::router::build_router,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

const V3: &str = "/_matrix/client/v3";
/// Answers are small: no request asks for much.
const ANSWER_BYTES_MAX: usize = 1 << 24;

/// Endpoints whose bodies have a shape of their own; `ROOM` and `USER` stand for the seeded ones.
const ENDPOINTS: [(Method, &str, &str); 24] = [
    (Method::PUT, "/rooms/ROOM/send/m.room.message/TXN", r#"{"msgtype":"m.text","body":"hello"}"#),
    (
        Method::PUT,
        "/rooms/ROOM/send/m.reaction/TXN",
        r#"{"m.relates_to":{"rel_type":"m.annotation","event_id":"$x","key":"+"}}"#,
    ),
    (
        Method::PUT,
        "/rooms/ROOM/state/m.room.power_levels",
        r#"{"users":{"USER":100},"events":{"a":1}}"#,
    ),
    (
        Method::PUT,
        "/rooms/ROOM/state/m.room.member/USER",
        r#"{"membership":"join","displayname":"A"}"#,
    ),
    (
        Method::PUT,
        "/rooms/ROOM/state/m.room.canonical_alias",
        r##"{"alias":"#a:b","alt_aliases":["#c:d"]}"##,
    ),
    (
        Method::PUT,
        "/rooms/ROOM/state/m.room.join_rules",
        r#"{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!a:b"}]}"#,
    ),
    (
        Method::POST,
        "/createRoom",
        r#"{"preset":"public_chat","name":"n","topic":"t","invite":["@bob:localhost"],
        "initial_state":[{"type":"a","state_key":"b","content":{}}],"creation_content":{"m.federate":false},
        "power_level_content_override":{"users":{}},"room_version":"11","room_alias_name":"x"}"#,
    ),
    (Method::POST, "/rooms/ROOM/invite", r#"{"user_id":"@bob:localhost","reason":"r"}"#),
    (Method::POST, "/rooms/ROOM/ban", r#"{"user_id":"@bob:localhost","reason":"r"}"#),
    (Method::POST, "/rooms/ROOM/receipt/m.read/$event", r#"{"thread_id":"main"}"#),
    (Method::POST, "/rooms/ROOM/read_markers", r#"{"m.fully_read":"$a","m.read":"$b"}"#),
    (Method::PUT, "/rooms/ROOM/typing/USER", r#"{"typing":true,"timeout":30000}"#),
    (Method::POST, "/user/USER/filter", r#"{"room":{"timeline":{"limit":5,"types":["*"]}}}"#),
    (Method::PUT, "/user/USER/account_data/x", r#"{"a":{"b":[1,null]}}"#),
    (Method::PUT, "/user/USER/rooms/ROOM/tags/u.work", r#"{"order":0.5}"#),
    (Method::PUT, "/profile/USER/displayname", r#"{"displayname":"Alice"}"#),
    (
        Method::PUT,
        "/pushrules/global/override/x",
        r#"{"actions":["notify"],"conditions":[{"kind":"event_match","key":"type","pattern":"m.*"}]}"#,
    ),
    (Method::PUT, "/presence/USER/status", r#"{"presence":"online","status_msg":"here"}"#),
    (
        Method::POST,
        "/publicRooms",
        r#"{"limit":5,"filter":{"generic_search_term":"x"},"since":"p1"}"#,
    ),
    (Method::POST, "/user_directory/search", r#"{"search_term":"al","limit":5}"#),
    (
        Method::POST,
        "/login",
        r#"{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},
        "password":"wrong","device_id":"D","initial_device_display_name":"x","refresh_token":true}"#,
    ),
    (
        Method::POST,
        "/register",
        r#"{"username":"x","password":"y","auth":{"type":"m.login.dummy","session":"s"}}"#,
    ),
    (Method::PUT, "/devices/PHONE", r#"{"display_name":"phone"}"#),
    (Method::POST, "/keys/query", r#"{"device_keys":{"USER":[]},"timeout":10}"#),
];

/// A server with a user in a room.
struct Subject {
    runtime: Runtime,
    router: Router,
    token: String,
    user: String,
    room: String,
    _data: TempDir,
}

/// The server is made once: libFuzzer calls a function of bytes and nothing else.
static SUBJECT: OnceLock<Subject> = OnceLock::new();

pub fn run(input: &[u8]) -> String {
    let Some((number, body)) = input.split_first() else { return "empty".to_owned() };
    let number = usize::from(*number) % ENDPOINTS.len();
    let subject = SUBJECT.get_or_init(Subject::start);
    let (method, path, _) = &ENDPOINTS[number];
    let transaction = body.len().to_string();
    let path = path.replace("ROOM", &subject.room).replace("USER", &subject.user);
    let path = path.replace("TXN", &transaction);
    let (status, answer) = subject.call(method, &path, body.to_vec());
    assert!(status != StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}: {status} {answer}");
    assert!(status.is_success() || !answer.is_null(), "{method} {path}: {status}");
    let code = answer["errcode"].as_str().unwrap_or_default();
    format!("{number} {status} {code} {}", kind_of(&answer["error"]))
}

/// The words of a message, without what it quotes.
fn kind_of(message: &Value) -> String {
    let text = message.as_str().unwrap_or_default();
    text.split(['"', '`', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
        .next()
        .unwrap_or_default()
        .to_owned()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let seeds = ENDPOINTS.iter().enumerate();
    seeds.map(|(number, (_, _, body))| [&[number as u8], body.as_bytes()].concat()).collect()
}

impl Subject {
    fn start() -> Self {
        let data = TempDir::new().unwrap();
        let mut config = Config::default();
        config.server.data_dir = data.path().to_owned();
        config.registration.mode = RegistrationMode::Open;
        config.rate_limits.enabled = false;
        // No other server is looked for.
        config.federation.enabled = false;
        config.users.argon2 = Argon2Config { memory: Size::kib(8), iterations: 1, parallelism: 1 };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let app = runtime.block_on(App::build(config, Clock::real())).unwrap();
        let router = build_router(app);
        let mut subject = Self {
            runtime,
            router,
            token: String::new(),
            user: String::new(),
            room: String::new(),
            _data: data,
        };
        let body = json!({ "username": "alice", "password": "password of a", "device_id": "PHONE",
            "auth": { "type": "m.login.dummy" } });
        let answer = subject.must_post("/register", &body);
        subject.token = answer["access_token"].as_str().unwrap().to_owned();
        subject.user = answer["user_id"].as_str().unwrap().to_owned();
        subject.must_post(
            "/register",
            &json!({ "username": "bob", "password": "password of a",
            "auth": { "type": "m.login.dummy" } }),
        );
        let answer = subject.must_post("/createRoom", &json!({ "preset": "public_chat" }));
        subject.room = answer["room_id"].as_str().unwrap().to_owned();
        subject
    }

    fn must_post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(&Method::POST, path, body.to_string().into());
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    fn call(&self, method: &Method, path: &str, body: Vec<u8>) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(format!("{V3}{path}"));
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        let request = request.body(Body::from(body)).unwrap();
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let status = response.status();
            let bytes = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await.unwrap();
            (status, serde_json::from_slice(&bytes).unwrap_or_default())
        })
    }
}
