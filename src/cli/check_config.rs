//! `hearth check-config`: says what a configuration means, once it has turned out to be right.

use super::CommandError;
use crate::{
    appservices,
    config::{Config, DatabaseLocation},
};

pub(super) fn run(config: &Config) -> Result<(), CommandError> {
    let services = appservices::read_all(&config.appservices, &[], &config.server.name)
        .map_err(|error| CommandError::Refused(error.to_string()))?;
    println!("The configuration is right.");
    println!("  server name   {}", config.server.name);
    println!("  public url    {}", config.public_url());
    println!("  data          {}", config.server.data_dir.display());
    println!("  database      {}", describe_database(config));
    for listener in &config.listen {
        let encryption = if listener.tls_files().is_some() { ", TLS" } else { "" };
        println!("  listens on    {}{encryption}", listener.address);
    }
    for service in services.list() {
        println!("  appservice    {}", service.id);
    }
    Ok(())
}

/// Never the address of a PostgreSQL, which may carry a password.
pub(super) fn describe_database(config: &Config) -> String {
    match config.database_location() {
        DatabaseLocation::Sqlite(path) => format!("SQLite, {}", path.display()),
        DatabaseLocation::Postgres(_) => "PostgreSQL".to_owned(),
    }
}
