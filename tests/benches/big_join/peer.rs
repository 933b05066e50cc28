//! The other server: real HTTPS, and answers that were written beforehand.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use hearth::{clock::Clock, federation::write_own_document};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use ruma::{OwnedRoomId, OwnedServerName};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::crowd::Crowd;

/// A server with one room, as long as the benchmark runs.
pub struct Peer {
    pub name: OwnedServerName,
    pub room_id: OwnedRoomId,
}

/// What it knows.
struct Knowledge {
    name: OwnedServerName,
    crowd: Crowd,
    state: Bytes,
    state_ids: Bytes,
}

impl Peer {
    pub async fn start(members: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("is bound").to_string();
        let name = OwnedServerName::try_from(address).expect("is a name");
        let crowd = Crowd::gather(&name, members);
        let (state, state_ids) = (crowd.write_state(), crowd.write_state_ids());
        let peer = Self { name: name.clone(), room_id: crowd.room_id.clone() };
        let knowledge = Arc::new(Knowledge { name, crowd, state, state_ids });
        let acceptor = make_acceptor();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(acceptor.clone(), stream, Arc::clone(&knowledge)));
            }
        });
        peer
    }
}

fn make_acceptor() -> TlsAcceptor {
    let issued = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
    let issued = issued.expect("is a certificate");
    let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("are there")
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .expect("fit together");
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, knowledge: Arc<Knowledge>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(|request| {
        let knowledge = Arc::clone(&knowledge);
        async move { Ok::<_, Infallible>(knowledge.answer(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new();
    // Whoever hangs up has what it wanted.
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}

impl Knowledge {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.expect("comes to its end").to_bytes();
        let path: Vec<&str> = parts.uri.path().trim_start_matches("/_matrix/").split('/').collect();
        let text = match (&parts.method, path.as_slice()) {
            (&Method::GET, ["key", "v2", "server", ..]) => self.write_keys(),
            (&Method::GET, ["federation", "v1", "make_join", _, user]) => {
                let user = percent_encoding::percent_decode_str(user).decode_utf8();
                self.crowd.write_template(&user.expect("is UTF-8"))
            }
            (&Method::PUT, ["federation", "v2", "send_join", ..]) => {
                self.crowd.write_entry(std::str::from_utf8(&body).expect("is UTF-8"))
            }
            (&Method::GET, ["federation", "v1", "state_ids", _]) => self.state_ids.clone(),
            (&Method::GET, ["federation", "v1", "state", _]) => self.state.clone(),
            (&Method::PUT, ["federation", "v1", "send", _]) => {
                Bytes::from_static(br#"{"pdus":{}}"#)
            }
            _ => {
                let unknown = Bytes::from_static(br#"{"errcode":"M_UNRECOGNIZED","error":"No."}"#);
                let mut answer = Response::new(Full::new(unknown));
                *answer.status_mut() = StatusCode::NOT_FOUND;
                return answer;
            }
        };
        Response::new(Full::new(text))
    }

    fn write_keys(&self) -> Bytes {
        let now_ms = Clock::real().now_ms();
        let document = write_own_document(&self.name, &self.crowd.key, &[], now_ms);
        Value::Object(document).to_string().into()
    }
}
