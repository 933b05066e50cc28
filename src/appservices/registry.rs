//! All registered services: from files and from the database, found by ID and by token. A set never
//! changes; a new one takes its place.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use ruma::{ServerName, UserId};

use super::registration::{Registration, RegistrationError, Service};
use crate::{config::AppservicesConfig, storage::appservices::StoredRegistration};

/// Services of one server.
pub const SERVICES_MAX: usize = 1000;

/// Why a registration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegisterServiceError {
    #[error("the registration {place} {error}")]
    Invalid { place: String, error: RegistrationError },
    #[error("the registration {place} cannot be read: {error}")]
    Unreadable { place: PathBuf, error: std::io::Error },
    #[error("the registration {place} has the `{field}` of another one, {other}")]
    Clash { place: String, field: &'static str, other: String },
    #[error(
        "the registrations {place} and {other} both claim {identifier} for themselves alone; \
         change one of their exclusive namespaces"
    )]
    SharedSender { place: String, other: String, identifier: String },
    #[error("there are more than 1000 registrations")]
    TooMany,
}

/// The services of one moment.
#[derive(Debug, Default)]
pub struct Services {
    all: Vec<Arc<Service>>,
    by_token: HashMap<[u8; 32], usize>,
}

impl Services {
    /// Puts registrations together that get along.
    pub fn new(services: Vec<Arc<Service>>) -> Result<Self, RegisterServiceError> {
        if services.len() > SERVICES_MAX {
            return Err(RegisterServiceError::TooMany);
        }
        for (number, service) in services.iter().enumerate() {
            for other in &services[..number] {
                check_pair(service, other)?;
            }
        }
        let tokens = services.iter().enumerate();
        let by_token = tokens.map(|(number, service)| (service.as_token_hash, number)).collect();
        Ok(Self { all: services, by_token })
    }

    /// In the order of their numbers.
    pub fn list(&self) -> &[Arc<Service>] {
        &self.all
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn find(&self, id: &str) -> Option<&Arc<Service>> {
        self.all.iter().find(|service| service.id == id)
    }

    /// The service whose `as_token` has this hash.
    pub fn find_by_token(&self, hash: &[u8; 32]) -> Option<&Arc<Service>> {
        self.by_token.get(hash).map(|number| &self.all[*number])
    }

    /// The service that alone may have this user, unless it is the one that asks.
    pub fn find_owner_of_user(&self, user: &UserId, asking: Option<&str>) -> Option<&Arc<Service>> {
        let owns = |service: &&Arc<Service>| {
            service.sender == user || service.namespaces.users.claims(user.as_str())
        };
        let mut others = self.all.iter().filter(|service| Some(&*service.id) != asking);
        others.find(owns)
    }

    /// The service that alone may have this alias, unless it is the one that asks.
    pub fn find_owner_of_alias(&self, alias: &str, asking: Option<&str>) -> Option<&Arc<Service>> {
        let mut others = self.all.iter().filter(|service| Some(&*service.id) != asking);
        others.find(|service| service.namespaces.aliases.claims(alias))
    }
}

/// Reads the registrations that the configuration names and those of the database.
pub fn read_all(
    config: &AppservicesConfig,
    stored: &[StoredRegistration],
    server_name: &ServerName,
) -> Result<Services, RegisterServiceError> {
    let mut services = Vec::new();
    for path in config.list_files() {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| RegisterServiceError::Unreadable { place: path.clone(), error })?;
        services.push(Arc::new(read_file(&path, &text, server_name)?));
    }
    for StoredRegistration { id, registration } in stored {
        services.push(Arc::new(read_stored(id, registration, server_name)?));
    }
    Services::new(services)
}

/// Reads a registration that is, or is to be, in the database.
pub fn read_stored(
    place: &str,
    text: &str,
    server_name: &ServerName,
) -> Result<Service, RegisterServiceError> {
    Registration::parse(text)
        .and_then(|registration| registration.compile(server_name, None))
        .map_err(|error| RegisterServiceError::Invalid { place: place.to_owned(), error })
}

fn read_file(
    path: &Path,
    text: &str,
    server_name: &ServerName,
) -> Result<Service, RegisterServiceError> {
    let place = path.display().to_string();
    Registration::parse(text)
        .and_then(|registration| registration.compile(server_name, Some(place.clone())))
        .map_err(|error| RegisterServiceError::Invalid { place, error })
}

/// IDs and tokens name one service each ("The homeserver MUST enforce this"); and a user as whom a
/// service acts is not claimed by another one.
fn check_pair(service: &Service, other: &Service) -> Result<(), RegisterServiceError> {
    let clash = |field| RegisterServiceError::Clash {
        place: describe(service),
        field,
        other: describe(other),
    };
    if service.id == other.id {
        return Err(clash("id"));
    }
    if service.as_token_hash == other.as_token_hash {
        return Err(clash("as_token"));
    }
    if service.sender == other.sender {
        return Err(clash("sender_localpart"));
    }
    for (one, two) in [(service, other), (other, service)] {
        if one.namespaces.users.claims(two.sender.as_str()) {
            return Err(RegisterServiceError::SharedSender {
                place: describe(one),
                other: describe(two),
                identifier: two.sender.to_string(),
            });
        }
    }
    Ok(())
}

fn describe(service: &Service) -> String {
    match &service.file {
        Some(file) => format!("{file} ({})", service.id),
        None => format!("\"{}\" of the database", service.id),
    }
}
