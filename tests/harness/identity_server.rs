//! An identity server for tests, which believes everything: it binds whatever address a session's ID
//! names, signs with one key, and counts what it is asked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use hearth::protocol::{canonical_json, signing::SigningKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Network;

/// A running identity server; it ends with the test.
pub struct IdentityServer {
    pub name: String,
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    key: SigningKey,
    state: Mutex<Knowledge>,
}

#[derive(Default)]
struct Knowledge {
    /// Users by address.
    bound: HashMap<String, String>,
    requests: Vec<String>,
    key_is_revoked: bool,
}

impl IdentityServer {
    pub async fn start(network: &Network) -> Self {
        let name = network.new_name();
        let shared = Arc::new(Shared {
            name: name.clone(),
            key: SigningKey::from_seed("0", &[7; 32]).unwrap(),
            state: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        network.serve(&name, router).await;
        Self { name, shared }
    }

    /// The access that a client has.
    pub fn access(&self) -> Value {
        json!({ "id_server": self.name, "id_access_token": "good" })
    }

    pub fn invitation(&self, address: &str) -> Value {
        let mut invitation = self.access();
        invitation["medium"] = "email".into();
        invitation["address"] = address.into();
        invitation
    }

    pub fn bind(&self, address: &str, user_id: &str) {
        let mut state = self.shared.state.lock().unwrap();
        state.bound.insert(address.to_owned(), user_id.to_owned());
    }

    pub fn find(&self, address: &str) -> Option<String> {
        self.shared.state.lock().unwrap().bound.get(address).cloned()
    }

    pub fn revoke_key(&self) {
        self.shared.state.lock().unwrap().key_is_revoked = true;
    }

    /// Paths of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    /// What says that a user has taken an invitation.
    pub fn sign(&self, user_id: &str, token: &str) -> Value {
        let mut signed = json!({ "mxid": user_id, "token": token });
        let signature = self.shared.key.sign(canonical_json::encode(&signed).as_bytes());
        signed["signatures"] = json!({ &self.name: { self.shared.key.key_id(): signature } });
        signed
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    uri: Uri,
    body: Bytes,
) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = uri.path().trim_start_matches("/_matrix/identity/v2");
    let mut state = shared.state.lock().unwrap();
    state.requests.push(path.to_owned());
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    let is_signed = headers
        .get_all("authorization")
        .iter()
        .all(|header| header.to_str().unwrap().starts_with("X-Matrix origin="));
    if path == "/3pid/unbind" && is_signed {
        let address = body["threepid"]["address"].as_str().unwrap_or_default();
        state.bound.remove(address);
        return written(StatusCode::OK, &json!({}));
    }
    if path.starts_with("/pubkey") {
        return written(StatusCode::OK, &json!({ "valid": !state.key_is_revoked }));
    }
    if headers.get("authorization").is_none_or(|header| header != "Bearer good") {
        let error = json!({ "errcode": "M_UNAUTHORIZED", "error": "Who are you?" });
        return written(StatusCode::UNAUTHORIZED, &error);
    }
    let answer = match path {
        "/hash_details" => json!({ "lookup_pepper": "salt", "algorithms": ["sha256"] }),
        "/lookup" => {
            let hash = |address: &str| {
                let text = format!("{address} email {}", body["pepper"].as_str().unwrap());
                BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(text.as_bytes()))
            };
            let mappings: HashMap<_, _> =
                state.bound.iter().map(|(address, user)| (hash(address), user)).collect();
            let wanted = body["addresses"][0].as_str().unwrap();
            json!({ "mappings": mappings.get(wanted).map(|user| json!({ wanted: user }))
                .unwrap_or_else(|| json!({})) })
        }
        "/store-invite" => {
            let url = format!("https://{}/_matrix/identity/v2/pubkey/isvalid", shared.name);
            let key = json!({ "public_key": shared.key.public_key_base64(),
                "key_validity_url": url });
            json!({ "token": format!("token{}", state.requests.len()), "public_keys": [key],
                "display_name": "b...@e..." })
        }
        "/3pid/bind" => {
            let address = text("sid");
            state.bound.insert(address.clone(), text("mxid"));
            json!({ "medium": "email", "address": address, "mxid": text("mxid") })
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    written(StatusCode::OK, &answer)
}

fn written(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
