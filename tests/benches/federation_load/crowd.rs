//! Many other servers in one process: each has a name, a door with TLS and one user in the room, and takes what it is
//! sent. They are honest and quick.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::Bytes;
use hearth::{
    clock::Clock,
    federation::write_own_document,
    protocol::{
        event::Event,
        event_builder::{EventDraft, seal_object},
        room_version::{RoomRules, RoomVersion},
        signing::SigningKey,
    },
};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::rig::{place::SERVER_NAME, process::Process};

const VERSION: RoomVersion = RoomVersion::V11;

/// A message that reached a server of the crowd: which of them, its text, and when.
pub struct Arrival {
    pub server: usize,
    pub text: String,
    pub at: Instant,
}

pub struct Crowd {
    pub members: Vec<Member>,
    room_id: OwnedRoomId,
    tip: Arc<Mutex<Tip>>,
    http: reqwest::Client,
    door: String,
}

/// One of the servers, with its user.
pub struct Member {
    name: OwnedServerName,
    user: OwnedUserId,
    key: SigningKey,
    auth_events: Vec<OwnedEventId>,
}

/// The latest event that anybody here knows.
struct Tip {
    event_id: Option<OwnedEventId>,
    depth: i64,
}

impl Crowd {
    /// Opens so many servers, whose users all join the room.
    pub async fn join(
        process: &Process,
        room: &str,
        servers: usize,
        arrivals: &UnboundedSender<Arrival>,
    ) -> Self {
        let tip = Arc::new(Mutex::new(Tip { event_id: None, depth: 0 }));
        let tls = make_tls();
        let room_id = OwnedRoomId::try_from(room).expect("is a room ID");
        let (http, door) = (process.http.clone(), process.url.clone());
        let mut crowd = Self { members: Vec::new(), room_id, tip, http, door };
        for number in 0..servers {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("is free");
            let address = listener.local_addr().expect("is bound");
            let name = OwnedServerName::try_from(address.to_string()).expect("is a name");
            let witness = Witness {
                number,
                name: name.clone(),
                arrivals: arrivals.clone(),
                // All are sent the same, so that one of them is enough to know it.
                tip: (number == 0).then(|| Arc::clone(&crowd.tip)),
            };
            tokio::spawn(serve(listener, tls.clone(), Arc::new(witness)));
            crowd.enter(name, number).await;
        }
        crowd
    }

    async fn enter(&mut self, name: OwnedServerName, number: usize) {
        let user = OwnedUserId::try_from(format!("@u{number}:{name}")).expect("is a user ID");
        let mut member = Member { name, user, key: key(), auth_events: Vec::new() };
        let (room_id, user, rules) = (&self.room_id, &member.user, VERSION.rules());
        let path = format!("/_matrix/federation/v1/make_join/{room_id}/{user}?ver={VERSION}");
        let template = self.ask(&member, Method::GET, &path, None).await;
        let Value::Object(mut event) = template["event"].clone() else {
            panic!("no template: {template}");
        };
        event.insert("origin_server_ts".to_owned(), Clock::real().now_ms().into());
        let join = seal_object(event, rules, &member.name, &member.key).expect("is an event");
        let path = format!("/_matrix/federation/v2/send_join/{room_id}/{}", join.event_id());
        let body = Value::Object(join.to_object());
        let answer = self.ask(&member, Method::PUT, &path, Some(&body)).await;
        let state = answer["state"].as_array().unwrap_or_else(|| panic!("no state: {answer}"));
        for event in state {
            let kind = event["type"].as_str();
            if matches!(kind, Some("m.room.create" | "m.room.power_levels")) {
                member.auth_events.push(parse(event, rules).event_id().to_owned());
            }
        }
        member.auth_events.push(join.event_id().to_owned());
        self.tip.lock().expect("nobody panics with it").advance(&join);
        self.members.push(member);
    }

    /// Has the user of a server say something.
    pub async fn say(&self, server: usize, text: &str) {
        let member = &self.members[server];
        let draft = {
            let tip = self.tip.lock().expect("nobody panics with it");
            EventDraft {
                room_id: Some(self.room_id.clone()),
                sender: member.user.clone(),
                kind: "m.room.message".to_owned(),
                state_key: None,
                content: json!({ "msgtype": "m.text", "body": text }),
                prev_events: tip.event_id.iter().cloned().collect(),
                auth_events: member.auth_events.clone(),
                depth: tip.depth + 1,
                origin_server_ts: Clock::real().now_ms().cast_signed(),
                redacts: None,
                sticky_ms: None,
                opaque_names: None,
            }
        };
        let event = draft.seal(VERSION.rules(), &member.name, &member.key).expect("is an event");
        let pdu = Value::Object(event.to_object());
        let body = json!({
            "origin": member.name, "origin_server_ts": Clock::real().now_ms(), "pdus": [pdu],
        });
        let path = format!("/_matrix/federation/v1/send/{text}");
        let answer = self.ask(member, Method::PUT, &path, Some(&body)).await;
        let verdict = &answer["pdus"][event.event_id().as_str()];
        assert_eq!(verdict, &json!({}), "{text}: {answer}");
        // What nobody has taken yet is not built upon: these servers do not tell each other.
        self.tip.lock().expect("nobody panics with it").advance(&event);
    }

    /// Asks the server under test, signed as the specification says ("Request Authentication").
    async fn ask(
        &self,
        member: &Member,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Value {
        let mut signed = Map::new();
        let parts = [("method", method.as_str()), ("uri", path), ("origin", member.name.as_str())];
        for (name, value) in parts.into_iter().chain([("destination", SERVER_NAME)]) {
            signed.insert(name.to_owned(), value.into());
        }
        signed.extend(body.map(|body| ("content".to_owned(), body.clone())));
        member.key.sign_json(&mut signed, member.name.as_str());
        let key_id = member.key.key_id();
        let signature = &signed["signatures"][member.name.as_str()][key_id];
        let header = format!(
            "X-Matrix origin=\"{}\",destination=\"{SERVER_NAME}\",key=\"{key_id}\",sig={signature}",
            member.name
        );
        let request = self.http.request(method, format!("{}{path}", self.door));
        let request = request.header("Authorization", header);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.expect("answers");
        answer.json().await.expect("is JSON")
    }
}

impl Tip {
    fn advance(&mut self, event: &Event) {
        if event.depth() > self.depth {
            self.depth = event.depth();
            self.event_id = Some(event.event_id().to_owned());
        }
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed("crowd", &[9; 32]).expect("is a seed")
}

fn parse(event: &Value, rules: &RoomRules) -> Event {
    Event::parse(&event.to_string(), rules).expect("is an event")
}

/// What a server of the crowd does with requests.
struct Witness {
    number: usize,
    name: OwnedServerName,
    arrivals: UnboundedSender<Arrival>,
    tip: Option<Arc<Mutex<Tip>>>,
}

impl Witness {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.expect("is whole").to_bytes();
        if path.starts_with("/_matrix/key/v2/server") {
            let document = write_own_document(&self.name, &key(), &[], Clock::real().now_ms());
            return Response::new(Full::new(Value::Object(document).to_string().into()));
        }
        if !path.starts_with("/_matrix/federation/v1/send/") {
            let mut answer = Response::new(Full::new(Bytes::from_static(b"{}")));
            *answer.status_mut() = hyper::StatusCode::NOT_FOUND;
            return answer;
        }
        let at = Instant::now();
        let transaction: Value = serde_json::from_slice(&body).expect("is JSON");
        for pdu in transaction["pdus"].as_array().into_iter().flatten() {
            if let Some(tip) = &self.tip {
                let event = parse(pdu, VERSION.rules());
                tip.lock().expect("nobody panics with it").advance(&event);
            }
            if let Some(text) = pdu["content"]["body"].as_str() {
                let arrival = Arrival { server: self.number, text: text.to_owned(), at };
                self.arrivals.send(arrival).expect("somebody counts");
            }
        }
        Response::new(Full::new(Bytes::from_static(b"{\"pdus\":{}}")))
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    tls: tokio_rustls::TlsAcceptor,
    witness: Arc<Witness>,
) {
    loop {
        let (stream, _) = listener.accept().await.expect("listens");
        let (tls, witness) = (tls.clone(), Arc::clone(&witness));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let answer = |request| {
                let witness = Arc::clone(&witness);
                async move { Ok::<_, Infallible>(witness.answer(request).await) }
            };
            let builder = auto::Builder::new(TokioExecutor::new());
            // It may go away whenever it likes.
            let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

fn make_tls() -> tokio_rustls::TlsAcceptor {
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
    let issued = issued.expect("is a name");
    let certificate = CertificateDer::from(issued.cert.der().to_vec());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("are known")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("belong together");
    tokio_rustls::TlsAcceptor::from(Arc::new(config))
}
