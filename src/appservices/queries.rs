//! Questions to services: users and aliases that do not exist yet (application-service API,
//! "Querying"), third-party networks, and whether a service is there ("Pinging").

use std::{sync::Arc, time::Duration};

use hyper::Method;
use ruma::{RoomAliasId, UserId};
use serde_json::{Map, Value, json};

use super::{
    Appservices,
    registration::Service,
    wire::{Path, WireError},
};

/// How long a service may take for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to make a room or a user.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a question without an answer is asked, and the pause between.
const ATTEMPTS_MAX: u32 = 3;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(250);
/// Third-party users or locations in one answer.
const RESULTS_MAX: usize = 1000;

/// Why nobody knows whether something exists.
#[derive(Debug, thiserror::Error)]
#[error("the application service {id} does not answer: {error}")]
pub struct QueryError {
    pub id: String,
    pub error: WireError,
}

impl Appservices {
    /// Has the services that this user belongs to make them; whether one did.
    pub async fn query_user(&self, user: &UserId) -> Result<bool, QueryError> {
        let claims = |service: &Service| service.namespaces.users.matches(user.as_str());
        self.query(claims, &Path::user(user.as_str())).await
    }

    /// Has the services that this alias belongs to make it; whether one did.
    pub async fn query_alias(&self, alias: &RoomAliasId) -> Result<bool, QueryError> {
        let claims = |service: &Service| service.namespaces.aliases.matches(alias.as_str());
        self.query(claims, &Path::room(alias.as_str())).await
    }

    /// Asks a service whether it is there; the time that it took in milliseconds. A service that
    /// is there gets at once what waits for it.
    pub async fn ping(
        &self,
        service: &Service,
        transaction_id: Option<&str>,
    ) -> Result<u64, WireError> {
        let body = match transaction_id {
            Some(id) => json!({ "transaction_id": id }),
            None => json!({}),
        };
        let began = self.0.rooms.clock().instant();
        let body = Some(body.to_string().into());
        let (wire, path) = (&self.0.wire, Path::ping());
        wire.request(service, Method::POST, &path, body, ANSWER_TIMEOUT).await?;
        self.note_life(&service.id);
        Ok(began.elapsed().as_millis() as u64)
    }

    /// What the services say of a protocol: that of the first, with the instances of all, each with
    /// its `instance_id`.
    pub async fn find_protocol(&self, protocol: &str) -> Option<Value> {
        let mut found: Option<Map<String, Value>> = None;
        for service in self.list_of_protocol(Some(protocol)) {
            let path = Path::third_party("protocol", Some(protocol), &[]);
            let Some(Value::Object(mut answer)) = self.ask(&service, &path).await else { continue };
            let instances = match answer.remove("instances") {
                Some(Value::Array(instances)) => instances,
                _ => Vec::new(),
            };
            let instances = instances.into_iter().filter_map(|mut instance| {
                let network = instance.get("network_id")?.as_str()?;
                let id = instance_id(&service.id, network);
                instance.as_object_mut()?.insert("instance_id".to_owned(), id.into());
                Some(instance)
            });
            let merged = found.get_or_insert(answer);
            let all = merged.entry("instances").or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(all) = all {
                all.extend(instances);
            }
        }
        found.map(Value::Object)
    }

    /// All protocols of all services.
    pub async fn list_protocols(&self) -> Map<String, Value> {
        let services = self.services();
        let names = services.list().iter().flat_map(|service| service.protocols.clone());
        let mut protocols = Map::new();
        for name in names {
            if !protocols.contains_key(&name)
                && let Some(protocol) = self.find_protocol(&name).await
            {
                protocols.insert(name, protocol);
            }
        }
        protocols
    }

    /// Users or locations (`kind`) that the services of a protocol, or all, know.
    pub async fn look_up(
        &self,
        kind: &str,
        protocol: Option<&str>,
        query: &[(String, String)],
    ) -> Vec<Value> {
        let path = Path::third_party(kind, protocol, query);
        let mut found = Vec::new();
        for service in self.list_of_protocol(protocol) {
            if let Some(Value::Array(some)) = self.ask(&service, &path).await {
                let is_result = |result: &Value| {
                    let id = if kind == "user" { "userid" } else { "alias" };
                    let has_texts = result[id].is_string() && result["protocol"].is_string();
                    has_texts && result["fields"].is_object()
                };
                found.extend(some.into_iter().filter(is_result));
            }
        }
        found.truncate(RESULTS_MAX);
        found
    }

    /// Whether any service has this protocol.
    pub fn has_protocol(&self, protocol: &str) -> bool {
        !self.list_of_protocol(Some(protocol)).is_empty()
    }

    async fn query(
        &self,
        claims: impl Fn(&Service) -> bool,
        path: &Path,
    ) -> Result<bool, QueryError> {
        let services = self.services();
        let claiming = services.list().iter().filter(|service| claims(service));
        for service in claiming.filter(|service| service.url.is_some()) {
            match self.ask_patiently(service, path).await {
                Ok(()) => return Ok(true),
                Err(WireError::Status { status, .. }) if !status.is_server_error() => {}
                Err(error) => return Err(QueryError { id: service.id.clone(), error }),
            }
        }
        Ok(false)
    }

    /// "If the homeserver does not receive a response to this request, the homeserver should retry
    /// several times before timing out."
    async fn ask_patiently(&self, service: &Service, path: &Path) -> Result<(), WireError> {
        let mut attempt = 1;
        loop {
            let wire = &self.0.wire;
            match wire.request(service, Method::GET, path, None, QUERY_TIMEOUT).await {
                Ok(_) => return Ok(()),
                Err(error) => match error {
                    WireError::Connection(_) if attempt < ATTEMPTS_MAX => attempt += 1,
                    error => return Err(error),
                },
            }
            tokio::time::sleep(ATTEMPT_PAUSE).await;
        }
    }

    async fn ask(&self, service: &Service, path: &Path) -> Option<Value> {
        match self.0.wire.request(service, Method::GET, path, None, ANSWER_TIMEOUT).await {
            Ok(body) => serde_json::from_slice(&body).ok(),
            Err(error) => {
                tracing::debug!(appservice.id = service.id, %error, "a service knows nothing");
                None
            }
        }
    }

    fn list_of_protocol(&self, protocol: Option<&str>) -> Vec<Arc<Service>> {
        let has = |service: &&Arc<Service>| match protocol {
            Some(protocol) => service.protocols.iter().any(|known| known == protocol),
            None => !service.protocols.is_empty(),
        };
        self.services().list().iter().filter(has).cloned().collect()
    }
}

/// The name of a network on this server; see [`read_instance_id`].
pub fn instance_id(service: &str, network: &str) -> String {
    format!("{service}|{network}")
}

/// Service and network of an `instance_id`.
pub fn read_instance_id(instance_id: &str) -> Option<(&str, &str)> {
    instance_id.split_once('|')
}
