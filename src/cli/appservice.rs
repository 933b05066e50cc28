//! `hearth appservice …`: registers bridges and bots, and tells how they are doing, whether the server
//! runs or not.

use std::{io::Read as _, path::PathBuf};

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::{
    CommandError,
    operator::{Outcome, Request, ask},
};
use crate::{app::App, appservices::ServiceStatus, config::Config};

/// The largest registration that is read, bytes.
const REGISTRATION_BYTES_MAX: u64 = 256 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum AppserviceCommand {
    /// Register a bridge or bot by its registration file; a running server begins with it at once
    Add {
        /// The YAML file that the bridge has made; `-` for standard input
        file: PathBuf,
    },
    /// List all application services and how they are doing
    List,
    /// Show one application service
    Show {
        /// Its ID
        id: String,
    },
    /// Remove an application service; its users stay
    Remove {
        /// Its ID
        id: String,
    },
    /// Ask an application service whether it is there
    Ping {
        /// Its ID
        id: String,
    },
}

/// What is asked of the server.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AppserviceRequest {
    Add { registration: String },
    List,
    Remove { id: String },
    Ping { id: String },
}

/// An application service as `hearth appservice list` and `show` tell of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ListedAppservice {
    id: String,
    url: Option<String>,
    sender: String,
    /// The file that registers it; None for the database.
    file: Option<String>,
    protocols: Vec<String>,
    receives_ephemeral: bool,
    is_rate_limited: bool,
    behind: i64,
    /// For how long nothing has got through, seconds.
    failing_s: Option<u64>,
}

pub(super) fn run(config: &Config, command: AppserviceCommand) -> Result<(), CommandError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(perform(config, command))
}

/// Does with the components of a server what was asked; an error is a sentence.
pub(super) async fn answer(app: &App, request: AppserviceRequest) -> Result<Outcome, String> {
    let appservices = &app.appservices;
    let say = |error: &dyn std::fmt::Display| error.to_string();
    match request {
        AppserviceRequest::Add { registration } => {
            let service = appservices.add(&registration).await.map_err(|error| say(&error))?;
            Ok(Outcome::Text(format!("\"{}\" is registered, as {}.", service.id, service.sender)))
        }
        AppserviceRequest::List => {
            let statuses = appservices.list_statuses().await.map_err(|error| say(&error))?;
            let now_ms = app.clock.now_ms();
            let listed = statuses.into_iter().map(|status| ListedAppservice::new(status, now_ms));
            Ok(Outcome::Appservices(listed.collect()))
        }
        AppserviceRequest::Remove { id } => {
            appservices.remove(&id).await.map_err(|error| say(&error))?;
            Ok(Outcome::Text(format!("\"{id}\" is removed.")))
        }
        AppserviceRequest::Ping { id } => {
            let services = appservices.services();
            let service = services.find(&id);
            let service =
                service.ok_or_else(|| format!("there is no application service \"{id}\""))?;
            let took_ms = appservices.ping(service, None).await.map_err(|error| say(&error))?;
            Ok(Outcome::Text(format!("\"{id}\" answered within {took_ms} ms.")))
        }
    }
}

async fn perform(config: &Config, command: AppserviceCommand) -> Result<(), CommandError> {
    match command {
        AppserviceCommand::Add { file } => {
            say(config, AppserviceRequest::Add { registration: read(&file)? }).await
        }
        AppserviceCommand::Remove { id } => say(config, AppserviceRequest::Remove { id }).await,
        AppserviceCommand::Ping { id } => say(config, AppserviceRequest::Ping { id }).await,
        AppserviceCommand::List => {
            let services = list(config).await?;
            for service in &services {
                println!("{}{}", service.id, describe(service));
            }
            let noun = if services.len() == 1 { "service" } else { "services" };
            eprintln!("{} application {noun}", services.len());
            Ok(())
        }
        AppserviceCommand::Show { id } => {
            let services = list(config).await?;
            let found = services.iter().find(|service| service.id == id);
            let missing =
                || CommandError::Refused(format!("there is no application service \"{id}\""));
            show(found.ok_or_else(missing)?);
            Ok(())
        }
    }
}

async fn say(config: &Config, request: AppserviceRequest) -> Result<(), CommandError> {
    match ask(config, Request::Appservice { request }).await? {
        Outcome::Text(text) => {
            println!("{text}");
            Ok(())
        }
        Outcome::Refused(reason) => Err(CommandError::Refused(reason)),
        _ => Err(CommandError::OtherVersion),
    }
}

async fn list(config: &Config) -> Result<Vec<ListedAppservice>, CommandError> {
    match ask(config, Request::Appservice { request: AppserviceRequest::List }).await? {
        Outcome::Appservices(services) => Ok(services),
        Outcome::Refused(reason) => Err(CommandError::Refused(reason)),
        _ => Err(CommandError::OtherVersion),
    }
}

fn describe(service: &ListedAppservice) -> String {
    match service.failing_s {
        Some(failing_s) => {
            format!("  (silent for {}, {} behind)", duration(failing_s), service.behind)
        }
        None if service.url.is_none() => "  (wants no events)".to_owned(),
        None if service.behind > 0 => format!("  (catches up, {} behind)", service.behind),
        None => String::new(),
    }
}

fn show(service: &ListedAppservice) {
    let yes_no = |is_so: bool| if is_so { "yes" } else { "no" };
    println!("{}{}", service.id, describe(service));
    println!("  address: {}", service.url.as_deref().unwrap_or("none"));
    println!("  acts as: {}", service.sender);
    println!("  registered by: {}", service.file.as_deref().unwrap_or("command"));
    println!("  rate limits for its users: {}", yes_no(service.is_rate_limited));
    println!("  gets typing, receipts and presence: {}", yes_no(service.receives_ephemeral));
    if !service.protocols.is_empty() {
        println!("  protocols: {}", service.protocols.join(", "));
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

fn read(file: &std::path::Path) -> Result<String, CommandError> {
    let mut text = String::new();
    // One byte more, so that what is too large is told to be so.
    let bytes_max = REGISTRATION_BYTES_MAX + 1;
    if file == std::path::Path::new("-") {
        std::io::stdin().lock().take(bytes_max).read_to_string(&mut text)?;
        return Ok(text);
    }
    let failed = |error: std::io::Error| {
        CommandError::Refused(format!("{} cannot be read: {error}", file.display()))
    };
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(bytes_max).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

impl ListedAppservice {
    fn new(status: ServiceStatus, now_ms: u64) -> Self {
        let ServiceStatus { service, behind, failing_since_ts } = status;
        let since = failing_since_ts.map(i64::cast_unsigned);
        Self {
            id: service.id.clone(),
            url: service.url.clone(),
            sender: service.sender.to_string(),
            file: service.file.clone(),
            protocols: service.protocols.clone(),
            receives_ephemeral: service.receives_ephemeral,
            is_rate_limited: service.is_rate_limited,
            behind,
            failing_s: since.map(|since| now_ms.saturating_sub(since) / 1000),
        }
    }
}
