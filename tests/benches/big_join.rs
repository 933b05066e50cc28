//! Entering a room of many members through another server: how long until the room can be used, until all
//! members are known, and how much memory that takes. The other server is made up: a process of its own
//! that has its answers ready, so that only Hearth is measured.
//!
//! `cargo bench --bench big_join -- --binary target/release/hearth [--members 50000] [--database URL]`

#![expect(clippy::unwrap_used, reason = "a benchmark may fail by panicking")]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::{
    collections::HashMap,
    convert::Infallible,
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hearth::{
    federation::write_own_document,
    protocol::{
        authorisation::list_auth_event_keys, event::Event, event_builder::EventDraft,
        room_version::RoomVersion, signing::SigningKey,
    },
};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, UserId};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use tempfile::TempDir;

const VERSION: RoomVersion = RoomVersion::V11;

/// What the other server knows.
struct Peer {
    name: OwnedServerName,
    key: SigningKey,
    room_id: OwnedRoomId,
    /// The state by type and state key, with the members.
    state: HashMap<(String, String), Event>,
    tip: Event,
    depth: i64,
    whole: Bytes,
    ids: Bytes,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let find = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1).cloned()
    };
    let members = find("--members").map_or(50_000, |text| text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match find("--peer") {
        Some(directory) => runtime.block_on(serve(Path::new(&directory), members)),
        None => {
            let Some(binary) = find("--binary") else {
                // As a plain `cargo test --benches` calls it.
                return println!("nothing is measured without --binary PATH");
            };
            runtime.block_on(measure(&binary, find("--database").as_deref(), members));
        }
    }
}

async fn measure(binary: &str, database: Option<&str>, members: usize) {
    let directory = TempDir::new().unwrap();
    issue_certificates(directory.path());
    let (mut peer, peer_facts) = start_peer(directory.path(), members);
    let [peer_name, room_id] = <[String; 2]>::try_from(peer_facts).unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    let mut hearth = start_hearth(directory.path(), binary, database, &url);
    let http = reqwest::Client::new();
    while http.get(format!("{url}/_matrix/client/versions")).send().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let body = json!({
        "username": "alice", "password": "only for this", "auth": { "type": "m.login.dummy" },
    });
    let login = http.post(format!("{url}/_matrix/client/v3/register")).json(&body);
    let login: Value = login.send().await.unwrap().json().await.unwrap();
    let token = login["access_token"].as_str().unwrap();
    let before = read_memory(hearth.id());

    let began = Instant::now();
    let path = format!("{url}/_matrix/client/v3/join/{room_id}?via={peer_name}");
    let joined = http.post(path).bearer_auth(token).json(&json!({})).send().await.unwrap();
    assert_eq!(joined.status(), 200, "{}", joined.text().await.unwrap());
    println!("usable after        {:>8.2} s", began.elapsed().as_secs_f64());
    let path = format!("{url}/_matrix/client/v3/rooms/{room_id}/send/m.room.message/1");
    let text = json!({ "msgtype": "m.text", "body": "here" });
    let said = http.put(path).bearer_auth(token).json(&text).send().await.unwrap();
    assert_eq!(said.status(), 200);
    println!("spoken after        {:>8.2} s", began.elapsed().as_secs_f64());
    let path = format!("{url}/_matrix/client/v3/rooms/{room_id}/joined_members");
    let found = http.get(path).bearer_auth(token).send().await.unwrap();
    println!("whole after         {:>8.2} s", began.elapsed().as_secs_f64());
    let found: Value = found.json().await.unwrap();
    assert_eq!(found["joined"].as_object().unwrap().len(), members + 1);
    let after = read_memory(hearth.id());
    println!("resident before     {:>8} MiB", before.0 >> 10);
    println!("resident afterwards {:>8} MiB", after.0 >> 10);
    println!("resident at most    {:>8} MiB", after.1 >> 10);
    println!("processor time      {:>8.2} s", read_cpu_seconds(hearth.id()));
    for process in [&mut hearth, &mut peer] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn issue_certificates(directory: &Path) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Authority of a benchmark");
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    fs::write(directory.join("peer.pem"), certificate.pem()).unwrap();
    fs::write(directory.join("peer.key"), key.serialize_pem()).unwrap();
}

/// The process, and its server's name and the room's ID.
fn start_peer(directory: &Path, members: usize) -> (Child, Vec<String>) {
    let mut peer = Command::new(std::env::current_exe().unwrap())
        .args(["--peer", directory.to_str().unwrap(), "--members", &members.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(peer.stdout.take().unwrap()).lines();
    let facts = lines.take(2).map(|line| line.unwrap()).collect();
    (peer, facts)
}

fn start_hearth(directory: &Path, binary: &str, database: Option<&str>, url: &str) -> Child {
    let path = |name: &str| directory.join(name).display().to_string();
    let (address, door) = (url.trim_start_matches("http://"), free_port());
    let configuration = format!(
        "[server]\nname = \"127.0.0.1:{door}\"\ndata_dir = \"{}\"\n\
         [[listen]]\naddress = \"{address}\"\napis = [\"client\"]\n\
         [[listen]]\naddress = \"127.0.0.1:{door}\"\napis = [\"federation\"]\n\
         tls.certificate = \"{}\"\ntls.key = \"{}\"\n\
         [database]\nurl = \"{}\"\n[registration]\nmode = \"open\"\n\
         [rate_limits]\nenabled = false\n[logging]\nlevel = \"info\"\n\
         [federation]\nallow_private_networks = true\nca_files = [\"{}\"]\nkey_servers = []\n",
        path("data"),
        path("peer.pem"),
        path("peer.key"),
        database.unwrap_or_default(),
        path("ca.pem"),
    );
    fs::write(path("hearth.toml"), configuration).unwrap();
    let mut command = Command::new(binary);
    command.args(["serve", "--config", &path("hearth.toml")]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Resident memory now and at most, KiB.
fn read_memory(process: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let find = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (find("VmRSS:"), find("VmHWM:"))
}

fn read_cpu_seconds(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |place: usize| fields[place].parse::<f64>().unwrap();
    // User and system time, in hundredths of a second on Linux.
    (ticks(11) + ticks(12)) / 100.0
}

async fn serve(directory: &Path, members: usize) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let certificate = CertificateDer::from_pem_file(directory.join("peer.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("peer.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let peer = Arc::new(Peer::new(&name, members));
    println!("{name}\n{}", peer.room_id);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, peer) = (acceptor.clone(), Arc::clone(&peer));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let answer = |request| {
                let peer = Arc::clone(&peer);
                async move { Ok::<_, Infallible>(peer.answer(request).await) }
            };
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

impl Peer {
    /// A room with its founder and further members.
    fn new(name: &str, members: usize) -> Self {
        let name = OwnedServerName::try_from(name).unwrap();
        let founder = format!("@founder:{name}");
        let room_id = RoomId::parse(format!("!crowd:{name}")).unwrap();
        let key = SigningKey::from_seed("bench", &[7; 32]).unwrap();
        let content = json!({ "creator": founder, "room_version": VERSION.as_str() });
        let (state, empty) = (HashMap::new(), Bytes::new());
        let create = draft(&room_id, &founder, ("m.room.create", ""), content);
        let tip = create.seal(VERSION.rules(), &name, &key).unwrap();
        let (whole, ids) = (empty.clone(), empty);
        let mut peer = Self { name, key, room_id, state, tip, depth: 1, whole, ids };
        peer.note(peer.tip.clone());
        peer.add(&founder, ("m.room.member", &founder), json!({ "membership": "join" }));
        let levels = json!({ "users": { &founder: 100 } });
        peer.add(&founder, ("m.room.power_levels", ""), levels);
        peer.add(&founder, ("m.room.join_rules", ""), json!({ "join_rule": "public" }));
        peer.add(&founder, ("m.room.name", ""), json!({ "name": "Crowd" }));
        for number in 1..members {
            let user = format!("@member{number}:{}", peer.name);
            let content = json!({ "membership": "join", "displayname": format!("No. {number}") });
            peer.add(&user, ("m.room.member", &user), content);
        }
        let chain: Vec<&str> = peer.chain().map(|event| event.json()).collect();
        let pdus: Vec<&str> = peer.state.values().map(|event| event.json()).collect();
        let whole =
            format!("{{\"auth_chain\":[{}],\"pdus\":[{}]}}", chain.join(","), pdus.join(","));
        let ids = |events: Vec<&Event>| -> Vec<String> {
            events.iter().map(|event| event.event_id().to_string()).collect()
        };
        let ids = json!({
            "pdu_ids": ids(peer.state.values().collect()), "auth_chain_ids": ids(peer.chain().collect()),
        });
        peer.whole = whole.into();
        peer.ids = ids.to_string().into();
        peer
    }

    fn note(&mut self, event: Event) {
        let key = event.state_key().unwrap().to_owned();
        self.state.insert((event.kind().to_owned(), key), event);
    }

    fn add(&mut self, sender: &str, key: (&str, &str), content: Value) {
        let event = self.next(sender, key, content).seal(VERSION.rules(), &self.name, &self.key);
        self.tip = event.unwrap();
        self.depth += 1;
        self.note(self.tip.clone());
    }

    fn next(&self, sender: &str, key: (&str, &str), content: Value) -> EventDraft {
        let mut draft = draft(&self.room_id, sender, key, content);
        draft.prev_events = vec![self.tip.event_id().to_owned()];
        draft.depth = self.depth + 1;
        let keys = list_auth_event_keys(VERSION.rules(), &draft);
        let found = keys.iter().filter_map(|key| self.state.get(key));
        draft.auth_events = found.map(|event| event.event_id().to_owned()).collect();
        draft
    }

    /// What authorised all of it: everything but the members, and the founder.
    fn chain(&self) -> impl Iterator<Item = &Event> {
        let founder = format!("@founder:{}", self.name);
        self.state.values().filter(move |event| {
            event.kind() != "m.room.member" || event.state_key() == Some(&founder)
        })
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let is_partial = request.uri().query().is_some_and(|q| q.contains("omit_members=true"));
        let method = request.method().clone();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let parts: Vec<&str> = path.trim_start_matches("/_matrix/").split('/').collect();
        let text: Bytes = match (method, parts.as_slice()) {
            (Method::GET, ["key", "v2", "server", ..]) => {
                let document = write_own_document(&self.name, &self.key, &[], now_ms());
                Value::Object(document).to_string().into()
            }
            (Method::GET, ["federation", "v1", "make_join", _, user]) => {
                let user = percent_encoding::percent_decode_str(user).decode_utf8().unwrap();
                let draft =
                    self.next(&user, ("m.room.member", &user), json!({ "membership": "join" }));
                let template = draft.into_template(VERSION.rules(), &self.name).unwrap();
                json!({ "room_version": VERSION.as_str(), "event": template }).to_string().into()
            }
            (Method::PUT, ["federation", "v2", "send_join", ..]) => self.let_in(is_partial, &body),
            (Method::GET, ["federation", "v1", "state_ids", _]) => self.ids.clone(),
            (Method::GET, ["federation", "v1", "state", _]) => self.whole.clone(),
            (Method::PUT, ["federation", "v1", "send", _]) => Bytes::from_static(b"{\"pdus\":{}}"),
            _ => {
                let mut answer = Response::new(Full::new(Bytes::from_static(b"{}")));
                *answer.status_mut() = StatusCode::NOT_FOUND;
                return answer;
            }
        };
        Response::new(Full::new(text))
    }

    fn let_in(&self, is_partial: bool, event: &Bytes) -> Bytes {
        let all = || self.state.values();
        let state: Vec<&str> = match is_partial {
            true => all().filter(|e| e.kind() != "m.room.member").map(|e| e.json()).collect(),
            false => all().map(|event| event.json()).collect(),
        };
        let chain: Vec<&str> = self.chain().map(|event| event.json()).collect();
        format!(
            "{{\"auth_chain\":[{}],\"event\":{},\"members_omitted\":{is_partial},\
             \"servers_in_room\":[\"{}\"],\"state\":[{}]}}",
            chain.join(","),
            std::str::from_utf8(event).unwrap(),
            self.name,
            state.join(","),
        )
        .into()
    }
}

fn draft(room_id: &RoomId, sender: &str, (kind, key): (&str, &str), content: Value) -> EventDraft {
    EventDraft {
        room_id: Some(room_id.to_owned()),
        sender: UserId::parse(sender).unwrap(),
        kind: kind.to_owned(),
        state_key: Some(key.to_owned()),
        content,
        prev_events: Vec::new(),
        auth_events: Vec::new(),
        depth: 1,
        origin_server_ts: now_ms().cast_signed(),
        redacts: None,
        opaque_names: None,
    }
}

fn now_ms() -> u64 {
    hearth::clock::Clock::real().now_ms()
}
